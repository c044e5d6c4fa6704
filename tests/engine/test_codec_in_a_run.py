"""Runs on latents of an autoencoder: it stands still, is in no checkpoint, and comes from its files again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from dit.engine import run
from dit.interop.presets import CONFIGS
from dit.sampling.pipeline import Pipeline
from tests.codec.autoencoders import saved
from tests.codec.test_tiny import files
from tests.codec.test_vae import leave, network
from tests.engine import small

SMALL = (
    "experiment=demo", "net.width=24", "net.depth=1", "net.heads=2", "net.patch=[1,1,1]", "text.width=16",
    "net.text_width=16", "text.depth=0", "text.ngrams=[]", "data.batch_size=2", "data.val.num_clips=2",
    "data.val_batch_size=2", "callbacks.validation.every=2", "callbacks.checkpoints.every=2", "sampling.num_steps=2",
    "preview.prompts=[a red circle]", "trainer.accelerator=cpu", "name=latents",
)  # fmt: skip
CODECS = {
    "tiny": (32, ("codec=tiny", "data.num_frames=3", "data.height=16", "data.width=24")),
    "vae": (3, ("codec=vae", "codec.frames=1", "data.num_frames=5", "data.height=8", "data.width=8")),
    "wan": (4, ("codec=pretrained", "codec.posterior=sample", "data.num_frames=5", "data.height=8", "data.width=8")),
}


def config(*overrides: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        plain = OmegaConf.to_container(hydra.compose("train", [*SMALL, *overrides]), resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def settings(name: str, folder: Path) -> tuple[str, ...]:
    """Overrides for a run on latents of random weights that lie in `folder`."""
    channels, overrides = CODECS[name]
    if name == "tiny":
        overrides += tuple(f"codec.{half}={file}" for half, file in files(folder).items())
    elif name == "vae":
        overrides += (f"codec.ckpt={leave(folder / 'vae', network(dtype=torch.float32))}",)
    else:
        overrides += (f"codec.folder={saved('wan 2.1', folder / 'vae')}",)
    return (*overrides, f"net.in_channels={channels}", f"net.out_channels={channels}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CODECS)
def test_a_run_on_latents(name: str, folder: Path) -> None:
    """Trains, is validated, shows previews, resumes exactly, and is sampled; its codec is saved nowhere."""
    told = settings(name, folder)
    run.train(config("trainer.max_steps=4", "lr_schedule=constant", "name=straight", *told))
    run.train(config("trainer.max_steps=2", "lr_schedule=constant", *told))
    first = small.load(folder / "runs/latents")
    run.train(config("trainer.max_steps=4", "lr_schedule=constant", *told))
    last, straight = small.load(folder / "runs/latents"), small.load(folder / "runs/straight")
    assert [where for key in small.EXACT for where in small.same(last[key], straight[key], key)] == []

    kept = [*last["state_dict"], *(key for weights in last["ema"].values() for key in weights)]
    assert {key.split(".")[0] for key in kept} == {"net", "text"}
    assert small.same(first["state_dict"], last["state_dict"]), "it trains"
    parts = run.build(config("name=built", *told))
    optimized = sum(len(group["params"]) for group in last["optimizer_states"][0]["param_groups"])
    assert optimized == sum(1 for part in (parts.module.net, parts.module.text) for _ in part.parameters())
    assert len(list((folder / "runs/latents/samples").rglob("*.mp4"))) == 2

    samples = Pipeline.from_checkpoint("runs/latents", device="cpu")("a red circle", [1])
    data = parts.config["data"]
    assert samples.pixels.shape[2:] == tuple(data[key] for key in ("num_frames", "height", "width"))
    assert samples.latents.shape[1] == CODECS[name][0]


def test_a_codec_that_is_not_there_any_more(folder: Path) -> None:
    told = settings("wan", folder)
    run.train(config("trainer.max_steps=1", *told))
    (folder / "vae").rename(folder / "elsewhere")
    for again in (
        lambda: run.train(config("trainer.max_steps=2", "resume_lr=schedule", *told)),
        lambda: Pipeline.from_checkpoint("runs/latents", device="cpu"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match="codec.folder=.*vae is not there") as caught:
            again()
        assert "\n" not in str(caught.value)


def test_a_codec_that_lies_elsewhere_or_is_another(folder: Path) -> None:
    """A run goes on with the same files in another place, and with no others."""
    told = settings("wan", folder)
    run.train(config("trainer.max_steps=1", "lr_schedule=constant", *told))
    elsewhere = (folder / "vae").rename(folder / "elsewhere")
    moved = tuple(each for each in told if "folder" not in each) + (f"codec.folder={elsewhere}",)
    run.train(config("trainer.max_steps=2", "lr_schedule=constant", *moved))
    assert small.load(folder / "runs/latents")["global_step"] == 2
    Pipeline.from_checkpoint("runs/latents", device="cpu")
    back = elsewhere.rename(folder / "back")
    Pipeline.from_checkpoint("runs/latents", device="cpu", folders={"codec": str(back)})
    with pytest.raises((ValueError, FileNotFoundError), match="codec.folder=nowhere is not there"):
        Pipeline.from_checkpoint("runs/latents", device="cpu", folders={"codec": "nowhere"})
    back.rename(elsewhere)
    saved("wan 2.1", elsewhere, latents_std=[1.0, 1.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="codec.folder=.* is not what this was trained with: its files have"):
        Pipeline.from_checkpoint("runs/latents", device="cpu")
    with pytest.raises(ValueError, match="codec.fingerprint"):
        run.train(config("trainer.max_steps=3", "lr_schedule=constant", *moved))


def test_files_of_a_codec_that_lie_elsewhere(folder: Path) -> None:
    run.train(config("trainer.max_steps=1", *settings("tiny", folder)))
    (folder / "elsewhere").mkdir()
    for half in ("encoder", "decoder"):
        (folder / f"{half}.pth").rename(folder / "elsewhere" / f"{half}.pth")
    with pytest.raises(ValueError, match="codec.encoder=.*encoder.pth is not there"):
        Pipeline.from_checkpoint("runs/latents", device="cpu")
    Pipeline.from_checkpoint("runs/latents", device="cpu", folders={"codec": str(folder / "elsewhere")})


def test_an_autoencoder_of_ours_that_lies_elsewhere_or_has_gone_on(folder: Path) -> None:
    told = settings("vae", folder)
    run.train(config("trainer.max_steps=1", "lr_schedule=constant", *told))
    assert small.load(folder / "runs/latents")["config"]["codec"]["fingerprint"]
    elsewhere = (folder / "vae").rename(folder / "elsewhere")
    with pytest.raises(ValueError, match="codec.ckpt=.*vae: checkpoint or run .* is not there"):
        Pipeline.from_checkpoint("runs/latents", device="cpu")
    Pipeline.from_checkpoint("runs/latents", device="cpu", folders={"codec": str(elsewhere)})
    moved = (*(each for each in told if "codec.ckpt" not in each), f"codec.ckpt={elsewhere}")
    run.train(config("trainer.max_steps=2", "lr_schedule=constant", *moved))
    assert small.load(folder / "runs/latents")["global_step"] == 2
    trained_on = network(dtype=torch.float32)
    with torch.no_grad():
        trained_on.decoder.first.weight.mul_(1.01)
    leave(elsewhere, trained_on)
    with pytest.raises(ValueError, match="codec.ckpt=.* is not what this was trained with: .* that run has gone on"):
        Pipeline.from_checkpoint("runs/latents", device="cpu")
    with pytest.raises(ValueError, match="codec.fingerprint was '.*', now '"):
        run.train(config("trainer.max_steps=3", "lr_schedule=constant", *moved))


def test_a_checkpoint_reads_no_pickle(folder: Path) -> None:
    """Whoever sends a checkpoint may name a folder; what lies there is read as data, or refused."""
    told = settings("wan", folder)
    run.train(config("trainer.max_steps=1", *told))
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    torch.save({"x": torch.zeros(1)}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ValueError, match="diffusion_pytorch_model.bin is a pickle, which may run code"):
        Pipeline.from_checkpoint("runs/latents", device="cpu")


@pytest.mark.parametrize(
    "overrides, said",
    [
        (("data.num_frames=8",), r"^num_frames=8 is not 4k\+1 for AutoencoderKLWan; nearest: 5, 9$"),
        (
            ("data.num_frames=9", "net.patch=[2,1,1]"),
            "^latent frames=3 is not a multiple of the patch's 2; nearest: 2, 4. In pixels: data.num_frames=5 or "
            "data.num_frames=13$",
        ),
        (
            ("data.height=24", "net.patch=[1,4,1]"),
            "^latent height=6 .* the patch's 4; nearest: 4, 8. In pixels: data.height=16 or data.height=32$",
        ),
        (("data.width=4", "net.patch=[1,1,2]"), "nearest: 2. In pixels: data.width=8$"),
        (("net.in_channels=3",), "^net.in_channels=3, but the codec gives 4; add net.in_channels=4$"),
        (("codec/tiling=tiles", "codec.tiling.height=2"), "tiling.height=2 is less than the 4 of a latent; nearest: 4"),
    ],
)
def test_clips_and_tiles_that_do_not_fit(overrides: tuple[str, ...], said: str, folder: Path) -> None:
    """Before anything is written."""
    with pytest.raises(ValueError, match=said):
        run.train(config(*settings("wan", folder), *overrides))
    assert not (folder / "runs").exists()
