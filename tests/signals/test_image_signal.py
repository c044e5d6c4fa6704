"""The picture that a clip begins with, as Wan's pipeline encodes it; in training and in sampling."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image as Pillow
from torch import nn

from data.batch import Batch
from dit.config.build import build
from dit.encoders import to_bytes
from dit.net.embed import ImageTokens
from dit.signals import image as module
from dit.signals.base import Around, cond_of_batch, cond_of_example, cond_of_requests
from dit.signals.image import Image
from tests.text import tiny

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
CONFIG = yaml.safe_load((Path(__file__).resolve().parents[2] / "configs/signals/image.yaml").read_text())["image"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=24, patch_size=8,
        projection_dim=8,
    )  # fmt: skip
    encoder = tiny.randomised(transformers.CLIPVisionModel(config), 5)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    return tiny.save(tmp_path_factory.mktemp("wan_i2v"), image_encoder=encoder, image_processor=processor)


def signal(folder: Path | None, **changes: Any) -> Image:
    make: partial[Image] = build({**CONFIG, "folder": None if folder is None else str(folder), **changes})
    return make(Around(nn.Linear(1, 1)))


def picture(height: int = 40, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def clip(*pictures: np.ndarray) -> Any:
    first = [torch.from_numpy(each).permute(2, 0, 1) for each in pictures] or None
    return SimpleNamespace(first=first, last=None, num_frames=5, height=40, width=64, fps=8.0)


def test_like_wan(folder: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    encoder = transformers.CLIPVisionModel.from_pretrained(folder / "image_encoder")
    processor = transformers.CLIPImageProcessor.from_pretrained(folder / "image_processor")
    pipeline = diffusers.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=None, image_processor=processor, image_encoder=encoder
    )
    pictures = [picture(), picture(90, 30, 1)]
    with torch.no_grad():
        theirs = [pipeline.encode_image(Pillow.fromarray(each), CPU) for each in pictures]
    made = signal(folder)
    for each, said in zip(pictures, theirs, strict=True):
        ours = cond_of_requests({"image": made}, [SimpleNamespace()] * 2, clip(each), CPU)["image"]  # type: ignore[list-item]
        assert ours.shape == (2, 10, 16) and torch.allclose(ours[:1], said, atol=1e-6) and torch.equal(ours[0], ours[1])
        for changes in ({"skipping": 0}, {"skipping": 2}):
            spoiled = cond_of_requests({"image": signal(folder, **changes)}, [SimpleNamespace()], clip(each), CPU)  # type: ignore[list-item]
            assert (spoiled["image"] - said).abs().max() > 1e-2


def test_training_sees_first_frames(folder: Path) -> None:
    made = signal(folder)
    pixels = torch.rand(2, 3, 4, 40, 64) * 2 - 1
    batch = Batch(pixels, ["a", "b"], {"caption": ["", ""], "fps": torch.ones(2)})
    said = cond_of_batch({"image": made}, batch, [True, False])["image"]
    frames = [each.permute(1, 2, 0).numpy() for each in to_bytes(pixels[:, :, 0])]
    asked = cond_of_requests({"image": made}, [SimpleNamespace()] * 2, clip(*frames), CPU)["image"]  # type: ignore[list-item]
    assert torch.equal(said, asked), "never left out, and each sample has its own"
    away = cond_of_requests({"image": made}, [SimpleNamespace()] * 2, clip(*frames), CPU, away=True)["image"]  # type: ignore[list-item]
    assert torch.equal(away, said), "guidance leads away from the same picture"
    assert cond_of_example({"image": made})["image"].shape == said[:1].shape


def test_ahead_it_encodes_once_and_lets_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Any] = []
    monkeypatch.setattr(module, "load_encoder", tiny.counted(module.load_encoder, loads))
    made, asked = signal(folder), clip(picture(), picture(seed=1))
    wanted: Any = [SimpleNamespace()] * 2
    fresh = cond_of_requests({"image": signal(folder)}, wanted, asked, CPU)["image"]
    loads.clear()
    entered: list[bool] = []

    @contextmanager
    def alone() -> Any:
        entered.append(made.model is None)
        yield CPU

    for _ in range(2):
        made.ahead(wanted, asked, alone)
        assert made.model is None and len(loads) == 1 and entered == [True]
        assert torch.equal(cond_of_requests({"image": made}, wanted, asked, CPU)["image"], fresh)
    assert len(loads) == 1


def test_without_a_picture_the_entry_is_left_out_which_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = signal(folder)
    for _ in range(2):
        assert cond_of_requests({"image": made}, [SimpleNamespace()], clip(), CPU) == {}  # type: ignore[list-item]
    assert [record.getMessage()[:30] for record in caplog.records] == ["this network is told the pictu"]


def test_first_and_last_are_two_pictures(folder: Path) -> None:
    """In training the ends of the clip, in sampling what the task gives; one of them alone is refused."""
    both, one = signal(folder, frames="first_and_last"), signal(folder)
    pixels = torch.rand(2, 3, 5, 40, 64) * 2 - 1
    batch = Batch(pixels, ["a", "b"], {"caption": ["", ""], "fps": torch.ones(2)})
    said = cond_of_batch({"image": both}, batch)["image"]
    ends = [cond_of_batch({"image": one}, replace(batch, pixels=pixels[:, :, [at]]))["image"] for at in (0, -1)]
    assert torch.equal(said, torch.cat(ends, 1)) and not torch.allclose(*ends)
    first, last = ([each.permute(1, 2, 0).numpy() for each in to_bytes(pixels[:, :, at])] for at in (0, -1))
    asked = clip(*first)
    wanted: Any = [SimpleNamespace()] * 2
    with pytest.raises(ValueError, match="task=first_last image=FILE last_image=FILE gives both"):
        cond_of_requests({"image": both}, wanted, asked, CPU)
    asked.last = clip(*last).first
    assert torch.equal(cond_of_requests({"image": both}, wanted, asked, CPU)["image"], said)
    assert cond_of_example({"image": both})["image"].shape == said[:1].shape
    tokens = ImageTokens(8, features=16, positions=said.shape[1], eps=1e-5)
    side_by_side = tokens(torch.stack(ends, 1).flatten(0, 1))  # as diffusers' pipeline has them
    assert torch.equal(tokens(said), side_by_side) and side_by_side.shape == (2, said.shape[1], 8)


def test_another_encoder_is_refused(folder: Path) -> None:
    mark = signal(folder).identified()
    assert signal(folder, fingerprint=mark).identified() == mark
    with pytest.raises(ValueError, match="is not the image encoder that this was trained with"):
        signal(folder, fingerprint="0" * 16)
    with pytest.raises(ValueError, match="signals.image.folder is missing"):
        signal(None)
