"""Feature networks: pixels reach them as they should, features are the same everywhere, and bad ones hear why."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dit.config.build import build
from dit.evaluation.video.networks import Network, TorchScript, VideoMAE, sha256_of
from dit.evaluation.video.random_network import RandomConvolutions, weights
from tests.evaluation.films import discs
from tests.evaluation.parts import node, part

KINETICS = {"rescale": False, "resize": False, "return_features": True}


def network(module: Any, **changes: Any) -> Network:
    settings: dict[str, Any] = {
        "name": "own", "module": module, "pictures": False, "size": None, "antialias": True, "mean": [0.5] * 3,
        "std": [0.5] * 3, "frames": None, "least_frames": 1, "batch": 3,
    }  # fmt: skip
    return Network("cpu", **(settings | changes))


class Told(nn.Module):
    """Mean of each colour; it keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.given.append(pixels)
        return pixels.flatten(2).mean(2)


class I3D(nn.Module):
    """Of the public file it has the arguments alone."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        if rescale or resize or not return_features:
            return torch.zeros(x.shape[0], 7)
        return x.flatten(2).mean(2)


def test_random_weights_are_the_same_bytes_everywhere() -> None:
    """Recomputed in Python's own whole numbers, and held against a hash."""
    shape, mask = (4, 3, 3, 3, 3), 2**64 - 1
    drawn = []
    for number in range(1, 4 * 81 + 1):
        state = (number + 5 * 2**32) * 0x9E3779B97F4A7C15 & mask
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
        drawn.append((state ^ state >> 31) >> 40)
    rows = [drawn[81 * row : 81 * row + 81] for row in range(4)]
    wanted = [(81 * each - sum(row)) * ((24 / 81) ** 0.5 / (2**24 * 81)) for row in rows for each in row]
    found = weights(shape, 5)
    assert np.array_equal(found.flatten().numpy(), np.array(wanted, np.float32))
    assert hashlib.sha256(found.numpy().tobytes()).hexdigest().startswith("cea38cfc970a309b")
    assert abs(float(found.square().mean()) / (2 / 81) - 1) < 0.2


def test_random_features_are_of_each_clip_alone_and_of_any_length() -> None:
    own = part("features", "random")("cpu")
    clips = discs(5, seed=0)
    together = own(clips)
    assert together.shape == (5, 51) and own.name == "random"
    torch.testing.assert_close(together[3:4], own(clips[3:4]), rtol=1e-5, atol=1e-6)
    assert own(clips[:1, :, :1]).shape == (1, 51)
    assert own.sha256 == part("features", "random")("cpu").sha256
    other = node("features", "random")
    other["module"]["seed"] = 1
    assert build(other)("cpu").sha256 != own.sha256
    frames = part("frame_features", "random")("cpu")
    assert frames(clips).shape == (5, 8, 51)
    torch.testing.assert_close(frames(clips)[:, 2:3], frames(clips[:, :, 2:3]), rtol=1e-5, atol=1e-6)


def test_pixels_reach_the_network_in_its_range_and_size() -> None:
    clips = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1, 1).expand(2, 3, 4, 6, 6)
    told = Told()
    assert network(lambda: told)(clips).tolist() == [pytest.approx([-1.0, -0.6, 1.0])] * 2
    told.given.clear()
    network(lambda: told, size=8, pictures=True, mean=[0.0] * 3, std=[1 / 255] * 3, batch=3)(clips)
    assert [tuple(each.shape) for each in told.given] == [(3, 3, 8, 8), (3, 3, 8, 8), (2, 3, 8, 8)]
    assert float(told.given[0][0, 1].mean()) == pytest.approx(51, abs=1e-3)


def test_antialias_is_what_it_says() -> None:
    """Stripes of one pixel at half the size: smoothed they are grey, picked they are not."""
    stripes = (torch.arange(32) % 4 < 1).to(torch.uint8).mul(255).expand(1, 3, 1, 32, 32)
    smooth, sharp = Told(), Told()
    network(lambda: smooth, size=8, antialias=True)(stripes)
    network(lambda: sharp, size=8, antialias=False)(stripes)
    assert smooth.given[0].std() < 0.2 * 1 and sharp.given[0].mean() == -1  # between stripes alone
    assert network(Told, size=8, antialias=True).resize == "bilinear to 8x8, with antialias"


def test_frames_are_taken_from_the_start_and_too_few_are_refused() -> None:
    told = Told()
    own = network(lambda: told, frames=5)
    clips = discs(2, seed=1)
    assert own(clips).shape == (2, 3)
    assert torch.equal(told.given[0], clips[:, :, :5].float() / 255 / 0.5 - 1)
    with pytest.raises(ValueError, match=r"own takes 5 frames, and clips have 4 frames of 32x32: .*features=random"):
        own(clips[:, :, :4])
    with pytest.raises(ValueError, match="own takes at least 10 frames"):
        network(Told, least_frames=10)(clips)


def test_features_that_are_none_are_refused() -> None:
    class Wrong(nn.Module):
        def __init__(self, out: Any) -> None:
            super().__init__()
            self.out = out

        def forward(self, pixels: Tensor) -> Any:
            return self.out

    clips = discs(2, seed=1)
    for out, said in (
        (torch.zeros(2, 4, 4), r"own gives \(2, 4, 4\) for 2"),
        ({"x": 1}, "own gives dict for 2"),
        (torch.full((2, 3), torch.nan), "not finite"),
    ):
        with pytest.raises(ValueError, match=said):
            network(partial(Wrong, out))(clips)
    with pytest.raises(ValueError, match="must have 3 numbers"):
        network(Told, mean=[0.5])


def test_a_torchscript_file_is_called_as_the_config_says(tmp_path: Path) -> None:
    file = tmp_path / "i3d.pt"
    torch.jit.script(I3D()).save(str(file))
    config = node("features", "i3d")
    config["module"]["file"] = str(file)
    assert config["module"]["call"] == KINETICS
    own = build(config)("cpu")
    clips = discs(2, seed=2, frames=10)
    found = own(clips)
    assert found.shape == (2, 3) and bool(found.any())  # not the zeros of the other arguments
    assert own.sha256 == sha256_of(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert own.resize == "bilinear to 224x224, without antialias"
    other = TorchScript(file=str(file), call={"nothing": True})
    with pytest.raises(ValueError, match="does not take"):
        other(torch.zeros(1, 3, 10, 8, 8))


def test_a_file_that_is_missing_or_another_hears_why(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no network")
    for file, said in (
        (None, "is missing"),
        ("nowhere.pt", "is not there"),
        (str(tmp_path / "text.pt"), "is no TorchScript"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
            TorchScript(file=file, call={})
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"features.module.folder is missing"):
        VideoMAE(folder=None)
    with pytest.raises(FileNotFoundError, match="features.module.folder=nowhere"):
        VideoMAE(folder="nowhere")


def test_videomae_is_transformers_mean_of_tokens(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, tubelet_size=2, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32,
    )  # fmt: skip
    model = transformers.VideoMAEModel(config).eval()
    model.save_pretrained(tmp_path / "videomae")
    said = node("features", "videomae")
    said["module"]["folder"] = str(tmp_path / "videomae")
    said |= {"size": 32, "frames": 4, "least_frames": 4}
    own = build(said)("cpu")
    clips = discs(2, seed=3, frames=6)
    pixels = (clips[:, :, :4].float() / 255 - torch.tensor(said["mean"]).view(3, 1, 1, 1)) / torch.tensor(
        said["std"]
    ).view(3, 1, 1, 1)
    with torch.no_grad():
        wanted = model(pixel_values=pixels.transpose(1, 2)).last_hidden_state.mean(1)
    torch.testing.assert_close(own(clips), wanted, rtol=1e-4, atol=1e-5)
    assert own.sha256 == hashlib.sha256((tmp_path / "videomae" / "model.safetensors").read_bytes()).hexdigest()


def test_any_module_of_ones_own_is_a_feature_network() -> None:
    said = node("features", "random")
    said["module"] = {"_target_": f"{__name__}.Told", "_partial_": True}
    said["name"] = "told"
    assert build(said)("cpu")(discs(2, seed=1)).shape == (2, 3)


def test_random_convolutions_see_time_only_where_they_should() -> None:
    clips = discs(2, seed=4).float() / 255
    over = RandomConvolutions(channels=[4, 4], over_time=True, seed=0)
    assert not torch.allclose(over(clips), over(clips[:, :, torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])]), rtol=1e-2)
