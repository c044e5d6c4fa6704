"""No bit of a file of torch.save can change without being noticed."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dit.checkpoint import archive
from dit.checkpoint.averages import load_snapshots
from dit.sampling.checkpoint import Checkpoint
from tests.engine.small import same

CONTENT: dict[str, Any] = {
    "state_dict": {f"net.{i}": torch.randn(7, 5) for i in range(3)}, "config": {"name": "tiny", "rates": [0.1, 2]},
    "global_step": 60,
}  # fmt: skip


def test_whole_files_load(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "a.ckpt")
    assert archive.damage(tmp_path / "a.ckpt") is None
    assert same(archive.load(tmp_path / "a.ckpt"), CONTENT) == []


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    """Anywhere in the file. What is neither name, size, place nor content of a record may change: padding, dates."""
    file = tmp_path / "a.ckpt"
    torch.save(CONTENT, file)
    written, draw, noticed = file.read_bytes(), random.Random(0), 0
    for _ in range(300):
        spoilt = bytearray(written)
        place = draw.randrange(len(spoilt))
        spoilt[place] ^= 1 << draw.randrange(8)
        file.write_bytes(spoilt)
        try:
            assert same(archive.load(file), CONTENT) == [], f"byte {place}"
        except archive.Damaged as error:
            assert "\n" not in str(error)
            noticed += 1
    assert noticed > 100


def test_each_bit_of_a_tensor_counts(tmp_path: Path) -> None:
    file, row = tmp_path / "a.ckpt", torch.arange(1.0, 9.0)
    torch.save({"state_dict": {"net.x": row}, "config": {}}, file)
    written = file.read_bytes()
    place = written.index(row.numpy().tobytes())
    for bit in range(8 * row.nbytes):
        spoilt = bytearray(written)
        spoilt[place + bit // 8] ^= 1 << bit % 8
        file.write_bytes(spoilt)
        with pytest.raises(archive.Damaged, match="bits of its record .*data/0 have changed"):
            archive.load(file)
    with pytest.raises(ValueError, match=r"a.ckpt cannot be read as a checkpoint \(bits of its record .*take another"):
        Checkpoint.load(file)


def test_what_is_no_archive(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    torch.save(CONTENT, file)
    whole = file.read_bytes()
    for content in (b"", b"text", whole[:-1], whole[: len(whole) // 2], whole[1:]):
        file.write_bytes(content)
        with pytest.raises(archive.Damaged):
            archive.load(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a/data.pkl", bytes(10**6))
    assert archive.damage(file) == "its record a/data.pkl is compressed"
    with pytest.raises(archive.Damaged):
        archive.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        archive.load(tmp_path / "none")


def test_snapshots_are_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "ema").mkdir()
    file = tmp_path / "ema/step-00000001-a.ckpt"
    torch.save({"step": 1, "sigma_rel": 0.1, "weights": {"x": torch.ones(3)}}, file)
    assert load_snapshots(tmp_path)[0].step == 1
    file.write_bytes(file.read_bytes().replace(torch.ones(3).numpy().tobytes(), torch.zeros(3).numpy().tobytes()))
    with pytest.raises(ValueError, match="step-00000001-a.ckpt cannot be read"):
        load_snapshots(tmp_path)
