"""Shards of a latent cache: read as they were written, by others too, and in one line where they are damaged."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from data.latents.reading import Prompts, matched, prompt_name
from data.latents.shards import DTYPES, Entry, ShardSet, Unfinished


def tensors(seed: int) -> dict[str, Tensor]:
    """One of each dtype, one of them empty; every entry has shapes of its own."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, dtype in DTYPES.items():
        values = torch.randint(0, 2 if dtype is torch.bool else 100, (seed + 1, 3), generator=generator)
        made[name.lower()] = values.to(dtype)
    return {**made, "nothing": torch.empty(3, 0, 4, dtype=torch.uint8)}


ENTRIES = [
    Entry(f"clip {n}, “né”", {} if n == 2 else tensors(n), "it is cut off" if n == 2 else "", 5, 8, 16 + n, n % 2)
    for n in range(5)
]


def filled(folder: Path) -> ShardSet:
    shards = ShardSet(folder, len(ENTRIES), 2)
    for shard in (1, 2, 0):
        shards.write(shard, [ENTRIES[n] for n in shards.numbers(shard)])
    assert shards.finish()
    return shards


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].dtype == each.dtype and torch.equal(found[name], each) for name, each in wanted.items()
    )


def test_entries_come_back_whoever_reads_them(tmp_path: Path) -> None:
    shards = filled(tmp_path)
    for number, entry in enumerate(ENTRIES):
        about = shards.about(number)
        assert same(shards.read(about), dict(entry.tensors))
        assert all(about[name] == getattr(entry, name) for name in Entry._fields if name != "tensors")
        with safe_open(shards.file(number // 2), "pt") as file:  # the library itself
            held = {key: file.get_tensor(key) for key in file.keys() if key.startswith(f"{number % 2}.")}  # noqa: SIM118
        assert same(held, {f"{number % 2}.{name}": each for name, each in entry.tensors.items()})
    again = filled(tmp_path / "again")
    for file in ("000000.safetensors", "000002.safetensors", "index.arrow"):
        assert (tmp_path / file).read_bytes() == (again.folder / file).read_bytes()


def test_an_index_is_made_when_all_shards_are_whole(tmp_path: Path) -> None:
    shards = filled(tmp_path)
    whole = shards.file(1).read_bytes()
    index = (tmp_path / "index.arrow").read_bytes()
    (tmp_path / "index.arrow").unlink()
    for spoilt in (whole[:-1], whole + b"x", whole[:4], b"", whole.replace(b"data_offsets", b"data_offsetz", 1)):
        shards.file(1).write_bytes(spoilt)
        assert shards.missing() == [1] and not shards.finish()
        with pytest.raises(Unfinished, match="is not finished: 1 of 3 shards are missing; the same command"):
            _ = ShardSet(tmp_path, 5, 2).table
    shards.file(1).write_bytes(whole)
    assert shards.finish() and (tmp_path / "index.arrow").read_bytes() == index


def test_damage_is_named(tmp_path: Path) -> None:
    shards = filled(tmp_path)
    about = shards.about(4)
    whole = shards.file(2).read_bytes()
    shards.file(2).write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(ValueError, match="000002.safetensors is damaged at .*another checksum.*: remove it") as caught:
        shards.read(about)
    assert "\n" not in str(caught.value)
    shards.file(2).write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="it ends too early"):
        shards.read(about)
    shards.file(2).unlink()
    with pytest.raises(ValueError, match="No such file or directory"):
        shards.read(about)
    for spoilt in (b"", b"ARROW1", (tmp_path / "index.arrow").read_bytes()[:-20]):
        (tmp_path / "index.arrow").write_bytes(spoilt)
        with pytest.raises(ValueError, match="index.arrow is damaged, or of another cache; remove it"):
            _ = ShardSet(tmp_path, 5, 2).table
    filled(tmp_path)
    with pytest.raises(ValueError, match="index.arrow is damaged, or of another cache; remove it"):
        _ = ShardSet(tmp_path, 6, 2).table


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = ShardSet(tmp_path, 2, 2)

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="000000.safetensors cannot be written: No space left on device. .* the same"):
        shards.write(0, ENTRIES[:2])
    assert list(tmp_path.iterdir()) == []


def test_names_are_matched_in_their_order(tmp_path: Path) -> None:
    there = pa.array(["a", "b", "a", "c"])
    assert matched(there, there).tolist() == [0, 1, 2, 3]
    assert matched(pa.array(["c", "a", "d", "a", "a"]), there).tolist() == [3, 0, -1, 2, -1]


def test_prompts_are_found_among_many(tmp_path: Path) -> None:
    prompts = ["", "a cat", *(f"a cat number {n}" for n in range(300))]
    shards = ShardSet(tmp_path, len(prompts), 128)
    rows = [{"tokens.text": torch.full((n % 3, 2), float(n))} for n in range(len(prompts))]
    for shard in range(len(shards)):
        shards.write(shard, [Entry(prompt_name(prompts[n]), rows[n]) for n in shards.numbers(shard)])
    shards.finish()
    about: dict[str, Any] = {"format": 1, "prompts": len(prompts), "per_shard": 128}
    (tmp_path / "about.json").write_text(json.dumps(about))
    found = Prompts([tmp_path])
    for number in np.random.default_rng(0).permutation(len(prompts))[:40]:
        read = found.read(prompts[number])
        assert read is not None and same(read, rows[number])
    assert found.holds("") and not found.holds("a dog") and found.read("a dog") is None
