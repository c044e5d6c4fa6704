"""Every published text-to-video family, fine-tuned out of its folder and handed back to diffusers."""

from __future__ import annotations

import copy
import functools
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from data.batch import Batch
from dit.engine import initial, published, run
from dit.interop.presets import CONFIGS
from dit.interop.published import PIPELINES
from dit.sampling.guidance import AsTrained
from dit.sampling.pipeline import Pipeline
from scripts import convert_weights
from scripts.twins.pipelines import TWINS, Asked, noise_for, relative, saved
from scripts.twins.pipelines import run as of_diffusers
from tests.data.videos import write_numbered
from tests.engine import small
from tests.interop.training_reference import FAMILIES, OF_IMAGES, OneLevel, reference

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytestmark = pytest.mark.timeout(900)
PROMPTS = ["a red circle moves left slowly", "a blue square"]
ASKED = Asked(PROMPTS, ["", ""], [3, 8], 5, 1.0)  # in fewer steps Cosmos' own rounding is above 1e-5
# Of the families whose pipelines load adapters; Cosmos' network does, and of the others neither.
LOADS_LORA = ("wan", "wan22", "skyreels_v2", "ltx", "cogvideox", "hunyuan_video", "mochi")
# All families go on in the same way: one of them, and one whose network is told something else in training.
GOES_ON = ("wan", "hunyuan_video")
IMAGE_FRAMES = {"allegro": 4}  # frames of the shortest clip; elsewhere 1, an image
FEW = (
    "data.num_workers=0", "data.val_clips=0", "trainer.accelerator=cpu", "callbacks.validation.every=null",
    "callbacks.checkpoints.every=1", "callbacks.metrics.every=1", "callbacks.progress.seconds=1000", "preview=none",
    "optim.lr=0.01", "lr_schedule.warmup_steps=1", "ema=constant", "caption_dropout=0.5", "text_cache=texts",
)  # fmt: skip


class Model(NamedTuple):
    """A pipeline of diffusers in miniature, and the folder that it was saved to."""

    name: str
    theirs: Any
    folder: Path

    @classmethod
    def saved(cls, name: str, tmp_path_factory: pytest.TempPathFactory) -> Model:
        folder = tmp_path_factory.mktemp(name)
        return cls(name, saved(name, folder), folder)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.saved(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index, prompt in enumerate(PROMPTS):
        Image.radial_gradient("L").rotate(40 * index).convert("RGB").resize((96, 64)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(prompt)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """Two videos, one without a caption, and an image among them."""
    folder = tmp_path_factory.mktemp("clips")
    for name in ("a", "b"):
        write_numbered(folder / f"{name}.mp4", fps=30)
    (folder / "a.txt").write_text(PROMPTS[0])
    for file in ("1.png", "1.txt"):
        (folder / file).write_bytes((pictures / file).read_bytes())
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # Counting takes long, for a metric alone.
    monkeypatch.setattr(run, "count_arithmetic", lambda _: SimpleNamespace(of_token=lambda _: 1.0))
    return tmp_path


@functools.cache
def composed(*choices: str) -> dict[str, Any]:
    """The experiment as the command line composes it."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        found = hydra.compose("train", ["experiment=finetune", "data.root=?", *FEW, *choices])
    return OmegaConf.to_container(found, resolve=True)  # type: ignore[return-value]


def config(model: Model, clips: Path, *choices: str, num_frames: int | None = None, **more: Any) -> dict[str, Any]:
    """What `train.py experiment=finetune` is told, with clips of the size that the pipeline is asked for."""
    asked = copy.deepcopy(composed(*choices))
    frames, height, width = TWINS[model.name].shape
    sizes = {"num_frames": frames if num_frames is None else num_frames, "height": height, "width": width}
    asked["data"].update(root=str(clips), **sizes)
    return {**asked, "init_from": str(model.folder), **more}


def train(asked: dict[str, Any], steps: int, **changes: Any) -> dict[str, Any]:
    """Trains up to a step; returns the last checkpoint."""
    asked = {**asked, **changes, "trainer": {**asked["trainer"], "max_steps": steps}}
    run.train(asked)
    return small.load(Path("runs") / asked["name"])


def convert(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["convert_weights.py", *arguments])
    convert_weights.main()


def differs(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return [at for key in small.EXACT for at in small.same(ours[key], theirs[key], key)]


def samples(model: Model, run_or_file: str, **more: Any) -> tuple[Tensor, Tensor]:
    """(the noise, the latents that a run of ours makes of it), in the size and terms of the pipeline of diffusers."""
    frames, height, width = TWINS[model.name].shape
    shape = {"num_frames": frames, "height": height, "width": width}
    guided = PIPELINES[type(model.theirs).__name__].guided(ASKED.scale)
    own = AsTrained(guided.scale, None, None)
    pipeline = Pipeline.from_checkpoint(run_or_file, device="cpu", guidance=own, **shape, **more)
    noise = noise_for(pipeline, 2)
    said = {name: node["scale"] for name, node in guided.signals.items()}
    return noise, pipeline(ASKED.prompts, ASKED.seeds, noise=noise, signals=said, num_steps=ASKED.num_steps).latents


def loaded(model: Model, folder: str | Path) -> Any:
    """A pipeline as diffusers' own class loads it."""
    more = {"safety_checker": model.theirs.safety_checker} if model.name == "cosmos" else {}
    made = type(model.theirs).from_pretrained(folder, **more)
    made.set_progress_bar_config(disable=True)
    return made


def untrained(model: Model, noise: Tensor) -> Tensor:
    """Latents of the pipeline that nobody has trained: for all tests of it the same."""
    if model.folder not in UNTRAINED:
        UNTRAINED[model.folder] = noise, of_diffusers(model.theirs, model.name, noise, ASKED, "latent")
    kept, latents = UNTRAINED[model.folder]
    assert torch.equal(kept, noise)
    return latents


UNTRAINED: dict[Path, tuple[Tensor, Tensor]] = {}


def test_weights_come_back_as_a_pipeline(
    model: Model, clips: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On clips and images, stopped and gone on with bit for bit; captions are encoded once; what is handed back are the
    averaged weights."""
    asked = config(model, clips, name="tuned")
    asked["data"]["image_frames"] = IMAGE_FRAMES.get(model.name, 1)
    if model.name not in GOES_ON:
        train(asked, 2)
    else:
        straight = train(asked, 2, name="straight")
        with monkeypatch.context() as patched:  # captions and the empty prompt are kept
            patched.setattr("dit.text.pretrained.load_encoder", lambda *_: pytest.fail("an encoder was loaded again"))
            train(asked, 1)
            assert differs(train(asked, 2), straight) == []
    if model.name != "wan22":
        convert(monkeypatch, "runs/tuned", "exported", "--to", "pipeline")
        noise, made = samples(model, "runs/tuned")
    else:  # the other expert on its own, and both go back
        train(asked, 1, name="low", init_expert="low")
        convert(monkeypatch, "runs/tuned", "exported", "--to", "pipeline", "--low-noise", "runs/low")
        noise, made = samples(model, "runs/tuned", low_noise_ckpt="runs/low")
    assert relative(made, of_diffusers(loaded(model, "exported"), model.name, noise, ASKED, "latent")) < 1e-5
    assert relative(made, untrained(model, noise)) > 1e-3, "nothing was trained"


def with_adapters(model: Model, clips: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """diffusers' pipeline with the adapters of `runs/adapted`, which was stopped and went on bit for bit."""
    asked = config(model, clips, "lora=default", "lora.rank=2", name="adapted")
    straight = train(asked, 2, name="straight")
    train(asked, 1)
    assert differs(train(asked, 2), straight) == []
    convert(monkeypatch, "runs/adapted", "lora", "--to", "lora")
    theirs = loaded(model, model.folder)
    theirs.load_lora_weights("lora")
    return theirs


def test_adapters_on_images_come_back_as_a_lora(
    model: Model, pictures: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = IMAGE_FRAMES.get(model.name, 1)
    asked = config(model, pictures, "lora=default", "lora.rank=2", num_frames=frames, name="adapted")
    if model.name in GOES_ON:
        straight = train(asked, 2, name="straight")
        train(asked, 1)
        assert differs(train(asked, 2), straight) == []
    else:
        train(asked, 2)
    if model.name == "wan22":
        train(asked, 2, name="low", init_expert="low")
    noise, made = samples(model, "runs/adapted", **({"low_noise_ckpt": "runs/low"} if model.name == "wan22" else {}))
    if model.name in LOADS_LORA or model.name == "cosmos":
        convert(monkeypatch, "runs/adapted", "lora", "--to", "lora")
        theirs = loaded(model, model.folder)
        if model.name == "wan22":
            convert(monkeypatch, "runs/low", "low", "--to", "lora")
            theirs.load_lora_weights("low", load_into_transformer_2=True)
        if model.name == "cosmos":
            theirs.transformer.load_lora_adapter("lora", use_safetensors=True)
        else:
            theirs.load_lora_weights("lora")
    else:
        with pytest.raises(ValueError, match="of diffusers loads no adapters: write the weights with them merged"):
            convert(monkeypatch, "runs/adapted", "lora", "--to", "lora")
        convert(monkeypatch, "runs/adapted", "merged", "--to", "pipeline")
        theirs = loaded(model, "merged")
    assert relative(made, of_diffusers(theirs, model.name, noise, ASKED, "latent")) < 1e-5
    assert relative(made, untrained(model, noise)) > 1e-4, "they do nothing"


def loss_of_a_step(
    model: Model, asked: dict[str, Any], pixels: torch.Tensor, eps: torch.Tensor, number: float,
    patched: pytest.MonkeyPatch,
) -> torch.Tensor:  # fmt: skip
    """Our loss of a training step with this noise."""
    level = {"_target_": f"{OneLevel.__module__}.OneLevel", "level": 0.5}
    asked = {**asked, "levels": level, "objective": {**asked["objective"], "levels": level}}
    module = run.build(asked).module
    initial.load(module, str(model.folder), "raw", True, asked["init_expert"])
    family = {**FAMILIES, **OF_IMAGES}[model.name]
    module.objective.levels.level = family.level(number, module.objective.path)
    patched.setattr("dit.diffusion.loss.noise_like", lambda x0, generator: eps)
    patched.setattr(random, "random", iter([0.9, 0.1]).__next__)  # caption_dropout=0.5 drops the second
    fps = torch.full((len(pixels),), published.completed(asked, Path("none"))["data"]["fps"])
    return module.training_step(Batch(pixels, ["0", "1"], {"caption": PROMPTS, "fps": fps}), 0).detach()


def test_a_step_has_the_loss_of_the_public_trainer(
    model: Model, pictures: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two clips the second is shown without its caption: then the trainer asks with an empty prompt."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(2, 3, *TWINS[model.name].shape, generator=generator) * 2 - 1
    x0 = FAMILIES[model.name].clean(model.theirs, pixels)
    eps = torch.randn(x0.shape, generator=generator)
    asked = config(model, pictures, name="a")
    for expert, step in ({"high": 1, "low": 3} if model.name == "wan22" else {None: 2}).items():
        wanted, number = reference(model.theirs, model.name, x0, eps, [PROMPTS[0], ""], 5, step)
        mine = loss_of_a_step(model, {**asked, "init_expert": expert}, pixels, eps, number, monkeypatch)
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=0)
