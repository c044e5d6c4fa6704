"""What several tests of runs share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.data.videos import write_numbered


@pytest.fixture(scope="session")
def model_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder and a text encoder in miniature."""
    pytest.importorskip("transformers")
    from tests.codec.autoencoders import saved  # which need diffusers
    from tests.codec.test_vae import leave, network
    from tests.text import tiny

    folder = tmp_path_factory.mktemp("parts")
    saved("wan 2.1", folder / "vae")
    tiny.save(folder, tokenizer=tiny.unigram(), text_encoder=tiny.t5())
    leave(folder / "ours", network(dtype=torch.float32))
    return folder


@pytest.fixture
def clip_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six clips in two classes: one cannot be read, one is an image, one has several captions and a licence."""
    monkeypatch.chdir(tmp_path)
    for name in ("x", "y"):
        (tmp_path / "clips" / name).mkdir(parents=True)
    for name in ("x/a", "x/b", "y/c", "y/d"):
        write_numbered(tmp_path / f"clips/{name}.mp4", count=30)
        (tmp_path / f"clips/{name}.txt").write_text(f"a cat {name}")
    (tmp_path / "clips/x/a.txt").unlink()
    (tmp_path / "clips/x/a.json").write_text(json.dumps({"caption": ["one", "two", "three"], "licence": "CC0-1.0"}))
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "clips/y/e.png")
    (tmp_path / "clips/y/f.mp4").write_bytes(b"this is no video")
    return tmp_path / "clips"
