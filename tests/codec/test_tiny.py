"""The tiny autoencoder: its structure by random weights, its quality by the published ones where these are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from data.decode import Ladder, PyAV
from dit.codec.tiling import Tiling
from dit.codec.tiny import Tiny, decoder_layers, encoder_layers
from tests.data.videos import media

SETTINGS: dict[str, Any] = {"fingerprint": None, "shift": 0.0, "scale": 1.0, "batch": 8, "tiling": None}


def files(folder: Path, suffix: str = ".pth") -> dict[str, str]:
    """Random weights of both halves."""
    torch.manual_seed(0)
    made = {}
    for name, layers in (("encoder", encoder_layers()), ("decoder", decoder_layers())):
        file = folder / f"{name}{suffix}"
        save_file(layers.state_dict(), file) if suffix == ".safetensors" else torch.save(layers.state_dict(), file)
        made[name] = str(file)
    return made


def published(**changes: Any) -> Tiny:
    halves = {name: str(media(f"taef2_{name}.pth")) for name in ("encoder", "decoder")}
    return Tiny(**{**halves, **SETTINGS, **changes})


def real(name: str, frames: int, height: int, width: int) -> Tensor:
    """The middle of the first frames of a clip, (1, 3, frames, height, width) in [-1, 1]."""
    read = torch.from_numpy(Ladder(decoders=[PyAV()]).frames(media(name), list(range(frames))))
    top, left = (read.shape[1] - height) // 2, (read.shape[2] - width) // 2
    cut = read[:, top : top + height, left : left + width]
    return cut.permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def psnr(one: Tensor, other: Tensor) -> float:
    """In dB, of pixels in [-1, 1]."""
    return 10 * math.log10(4 / (one - other).square().mean().item())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_contract(tmp_path: Path, suffix: str) -> None:
    codec = Tiny(**files(tmp_path, suffix), **{**SETTINGS, "shift": 0.25, "scale": 2.0})
    pixels = torch.rand(2, 3, 3, 16, 24) * 2 - 1
    latents = codec.encode(pixels)
    assert latents.shape == (2, 32, *codec.latent_shape(3, 16, 24)) == (2, 32, 3, 2, 3)
    assert codec.decode(latents).shape == pixels.shape and codec.decode(99 * latents).abs().max() <= 1
    plain = Tiny(**files(tmp_path, suffix), **SETTINGS)
    torch.testing.assert_close(latents, 2 * (plain.encode(pixels) - 0.25))
    torch.testing.assert_close(codec.decode(latents), plain.decode(plain.encode(pixels)), rtol=1e-4, atol=1e-4)
    plain.batch = None
    torch.testing.assert_close(plain.encode(pixels)[:, :, 1:2], plain.encode(pixels[:, :, 1:2]), rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    assert sum(parameter.numel() for parameter in codec.parameters()) > 2_400_000
    with pytest.raises(ValueError, match="height=20 is not 8k for Tiny; nearest: 16, 24"):
        codec.encode(torch.zeros(1, 3, 1, 20, 16))


@torch.no_grad()
def test_its_arithmetic_has_a_dtype_of_its_own(tmp_path: Path) -> None:
    there, pixels = files(tmp_path), torch.rand(1, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain, half = Tiny(**there, **SETTINGS), Tiny(**there, **SETTINGS, dtype="bfloat16")
    assert {each.dtype for each in half.parameters()} == {torch.bfloat16}
    latents = plain.encode(pixels)
    for found, wanted in ((half.encode(pixels), latents), (half.decode(latents), plain.decode(latents))):
        assert found.dtype == torch.float32 and 0 < (found - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_files_that_do_not_hold_it(tmp_path: Path) -> None:
    there = files(tmp_path)
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes(Path(there["encoder"]).read_bytes()[:1000])
    (tmp_path / "cut.safetensors").write_bytes(b"x")
    torch.save(Path("x"), tmp_path / "object.pth")
    for wrong, said in (
        (None, "codec.encoder is not given: a file of weights, such as codec.encoder=taef2_encoder.pth"),
        ("gone.pth", "codec.encoder=.*gone.pth is not there"),
        ("other.pth", "codec.encoder=.*other.pth does not hold the weights of that half"),
        ("decoder.pth", "codec.encoder=.*decoder.pth does not hold"),
        ("cut.pth", "does not hold"),
        ("cut.safetensors", "does not hold"),
        ("object.pth", "does not hold"),
    ):
        file = None if wrong is None else str(tmp_path / wrong)
        with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            Tiny(**{**there, "encoder": file}, **SETTINGS)
        assert "\n" not in str(caught.value)


def test_published_weights_bring_real_clips_back() -> None:
    """The first frame, but for six rows; the wrong structure gives 16 to 22 dB."""
    codec, pixels = published(), real("nasa_13013.mp4", 1, 264, 480)
    with torch.no_grad():
        assert psnr(codec.decode(codec.encode(pixels)), pixels) > 34


def test_latents_of_real_clips_have_about_unit_scale() -> None:
    import yaml

    config = yaml.safe_load((Path(__file__).parents[2] / "configs/codec/tiny.yaml").read_text())
    codec = published(shift=config["shift"], scale=config["scale"])
    with torch.no_grad():
        latents = torch.cat([codec.encode(real(name, 1, 128, 128)) for name in ("nasa_13013.mp4", "hiker_tiny.mp4")])
    assert latents.mean().abs() < 0.2 and 0.8 < latents.std() < 1.25


def test_seams_of_tiles() -> None:
    """Blended, neighbours differ across a border of tiles by about as much as anywhere; without an overlap it shows."""
    pixels = real("nasa_13013.mp4", 1, 96, 256)
    codec = published()
    with torch.no_grad():
        latents = codec.encode(pixels)
        whole = codec.decode(latents)

        def jump(overlap: float, *borders: int) -> float:
            """By how much neighbours differ, as a multiple of the same without tiles."""
            codec.tiling = Tiling(None, None, 128, overlap)
            made = codec.decode(latents)
            cut, plain = (sum((x[..., at] - x[..., at - 1]).abs().mean() for at in borders) for x in (made, whole))
            return float(cut / plain)

        assert jump(0.25, 96, 128) < 1.5 and jump(0.0, 128) > 2
