"""What keeps weights from being written is said in one line, and nothing is left half-written."""

from __future__ import annotations

import os
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dit.interop import to_diffusers
from dit.interop.original import to_original
from dit.interop.presets import build_empty, compose
from dit.net.backbone import Backbone
from tests import commands

ROOT = Path(__file__).resolve().parents[2]


def network(preset: str, *overrides: str) -> Backbone:
    net = build_empty(compose(preset, overrides)).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(0.5)
    return net


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Within: no file can be larger than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, kept)


@pytest.mark.parametrize("shard_bytes", [10**9, 200_000])
def test_a_full_disk(shard_bytes: int, tmp_path: Path) -> None:
    net = network("wan21_tiny")
    with full_disk(100_000), pytest.raises(ValueError, match=r"/new cannot be written: [^\n]*$"):
        to_diffusers(net, tmp_path / "new", shard_bytes)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_under_an_original_checkpoint(tmp_path: Path) -> None:
    net = network("dit_s_2", "net.depth=1")
    with full_disk(100_000), pytest.raises(ValueError, match=r"/new.safetensors cannot be written: [^\n]*$"):
        to_original(net, tmp_path / "new.safetensors", 8)
    assert list(tmp_path.iterdir()) == []


def test_no_place_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match=r"/file/new cannot be written: [^\n]*$"):
        to_diffusers(network("wan21_tiny"), tmp_path / "file" / "new")
    with pytest.raises(ValueError, match=r"/nowhere/new.safetensors cannot be written: [^\n]*$"):
        to_original(network("dit_s_2", "net.depth=1"), tmp_path / "nowhere" / "new.safetensors", 8)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("umask, file, folder", [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770), (0o077, 0o600, 0o700)])
def test_who_may_read_what_is_written(umask: int, file: int, folder: int, tmp_path: Path) -> None:
    """What the umask allows, not its owner alone, as safetensors and temporary folders have it."""
    before = os.umask(umask)
    try:
        to_diffusers(network("wan21_tiny"), tmp_path / "new", 200_000)
        to_original(network("dit_s_2", "net.depth=1"), tmp_path / "new.safetensors", 8)
    finally:
        os.umask(before)
    written = [tmp_path / "new.safetensors", *(tmp_path / "new").iterdir()]
    assert len(written) > 4
    assert {stat.S_IMODE(each.stat().st_mode) for each in written} == {file}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == folder


@pytest.mark.slow
def test_killed_while_it_writes(tmp_path: Path) -> None:
    """The folder is whole or not there; here the process dies when its first shard is on disk."""
    job = (
        "import os, signal, dit.interop.files as files\n"
        "from tests.interop.test_writing import network\n"
        "from dit.interop import to_diffusers\n"
        "save = files.write_weights\n"
        "files.write_weights = lambda *a, **k: (save(*a, **k), os.kill(os.getpid(), signal.SIGKILL))\n"
        "to_diffusers(network('wan21_tiny'), 'new', 200_000)\n"
    )
    (tmp_path / "job.py").write_text(job)
    (folder := tmp_path / "here").mkdir()
    done = commands.run(str(tmp_path / "job.py"), cwd=folder)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = list(folder.iterdir())
    assert not (folder / "new").exists() and len(left) == 1 and left[0].name.startswith(".new-")
    to_diffusers(network("wan21_tiny"), folder / "new")  # what was left is in nobody's way
