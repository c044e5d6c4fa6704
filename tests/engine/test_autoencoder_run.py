"""Runs that train an autoencoder: two networks and optimizers by name, exact on resume, measured and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from dit.codec.vae.codec import VAE
from dit.engine import run
from dit.engine.callbacks.reconstruction import psnr
from dit.interop.presets import CONFIGS
from dit.sampling.checkpoint import Checkpoint
from tests.codec.test_tiny import files
from tests.codec.test_vae import CODEC
from tests.engine import small
from tests.engine.runs import autoencoder as config


@pytest.fixture(scope="module")
def demo() -> Any:
    """The config of a run that denoises."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("train", ["experiment=demo", "name=a"]), resolve=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`straight` in one sitting; `vae` in two."""
    folder = tmp_path_factory.mktemp("autoencoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run.train(config("trainer.max_steps=4", "name=straight"))
        run.train(config("trainer.max_steps=2"))
        run.train(config("trainer.max_steps=4"))
        yield folder


def test_it_resumes_bit_for_bit(folder: Path) -> None:
    straight, broken = (small.load(folder / f"runs/{name}") for name in ("straight", "vae"))
    assert [where for key in small.EXACT for where in small.same(straight[key], broken[key], key)] == []
    assert small.table(folder / "runs/straight") == small.table(folder / "runs/vae")
    sheets = [folder / f"runs/{name}/samples/step-00000004/reconstructions.png" for name in ("straight", "vae")]
    assert sheets[0].read_bytes() == sheets[1].read_bytes()


def test_what_a_run_leaves(folder: Path) -> None:
    """Networks, optimizers and columns by name; the averages are of the autoencoder alone."""
    saved = small.load(folder / "runs/vae")
    assert {key.split(".")[0] for key in saved["state_dict"]} == {"net", "discriminator"}
    assert {key.split(".")[0] for each in saved["ema"].values() for key in each} == {"net"}
    assert saved["state_dict"]["net.moments.count"].item() == 4
    groups = saved["optimizer_states"][0]["param_groups"]
    assert {group["optimizer"] for group in groups} == {"net", "discriminator"}
    rows = small.table(folder / "runs/vae")
    assert [row["step"] for row in rows if row["val/psnr"]] == ["2", "4"]
    assert [bool(row["train/loss_discriminator"]) for row in rows] == [False, True, True, True]
    assert all(float(row["train/kl"]) > 0 and float(row["train/perceptual"]) > 0 for row in rows)
    assert all(float(row["train/adversarial_weight"]) > 0 for row in rows[1:])
    config = Checkpoint.load(folder / "runs/vae").config
    assert config.get("objective") is None and config.get("text") is None
    with Image.open(folder / "runs/vae/samples/step-00000002/reconstructions.png") as sheet:
        assert sheet.text["weights"] == "ema:narrow" and sheet.text["step"] == "2"  # type: ignore[attr-defined]


@torch.no_grad()
def test_what_is_measured_is_what_the_codec_does(folder: Path) -> None:
    """The clips of validation through `codec=vae`, with the formula written out."""
    parts = run.build(config("trainer.max_steps=4"))
    codec = VAE("runs/vae", **CODEC)
    clips = torch.stack([parts.data.val[i]["pixels"] for i in range(3)]).float() / 127.5 - 1  # type: ignore[attr-defined]
    made = codec.decode(codec.encode(clips))
    last = small.table(folder / "runs/vae")[-1]
    of_clips = [20 * torch.log10(2 / (made[i] - clips[i]).square().mean().sqrt()).item() for i in range(3)]
    assert float(last["val/psnr"]) == pytest.approx(sum(of_clips) / 3, rel=1e-4)
    assert float(last["val/l1"]) == pytest.approx((made - clips).abs().mean().item(), rel=1e-4)
    for frame in range(3):
        wanted = psnr(made[:, :, frame : frame + 1], clips[:, :, frame : frame + 1], (1, 2, 3, 4)).mean()
        assert float(last[f"val/psnr_frame_{frame:02d}"]) == pytest.approx(wanted.item(), rel=1e-4)


def test_a_run_of_an_autoencoder_is_not_sampled(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"is of an autoencoder.*experiment=demo_latent codec.ckpt=runs/vae\)"):
        Checkpoint.load("runs/vae").network()


@pytest.mark.parametrize(
    "overrides, said",
    [
        (("data.num_frames=4",), r"^num_frames=4 is not 2k\+1 for this autoencoder; nearest: 3, 5$"),
        (("data.height=18",), "^height=18 is not 4k for this autoencoder; nearest: 16, 20$"),
        (("codec=tiny",), "^codec is a Tiny, and an autoencoder is trained on pixels: codec=pixel$"),
        (("recipe=demo's",), "^callbacks.validation measures another kind of network than Denoising trains"),
        (("recipe=demo's", "callbacks=demo's"), "^recipe Denoising trains a network that denoises, and net is an"),
        (("callbacks=demo's",), "^callbacks.validation measures .* than Autoencoding trains; callbacks=autoencoder$"),
        (("preview=videos",), "^preview is of no use to recipe Autoencoding, .* preview=null$"),
        (("path=linear",), "^path is of no use to recipe Autoencoding"),
        (("callbacks.validation.sheet_clips=-1",), "sheet_clips=-1 must be at least 0"),
        (("lora=default",), "lora"),
    ],
)
def test_parts_that_do_not_go_together(overrides: tuple[str, ...], said: str, folder: Path, demo: Any) -> None:
    """In one line, before anything is written."""
    theirs = [each.partition("=")[0] for each in overrides if each.endswith("=demo's")]
    plain = config("name=refused", "trainer.max_steps=1", *(each for each in overrides if not each.endswith("'s")))
    plain |= {group: demo[group] for group in theirs}
    if "codec=tiny" in overrides:
        plain["codec"] = {**plain["codec"], **files(folder)}
    with pytest.raises(ValueError, match=said) as caught:
        run.train(plain)
    assert "\n" not in str(caught.value) and not (folder / "runs/refused").exists()


def test_a_denoising_run_without_noise_is_refused(folder: Path, demo: Any) -> None:
    for key in ("objective", "sampling"):
        with pytest.raises(ValueError, match=f"^{key} is null, and recipe Denoising needs it"):
            run.build({**demo, key: None})
    own = config()
    with pytest.raises(ValueError, match="^net is a Backbone, and recipe Autoencoding trains an autoencoder"):
        run.build({**demo, "recipe": own["recipe"], "callbacks": own["callbacks"]})
