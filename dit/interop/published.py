"""A published model's whole folder, as diffusers saves a pipeline, as the config of a run that has all its parts.

`model_index.json` names the class of the pipeline; each part says the rest of itself in its own config.json. What the
class does by itself (the shape of a clip, steps, guidance, which texts its encoders are handed) is `PIPELINES`. The
config is made of the same nodes as a checkpoint's, and is built in the same way: training and sampling know no other.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from dit.folders import CONFIG, PIPELINE, read_config, read_json
from dit.foreign import shown
from dit.interop.diffusers import Stored, open_folder, to_diffusers
from dit.interop.files import whole
from dit.interop.presets import compose_part, with_values
from dit.interop.schedulers import Scheduler, of_scheduler
from dit.net.backbone import Backbone

NETWORK, LOW_NOISE = "transformer", "transformer_2"
EXPERTS = {"high": NETWORK, "low": LOW_NOISE}  # networks by the noise levels that they are for
SCHEDULER = "scheduler_config.json"
CLASSES = "id2label"
COPIED = (".json", ".txt", ".model", ".jinja", ".safetensors")


class Guided(NamedTuple):
    """How a scale guides: the scale of classifier-free guidance, and signals for the network."""

    scale: float
    signals: dict[str, Any]


def classifier_free(scale: float) -> Guided:
    """`uncond + scale (cond - uncond)`; up to 1 the conditioned network alone."""
    return Guided(max(scale, 1.0), {})


def beyond_conditioned(scale: float) -> Guided:
    """`cond + scale (cond - uncond)` (Cosmos); the class takes scales up to 1 for none."""
    return Guided(scale + 1 if scale > 1 else 1.0, {})


def told(scale: float) -> Guided:
    """The network is told the scale, and nothing else guides (HunyuanVideo); in training it is told 1."""
    target = {"_target_": "dit.signals.guidance.GuidanceScale", "_partial_": True}
    return Guided(1.0, {"guidance": {**target, "scale": scale, "in_training": 1.0}})


@dataclass(frozen=True)
class Recipe:
    """What a class of diffusers does by itself.

    Attributes:
        text: the choice of configs/text; None: it reads no text.
        num_frames, height, width: of a clip unless it is told others, in pixels; None: as large as the network's
            `sample_size` of latents. fps: frames a second.
        num_steps, scale: solver steps and guidance scale unless it is told others.
        guided: what the scale does: entries of the config.
        net: values of the network beside what its config.json says, by their place.
        scaled_by: setting of the scheduler by which latents are multiplied.
        signals: entries of the config; None leaves out one that the network could read.
        of_frames: whether each latent frame has a noise level of its own (diffusion forcing).
        given: how it is shown given frames: the choice of configs/given, and what stands in unknown frames.
        conditioning: the choice of configs/conditioning, which frames it was trained to be given: `none`, `i2v`, ...
        variants: setting of model_index.json -> fields of the recipe that differ where it is true.
    """

    text: str | None
    num_frames: int
    height: int | None
    width: int | None
    fps: float
    num_steps: int
    scale: float
    guided: Callable[[float], Guided] = classifier_free
    net: Mapping[str, Any] = field(default_factory=dict)
    scaled_by: str | None = None
    signals: Mapping[str, Any] = field(default_factory=dict)
    of_frames: bool = False
    given: tuple[str, str] = ("held", "nearest")
    conditioning: str = "none"
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of_index(self, index: Mapping[str, Any]) -> Recipe:
        """The recipe for a folder with this model_index.json."""
        changed = [changes for setting, changes in self.variants.items() if index.get(setting) is True]
        return replace(self, **{name: value for changes in changed for name, value in changes.items()})


# Of the classes' `__call__` in diffusers 0.42.1; frame rates are those of their examples.
PIPELINES = {
    "WanPipeline": Recipe("wan", 81, 480, 832, 16.0, 50, 5.0),
    "SkyReelsV2Pipeline": Recipe("wan", 97, 544, 960, 24.0, 50, 6.0),
    "LTXPipeline": Recipe("ltx", 161, 512, 704, 25.0, 50, 3.0, net={"position.first": "stride"}),
    "CogVideoXPipeline": Recipe("cogvideox", 49, 480, 720, 8.0, 50, 6.0),
    "HunyuanVideoPipeline": Recipe("hunyuan_video", 129, 720, 1280, 24.0, 50, 6.0, told),
    "MochiPipeline": Recipe("mochi", 19, 480, 848, 30.0, 64, 4.5),
    "AllegroPipeline": Recipe("allegro", 88, 720, 1280, 15.0, 100, 7.5),
    "CosmosTextToWorldPipeline": Recipe(
        "cosmos", 121, 704, 1280, 30.0, 36, 7.0, beyond_conditioned, scaled_by="sigma_data"
    ),
    "Cosmos2TextToImagePipeline": Recipe("cosmos", 1, 768, 1360, 16.0, 35, 7.0, beyond_conditioned),
    # It says no frame rate to the network, whose frames are then one apart.
    "Cosmos2_5_PredictBasePipeline": Recipe(
        "cosmos25", 93, 704, 1280, 16.0, 36, 7.0, beyond_conditioned, signals={"fps": None}
    ),
    "LattePipeline": Recipe("latte", 16, 512, 512, 8.0, 50, 7.5),
    "DiTPipeline": Recipe(None, 1, None, None, 1.0, 50, 4.0),
    **{
        f"SkyReelsV2DiffusionForcing{kind}Pipeline": Recipe("wan", 97, 544, 960, 24.0, 50, scale, of_frames=True)
        for kind, scale in (("", 6.0), ("ImageToVideo", 5.0), ("VideoToVideo", 6.0))
    },
}


@dataclass(frozen=True)
class Published:
    """A folder, opened and checked as far as can be without reading its weights.

    Attributes:
        class_name: of its pipeline. config: as a checkpoint of ours holds one. network: where the weights of `net` are.
        low_noise: those of a second network, for noise levels below `boundary` (Wan 2.2).
        classes: names of the classes that the network knows, in the order of their numbers.
    """

    folder: Path
    class_name: str
    config: dict[str, Any]
    network: Stored
    low_noise: Stored | None = None
    boundary: float | None = None
    classes: tuple[str, ...] = ()

    def for_expert(self, expert: str | None) -> dict[str, Any]:
        """`config` for the training of one network: of two, None is that of the high noise levels, as in `config`.

        Raises ValueError for a choice where there is one network.
        """
        if expert is not None and self.boundary is None:
            raise ValueError(
                f"init_expert={expert} chooses one of two networks by noise level, and {self.folder} has one for all"
                " levels: leave it out"
            )
        if expert != "low":
            return self.config
        return {**self.config, "levels": {**self.config["levels"], "low": 0.0, "high": self.boundary}}


def open_pipeline(
    folder: str | Path,
    key: str = "pretrained",
    guidance_scale: float | None = None,
    causal_block: int | None = None,
) -> Published:
    """Opens the folder of a whole pipeline.

    key: that names it, for messages. guidance_scale: as its own class takes it; None: its default. causal_block: of
    latent frames that see one another and those before, in models with a noise level for each frame (SkyReels-V2's
    `causal_block_size`); None: as its config.json says.

    Raises FileNotFoundError or ValueError, in one line: no model_index.json, a class, setting or scheduler that is not
    known here, a part that is missing or damaged.
    """
    root = Path(folder)
    if not (root / PIPELINE).is_file():
        what = "is not there" if not root.exists() else f"has no {PIPELINE}"
        raise FileNotFoundError(f"{key}={folder} {what}: the folder of a whole pipeline of diffusers is wanted")
    index = read_json(root / PIPELINE)
    name = index.get("_class_name")
    recipe = PIPELINES.get(name) if isinstance(name, str) else None
    if recipe is None:
        known = ", ".join(PIPELINES)
        raise ValueError(f"{root / PIPELINE}: the class {shown(name)} is not known here; there are {known}")
    recipe = recipe.of_index(index)
    network = open_folder(root / NETWORK)
    guided = recipe.guided(recipe.scale if guidance_scale is None else guidance_scale)
    said = _scheduler(root)
    scheduler = of_scheduler(said, network.family.class_name, name)
    net = _in_blocks(with_values(network.config, recipe.net), recipe, causal_block, str(name))
    if recipe.of_frames:
        scheduler = _of_frames(scheduler, net)
    codec = {
        "folder": str(root / "vae"),
        "scale": 1.0 if recipe.scaled_by is None else said.get(recipe.scaled_by, 0.5),
        "lead": network.config["patch"][0] - 1,  # CogVideoX 1.5 alone takes several frames as a token
    }
    config = {
        "net": net,
        "codec": compose_part("codec", "pretrained", codec),
        "text": None if recipe.text is None else _text(recipe.text, root, index),
        "signals": {**recipe.signals, **guided.signals},
        "path": scheduler.path,
        "prediction": scheduler.prediction,
        "levels": scheduler.levels,
        "given": compose_part("given", recipe.given[0], {"unknown": recipe.given[1]}),
        "conditioning": compose_part("conditioning", recipe.conditioning, {}),
        "sampling": {
            "schedule": scheduler.schedule,
            "solver": scheduler.solver,
            "guidance": compose_part("guidance", "cfg", {"scale": guided.scale}),
            "num_steps": recipe.num_steps,
        },
        "data": {"num_frames": recipe.num_frames, **_size(recipe, root, network), "fps": recipe.fps},
    }
    low_noise, boundary = _low_noise(root, index, network)
    if boundary is not None:  # `net` is the network of the levels above it, and is trained on those
        between = {"_target_": "dit.diffusion.levels.Between", "low": boundary, "high": 1.0}
        config["levels"] = {**between, "levels": scheduler.levels}
    return Published(root, str(name), config, network, low_noise, boundary, _classes(root, index, network))


def _in_blocks(net: dict[str, Any], recipe: Recipe, causal_block: int | None, class_name: str) -> dict[str, Any]:
    """The config of the network with blocks of so many latent frames."""
    if causal_block is None:
        return net
    if not recipe.of_frames:
        raise ValueError(f"causal_block={causal_block}: a {class_name} has no causal blocks; leave it out")
    if type(causal_block) is not int or causal_block < 1:
        raise ValueError(f"causal_block={shown(causal_block)} must be a whole number of latent frames, at least 1")
    if causal_block == 1:  # which its class takes for attention to all frames
        return with_values(net, {"pattern": "F"})
    return with_values(net, {"pattern": "C", "templates.C.layout.block": causal_block})


def _of_frames(scheduler: Scheduler, net: Mapping[str, Any]) -> Scheduler:
    """The same with a level for each frame; those of a causal block share one."""
    group = net["templates"]["C"]["layout"]["block"] if net["pattern"] == "C" else 1
    schedule = {"_target_": "dit.sampling.schedule.Pyramid", "schedule": scheduler.schedule, "group": group, "lag": 0}
    levels = {"_target_": "dit.diffusion.levels.PerFrame", "levels": scheduler.levels}
    return replace(scheduler, schedule=schedule, levels=levels)


def _size(recipe: Recipe, root: Path, network: Stored) -> dict[str, int]:
    """Height and width in pixels."""
    if recipe.height is not None and recipe.width is not None:
        return {"height": recipe.height, "width": recipe.width}
    latents = network.config["position"]["reference"]["h"] * network.config["patch"][1]
    halvings = read_config(root / "vae").get("block_out_channels")
    if not isinstance(halvings, list) or not halvings:
        raise ValueError(f"{root / 'vae' / CONFIG}: block_out_channels={shown(halvings)} must be a list of channels")
    return dict.fromkeys(("height", "width"), latents * 2 ** (len(halvings) - 1))


def _classes(root: Path, index: Mapping[str, Any], network: Stored) -> tuple[str, ...]:
    """The names of its classes, where model_index.json says them (DiT's `id2label`)."""
    said = index.get(CLASSES)
    if said is None:
        return ()
    count = network.config["vectors"]["label"]["num_classes"] if "label" in network.config["vectors"] else 0
    if not isinstance(said, dict) or said.keys() != {str(number) for number in range(count)}:
        raise ValueError(f"{root / PIPELINE}: {CLASSES} must name each of the {count} classes of the network")
    names = tuple(said[str(number)] for number in range(count))
    if not all(isinstance(name, str) and name.isprintable() for name in names):
        raise ValueError(f"{root / PIPELINE}: {CLASSES} must name classes by texts of one line")
    return names


def _low_noise(root: Path, index: Mapping[str, Any], network: Stored) -> tuple[Stored | None, float | None]:
    """The second network of a pipeline that has two, and the noise level below which it is used."""
    boundary, there = index.get("boundary_ratio"), (root / LOW_NOISE).is_dir()
    if boundary is None and not there:
        return None, None
    if type(boundary) is not float or not 0 < boundary < 1 or not there:
        folder = "is there" if there else "is missing"
        raise ValueError(
            f"{root / PIPELINE}: boundary_ratio={shown(boundary)}, and a folder {LOW_NOISE} {folder}: two networks need"
            " both, the boundary a noise level between 0 and 1"
        )
    second = open_folder(root / LOW_NOISE)
    if second.config != network.config:
        raise ValueError(
            f"{root / LOW_NOISE} is another network than {root / NETWORK}: the two differ in their settings"
        )
    return second, boundary


def _text(choice: str, root: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """The text encoder of a folder; Mochi's says in model_index.json whether an empty prompt is hidden."""
    node = compose_part("text", choice, {"folder": str(root)})
    if "force_zeros_for_empty_prompt" in index:
        node["parts"]["tokens"]["hides_empty"] = index["force_zeros_for_empty_prompt"]
    return node


def _scheduler(root: Path) -> dict[str, Any]:
    file = root / "scheduler" / SCHEDULER
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is not there: without it nobody knows which noise levels the model was made for"
        )
    return read_json(file)


def write_pipeline(
    nets: Mapping[str, Backbone], source: str | Path, folder: str | Path, class_name: str | None = None
) -> str:
    """Writes the whole pipeline of `source` with other networks in their places, so that diffusers loads it. Returns
    the pipeline's class. Of the other parts settings, tokenizers and safetensors are copied; so is, of two networks,
    the one that is not given.

    nets: by the noise levels that they are for, `high` where one is for all.

    Raises FileNotFoundError or ValueError, in one line, where `source` is no whole pipeline or has no second network,
    and as `to_diffusers`.
    """
    published = open_pipeline(source, "pipeline")
    if "low" in nets and published.low_noise is None:
        raise ValueError(f"{source} has one network for all noise levels, and no {LOW_NOISE} to be replaced")
    index = read_json(published.folder / PIPELINE)
    replaced = {EXPERTS[expert]: net for expert, net in nets.items()}
    parts = [name for name, said in index.items() if isinstance(said, list) and any(said) and name not in replaced]
    with whole(folder) as part:
        for name, net in replaced.items():
            to_diffusers(net, part / name, class_name=class_name)
        for name in parts:
            if Path(name).name != name:
                raise ValueError(f"{published.folder / PIPELINE} names {name}, which is outside its folder")
            for file in sorted((published.folder / name).glob("*")):  # a part may be left to who loads it
                if file.suffix in COPIED and file.is_file():
                    (part / name).mkdir(exist_ok=True)
                    shutil.copyfile(file, part / name / file.name)
        shutil.copyfile(published.folder / PIPELINE, part / PIPELINE)
    return published.class_name
