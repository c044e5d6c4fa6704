"""Every published text-to-video family, fine-tuned out of its folder and handed back to diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from data.batch import Batch
from dit.engine import initial, run
from dit.interop.presets import CONFIGS
from scripts.twins.pipelines import TWINS, saved
from tests.interop.training_reference import FAMILIES, OneLevel, reference

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytestmark = pytest.mark.timeout(900)
PROMPTS = ["a red circle moves left slowly", "a blue square"]
FEW = (
    "data.num_workers=0", "data.val_clips=0", "trainer.accelerator=cpu", "callbacks.validation.every=null",
    "callbacks.checkpoints.every=1", "callbacks.metrics.every=1", "callbacks.progress.seconds=1000", "preview=none",
    "optim.lr=0.01", "caption_dropout=0.5", "text_cache=null",
)  # fmt: skip


class Model(NamedTuple):
    """A pipeline of diffusers in miniature, and the folder that it was saved to."""

    name: str
    theirs: Any
    folder: Path


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp(request.param)
    return Model(request.param, saved(request.param, folder), folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index, prompt in enumerate(PROMPTS):
        Image.radial_gradient("L").rotate(40 * index).convert("RGB").resize((96, 64)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(prompt)
    return folder


def config(model: Model, clips: Path, name: str, *overrides: str) -> dict[str, Any]:
    """What `train.py experiment=finetune` is told, with clips of the size that the pipeline is asked for."""
    frames, height, width = TWINS[model.name].shape
    sizes = (f"data.num_frames={frames}", f"data.height={height}", f"data.width={width}")
    begin = ("experiment=finetune", f"init_from={model.folder}", f"data.root={clips}", f"name={name}")
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = hydra.compose("train", [*begin, *sizes, *FEW, *overrides])
    return OmegaConf.to_container(composed, resolve=True)  # type: ignore[return-value]


def loss_of_a_step(
    model: Model, asked: dict[str, Any], pixels: torch.Tensor, eps: torch.Tensor, number: float,
    patched: pytest.MonkeyPatch,
) -> torch.Tensor:  # fmt: skip
    """Our loss of a training step with this noise."""
    level = {"_target_": f"{OneLevel.__module__}.OneLevel", "level": 0.5}
    asked = {**asked, "levels": level, "objective": {**asked["objective"], "levels": level}}
    module = run.build(asked).module
    initial.load(module, str(model.folder), "raw", True, asked["init_expert"])
    module.objective.levels.level = FAMILIES[model.name].level(number, module.objective.path)
    patched.setattr("dit.diffusion.loss.noise_like", lambda x0, generator: eps)
    fps = torch.full((len(pixels),), run.published.completed(asked, Path("none"))["data"]["fps"])
    return module.training_step(Batch(pixels, ["0", "1"], {"caption": PROMPTS, "fps": fps}), 0).detach()


@pytest.mark.parametrize("dropped", [False, True], ids=["captions", "no captions"])
def test_a_step_has_the_loss_of_the_public_trainer(
    model: Model, pictures: Path, dropped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(2, 3, *TWINS[model.name].shape, generator=generator) * 2 - 1
    x0 = FAMILIES[model.name].clean(model.theirs, pixels)
    eps = torch.randn(x0.shape, generator=generator)
    prompts = ["", ""] if dropped else PROMPTS
    asked = config(model, pictures, "a", f"caption_dropout={float(dropped)}")
    steps = {"high": 1, "low": 3} if model.name == "wan22" else {None: 2}
    for expert, step in steps.items():
        _, wanted, number = reference(model.theirs, model.name, pixels, eps, prompts, 5, step)
        mine = loss_of_a_step(model, {**asked, "init_expert": expert}, pixels, eps, number, monkeypatch)
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=0)
