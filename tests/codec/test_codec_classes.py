"""Published autoencoders as codecs: every class of diffusers that is known, in miniature."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dit.codec import chunks
from dit.codec.families import FAMILIES
from dit.codec.pretrained import Pretrained
from dit.codec.tiling import Tiling
from dit.folders import CONFIG, WEIGHTS
from tests.codec.autoencoders import CASES, DEFAULTS, autoencoder, clip, codec, saved
from tests.hostile import watched

NOISY = "ltx told its noise"
OVER_FRAMES = ("cogvideox", "hunyuan")  # norms, or attention, of all frames together


def encoded(model: torch.nn.Module, pixels: Tensor, image: bool) -> Tensor:
    """What the class itself makes of pixels: mode, or the latents that it gives."""
    given = pixels.transpose(1, 2).flatten(0, 1) if image else pixels
    out = model.encode(given)
    z = out.latent_dist.mode() if hasattr(out, "latent_dist") else out[0]
    return z.unflatten(0, (len(pixels), -1)).transpose(1, 2) if image else z


def test_every_known_class_has_a_case() -> None:
    assert {name for name, _, _, _ in CASES.values()} == set(FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_the_contract(case: str, tmp_path: Path) -> None:
    """Shapes there and back, range, dtype, scale of latents, the same for each clip of a batch, nothing to train."""
    made = codec(saved(case, tmp_path), scale=0.5)
    _, _, stride, causal = CASES[case]
    assert (made.stride, made.causal) == (stride, causal)
    pixels = clip(case)
    with torch.no_grad():
        latents = made.encode(pixels)
        assert latents.shape == (2, made.channels, *made.latent_shape(*pixels.shape[2:]))
        back = made.decode(latents)
    assert back.shape == pixels.shape and back.dtype == latents.dtype == torch.float32
    assert back.min() >= -1 and back.max() <= 1 and back.std() > 0.01
    with torch.no_grad():
        torch.testing.assert_close(made.encode(pixels[1:])[0], latents[1])
        torch.testing.assert_close(made.decode(latents[1:])[0], back[1])
        torch.testing.assert_close(2 * latents, codec(tmp_path).encode(pixels) * 1.0)
        assert torch.equal(made.encode(pixels), latents)
    assert not any(parameter.requires_grad for parameter in made.parameters())


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_folder(case: str, tmp_path: Path) -> None:
    """All of them, and what the class computes when it is built (positions, wavelets), in bfloat16 too."""
    saved(case, tmp_path)
    reference, pixels = autoencoder(case), clip(case, batch=1)
    if case == "allegro":
        reference.enable_tiling()
        reference.kernel = reference.stride = tuple(pixels.shape[2:])
    made = codec(tmp_path)
    with torch.no_grad():
        theirs = encoded(reference, (pixels + 1) / 2 if case == "rae" else pixels, made.family.image)
        torch.testing.assert_close(made._affine.undo(made.encode(pixels)), theirs, rtol=1e-4, atol=1e-5)
        if case in ("cosmos", "mochi"):
            return  # on the CPU torch has no mean over frames in bfloat16; Mochi begins with waves too short for it
        half = codec(tmp_path, dtype="bfloat16").encode(pixels)
    assert half.dtype == torch.float32
    assert 0 < (half - made.encode(pixels)).norm() < 0.3 * half.norm()


@pytest.mark.parametrize("case", [case for case in CASES if case != "allegro"])
def test_pictures_alone(case: str, tmp_path: Path) -> None:
    """One frame is one latent frame; the first one of a clip, but for norms and attention over all of its frames."""
    made = codec(saved(case, tmp_path))
    pixels = clip(case, batch=1)
    with torch.no_grad():
        latents, first = made.encode(pixels), made.encode(pixels[:, :, :1])
        assert first.shape[2] == made.decode(first).shape[2] == 1
        if case not in OVER_FRAMES:
            torch.testing.assert_close(first, latents[:, :, :1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["kl", "wan 2.1", "ltx"])
def test_samples_of_the_posterior_are_drawn_in_training_alone(case: str, tmp_path: Path) -> None:
    made = codec(saved(case, tmp_path), posterior="sample")
    pixels = clip(case, batch=1)
    mode = codec(tmp_path).encode(pixels)
    assert torch.equal(made.eval().encode(pixels), mode)
    made.train()
    assert not made.model.training, "the autoencoder itself is never trained"
    reference = autoencoder(case)
    torch.manual_seed(5)
    drawn = made.encode(pixels)
    torch.manual_seed(5)
    given = pixels.transpose(1, 2).flatten(0, 1) if made.family.image else pixels
    distribution = reference.encode(given).latent_dist
    noise = torch.randn_like(mode)
    std = distribution.std.unflatten(0, (1, -1)).transpose(1, 2) if made.family.image else distribution.std
    expected = mode + noise * std * made._affine.gain.float()
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-5)


def test_noise_of_a_decoder_is_the_same_for_every_clip(tmp_path: Path) -> None:
    """Whatever stands beside it in a batch, and however many are decoded at once; nobody else's generator moves."""
    made = codec(saved(NOISY, tmp_path), decode_timestep=0.05, decode_noise_scale=0.5)
    latents = torch.randn(1, made.channels, 3, 2, 3, generator=torch.Generator().manual_seed(1))
    before = torch.random.get_rng_state()
    one = made.decode(latents)
    assert torch.equal(torch.random.get_rng_state(), before)
    for size in (1, None):
        made.batch = size
        torch.testing.assert_close(made.decode(latents.expand(3, -1, -1, -1, -1)), one.expand(3, -1, -1, -1, -1))
    for changes in ({"decode_noise_scale": 0.0}, {"decode_timestep": 0.5}):
        other = codec(tmp_path, **{"decode_timestep": 0.05, "decode_noise_scale": 0.5, **changes})
        assert (other.decode(latents) - one).abs().max() > 1e-4, changes


@pytest.mark.parametrize(("case", "rows"), [("wan 2.1", [2, 2, 1]), ("kl", [2] * 7 + [1]), ("hunyuan 1.5", [1] * 5)])
def test_small_clips_are_coded_together(
    case: str, rows: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as have no more pixels than `SMALL`, of an image autoencoder frames; the same latents and pixels."""
    pixels = clip(case, batch=5)
    made, one_by_one = codec(saved(case, tmp_path)), codec(tmp_path, batch=1)
    monkeypatch.setattr(chunks, "SMALL", 2 * pixels[0, 0].numel() // (pixels.shape[2] if made.family.image else 1) + 1)
    seen: list[int] = []
    for name in ("encode", "decode"):
        code = getattr(made.family, name)

        def counted(model: Any, some: Tensor, *rest: Any, code: Any = code) -> Tensor:
            seen.append(len(some))
            return code(model, some, *rest)

        monkeypatch.setattr(made.family, name, counted)
    latents = made.encode(pixels)
    assert seen == rows
    torch.testing.assert_close(latents, one_by_one.encode(pixels), rtol=1e-4, atol=1e-5)
    seen.clear()
    decoded = made.decode(latents)
    assert seen == rows
    torch.testing.assert_close(decoded, one_by_one.decode(latents), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tiling", [None, Tiling(None, 16, None, 0.25)])
def test_a_lead_is_copies_that_decoding_leaves_out(tiling: Tiling | None, tmp_path: Path) -> None:
    plain = codec(saved("cogvideox", tmp_path), tiling=tiling)
    made, pixels = codec(tmp_path, tiling=tiling, lead=1), clip("cogvideox")
    latents = made.encode(pixels)
    assert latents.shape[2:] == made.latent_shape(*pixels.shape[2:]) and latents.shape[2] == 4
    assert torch.equal(latents[:, :, 1:], plain.encode(pixels)) and torch.equal(latents[:, :, 0], latents[:, :, 1])
    assert torch.equal(made.decode(latents), plain.decode(latents[:, :, 1:]))


@pytest.mark.parametrize("case", [case for case in CASES if case != "rae"])
def test_tiles_of_every_class(case: str, tmp_path: Path) -> None:
    """One tile is the whole; several have its shape and are near it, in the picture and in time."""
    saved(case, tmp_path)
    _, _, (f, h, w), _ = CASES[case]
    pixels = clip(case, batch=1)
    whole = codec(tmp_path, tiling=Tiling(None, 64 * h, None, 0.25))
    plain = codec(tmp_path)
    with torch.no_grad():
        latents = plain.encode(pixels)
        torch.testing.assert_close(whole.encode(pixels), latents, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(whole.decode(latents), plain.decode(latents), rtol=1e-4, atol=1e-5)
        for sizes in ((None, None, 2 * w), (2 * f, None, None)):
            if plain.family.streams and sizes[0] is not None:
                with pytest.raises(ValueError, match="few frames at a time by itself: codec.tiling.num_frames=null"):
                    codec(tmp_path, tiling=Tiling(*sizes, overlap=0.5))
                continue
            cut = codec(tmp_path, tiling=Tiling(*sizes, overlap=0.5))
            assert cut.encode(pixels).shape == latents.shape
            made = cut.decode(latents)
            assert made.shape == pixels.shape and made.isfinite().all()


def test_an_autoencoder_keeps_its_own_precision_under_autocast(tmp_path: Path) -> None:
    made, pixels = codec(saved("wan 2.1", tmp_path)), clip("wan 2.1")
    plain = made.encode(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.encode(pixels), plain)
        assert torch.equal(made.decode(plain), made.decode(plain))
    double = made.double()
    assert double.encode(pixels.double()).dtype == torch.float64
    torch.testing.assert_close(double.encode(pixels.double()).float(), plain, rtol=1e-3, atol=1e-4)


def test_clips_that_it_cannot_take(tmp_path: Path) -> None:
    wan, rae = codec(saved("wan 2.1", tmp_path / "wan")), codec(saved("rae", tmp_path / "rae"))
    cosmos = codec(saved("cosmos", tmp_path / "cosmos"))
    with pytest.raises(ValueError, match=r"num_frames=8 is not 4k\+1 for AutoencoderKLWan; nearest: 5, 9"):
        wan.encode(torch.zeros(1, 3, 8, 8, 8))
    with pytest.raises(ValueError, match="height=16 is not 8, the only one that AutoencoderRAE takes"):
        rae.latent_shape(1, 16, 8)
    assert cosmos.latent_shape(9, 8, 8) == (3, 2, 2)
    with pytest.raises(ValueError, match="num_frames=13 is more than AutoencoderKLCosmos has mean and std of; most: 9"):
        cosmos.latent_shape(13, 8, 8)


def test_an_autoencoder_of_an_earlier_diffusers(tmp_path: Path) -> None:
    """Stable Diffusion's own, and DiT's, name the layers of their attention as they once were called."""
    model = autoencoder("kl")
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    model.save_config(tmp_path)
    then = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for now, before in then.items():
        weights = {key.replace(now, before): value for key, value in weights.items()}
    assert any(".query." in key for key in weights)
    save_file(weights, tmp_path / WEIGHTS)
    pixels = clip("kl", batch=1)
    expected = encoded(model, pixels, image=True) * 0.18215
    torch.testing.assert_close(codec(tmp_path).encode(pixels), expected, rtol=1e-4, atol=1e-5)


def test_a_folder_in_shards(tmp_path: Path) -> None:
    autoencoder("kl").save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert codec(tmp_path).encode(clip("kl")).isfinite().all()


def changed(folder: Path, **changes: object) -> Path:
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def without(folder: Path, name: str) -> Path:
    weights = load_file(folder / WEIGHTS)
    del weights[name]
    save_file(weights, folder / WEIGHTS)
    return folder


def pickled(folder: Path) -> Path:
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    return folder


REFUSED = {
    "no folder": (lambda folder: folder / "gone", r"codec.folder=.*gone is not there: a folder with config.json"),
    "a file": (lambda folder: folder / CONFIG, "config.json is a file"),
    "no config": (
        lambda folder: (folder / CONFIG).rename(folder / "x") and folder,
        "config.json is not there: a folder",
    ),
    "a pipeline": (lambda folder: folder.parent, "is a whole pipeline: give its autoencoder, .*vae$"),
    "an unknown class": (
        lambda folder: changed(folder, _class_name="AutoencoderOobleck"),
        "_class_name=AutoencoderOobleck is not an autoencoder that this project knows; there are AutoencoderDC, ",
    ),
    "a network": (lambda folder: changed(folder, _class_name="WanTransformer3DModel"), "is not an autoencoder that"),
    "no class": (lambda folder: changed(folder, _class_name=["x"]), "is not an autoencoder that"),
    "a pickle": (pickled, "diffusion_pytorch_model.bin is a pickle, which may run code"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink() or folder, "safetensors is not there"),
    "a missing weight": (lambda folder: without(folder, "encoder.conv_in.bias"), "encoder.conv_in.bias is missing"),
    "other weights": (lambda folder: changed(folder, layers_per_block=1), "is not in this autoencoder"),
    "other sizes": (lambda folder: changed(folder, latent_channels=5), r"is torch.float32 \(.*\), needed"),
    "blocks without end": (
        lambda folder: changed(folder, layers_per_block=10**9),
        "layers_per_block=1000000000, but the",
    ),
    "lists without end": (
        lambda folder: changed(folder, block_out_channels=[4] * 99),
        "has 99 entries; 64 are the most",
    ),
    "another kind": (lambda folder: changed(folder, block_out_channels="x"), "nothing can be built of it"),
    "a factor of 0": (lambda folder: changed(folder, scaling_factor=0.0), "must be finite and not 0"),
    "not JSON": (lambda folder: (folder / CONFIG).write_text("{") and folder, "is not JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_that_are_none_of_these(name: str, tmp_path: Path) -> None:
    """In one line that says which file is wrong; nothing is unpickled, written or fetched."""
    change, said = REFUSED[name]
    (tmp_path / "model_index.json").write_text("{}")
    folder = change(saved("kl", tmp_path / "vae", layers_per_block=2))
    with watched() as seen, pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        codec(folder)
    assert not seen and "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_no_folder_is_given() -> None:
    with pytest.raises(ValueError, match=r"codec.folder is not given: .* such as codec.folder=DIR/vae$"):
        Pretrained(**{"folder": None, **DEFAULTS})


def test_without_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("kl", tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"^codec.folder needs diffusers .*; pip install -r requirements-pretrained"):
        codec(tmp_path)


def test_folders_of_the_hub_are_read_where_its_client_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "models--some--model"
    saved("kl", repo / "snapshots" / "abc" / "vae")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pixels = clip("kl", batch=1)
    with watched() as seen:
        latents = Pretrained(**{"folder": "hub:some/model/vae", **DEFAULTS}).encode(pixels)
        assert torch.equal(Pretrained(**{"folder": "hub:some/model/vae@abc", **DEFAULTS}).encode(pixels), latents)
        for name, said in (
            ("hub:some/other/vae", r"is not on this disk: hf download some/other --include 'vae/\*'$"),
            ("hub:some/model/vae@v2", "hf download some/model --include 'vae/\\*' --revision v2$"),
            ("hub:vae", "is not written as hub:ORG/NAME/PART"),
            ("hub:some/model/../../x", "is not written as hub:ORG/NAME/PART"),
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=said):
                Pretrained(**{"folder": name, **DEFAULTS})
    assert not seen


def test_a_class_that_is_imported_for_its_size_alone_keeps_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes are asked on the meta device before a codec is built, and diffusers imports a class when it is asked for.
    The wavelets of Cosmos are made when its module is imported."""
    import diffusers

    folder = saved("cosmos", tmp_path)
    file = "diffusers.models.autoencoders.autoencoder_kl_cosmos"
    monkeypatch.delitem(sys.modules, file, raising=False)
    for package in (diffusers, diffusers.models, diffusers.models.autoencoders):
        for name in ("AutoencoderKLCosmos", file.rpartition(".")[2]):
            monkeypatch.delitem(package.__dict__, name, raising=False)
    with torch.device("meta"):
        codec(folder)
    assert not any(buffer.is_meta for buffer in codec(folder).buffers())
