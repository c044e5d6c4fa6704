"""A published model's whole folder, as diffusers saves a pipeline, as the config of a run that has all its parts.

`model_index.json` names the class of the pipeline; each part says the rest of itself in its own config.json. What the
class does by itself (the shape of a clip, steps, guidance, which texts its encoders are handed) is `recipes.PIPELINES`.
The config is made of the same nodes as a checkpoint's, and is built in the same way: training and sampling know no
other.
"""

from __future__ import annotations

import ast
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dit.folders import CONFIG, PIPELINE, read_config, read_json
from dit.foreign import shown
from dit.interop.diffusers import Stored, open_folder, to_diffusers
from dit.interop.files import whole
from dit.interop.presets import compose_part, with_values
from dit.interop.recipes import PIPELINES, Recipe, TakesGiven
from dit.interop.schedulers import Scheduler, of_scheduler
from dit.net.backbone import Backbone

log = logging.getLogger(__name__)

NETWORK, LOW_NOISE = "transformer", "transformer_2"
EXPERTS = {"high": NETWORK, "low": LOW_NOISE}  # networks by the noise levels that they are for
SCHEDULER = "scheduler_config.json"
CLASSES = "id2label"
NEGATIVE = "DEFAULT_NEGATIVE_PROMPT"
COPIED = (".json", ".txt", ".model", ".jinja", ".safetensors")


@dataclass(frozen=True)
class Asked:
    """What may be asked of a folder in the terms of its own class; None is that class's default.

    Attributes:
        guidance_scale: of the whole model.
        guidance_scale_2: of the network of the low noise levels, where there are two (Wan 2.2); None: the same.
        causal_block: latent frames that see one another and those before, in models with a noise level for each frame
            (SkyReels-V2's `causal_block_size`); None: as the network's config.json says.
    """

    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    causal_block: int | None = None


@dataclass(frozen=True)
class Published:
    """A folder, opened and checked as far as can be without reading its weights.

    Attributes:
        class_name: of its pipeline. config: as a checkpoint of ours holds one. network: where the weights of `net` are.
        low_noise: those of a second network, for noise levels below `boundary` (Wan 2.2).
        classes: names of the classes that the network knows, in the order of their numbers.
        takes_given: whether a sample may, or must, begin with given frames.
        negative_prompt: what guidance leads away from where nothing else is said.
    """

    folder: Path
    class_name: str
    config: dict[str, Any]
    network: Stored
    low_noise: Stored | None = None
    boundary: float | None = None
    classes: tuple[str, ...] = ()
    takes_given: TakesGiven = "may"
    negative_prompt: str = ""

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


def open_pipeline(folder: str | Path, key: str = "pretrained", asked: Asked = Asked()) -> Published:  # noqa: B008
    """Opens the folder of a whole pipeline. key: that names it, for messages.

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
    recipe = recipe.of_network(recipe, network.config, read_config(root / "vae"))
    guided = recipe.guided(recipe.scale if asked.guidance_scale is None else asked.guidance_scale)
    low_noise, boundary = _low_noise(root, index, network)
    said = _scheduler(root)
    scheduler = of_scheduler(said, network.family.class_name, name)
    net = _in_blocks(with_values(network.config, recipe.net), recipe, asked.causal_block, str(name))
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
        "text": None if recipe.text is None else _text(recipe, root, index),
        "signals": {**recipe.signals, **guided.signals, **_image(recipe, root)},
        "given": compose_part("given", recipe.given[0], {"unknown": recipe.given[1], **recipe.shows}),
        "conditioning": compose_part("conditioning", recipe.conditioning, {}),
        "path": scheduler.path,
        "prediction": scheduler.prediction,
        "levels": scheduler.levels,
        "sampling": {
            "schedule": scheduler.schedule,
            "solver": scheduler.solver,
            "guidance": _guidance(guided.scale, recipe, asked.guidance_scale_2, boundary, str(name)),
            "num_steps": recipe.num_steps,
        },
        "data": {"num_frames": recipe.num_frames, **_size(recipe, root, network), "fps": recipe.fps},
    }
    if boundary is not None:  # `net` is the network of the levels above it, and is trained on those
        between = {"_target_": "dit.diffusion.levels.Between", "low": boundary, "high": 1.0}
        config["levels"] = {**between, "levels": scheduler.levels}
    classes = _classes(root, index, network)
    negative = "" if recipe.negative is None else own_negative(recipe.negative)
    return Published(root, str(name), config, network, low_noise, boundary, classes, recipe.takes_given, negative)


def own_negative(module: str) -> str:
    """The negative prompt that a pipeline of diffusers takes where none is said, from the source that is installed: no
    folder holds it, and importing a pipeline takes seconds. Warns where there is none."""
    found = find_spec("diffusers")
    places = found.submodule_search_locations if found is not None else None
    file = Path(places[0] if places else "diffusers") / "pipelines" / module
    if file.is_file():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and [getattr(each, "id", None) for each in node.targets] == [NEGATIVE]:
                return str(ast.literal_eval(node.value))
    log.warning("%s has no %s: without a negative_prompt guidance leads away from an empty one", file, NEGATIVE)
    return ""


def _guidance(
    scale: float, recipe: Recipe, second: float | None, boundary: float | None, class_name: str
) -> dict[str, Any]:
    """Classifier-free guidance, of two networks each by its own scale. second: as the class takes it."""
    if second is None:
        return compose_part("guidance", "cfg", {"scale": scale})
    if boundary is None:
        raise ValueError(
            f"guidance_scale_2={second} is that of the second of two networks, and this {class_name} has one: leave it"
            " out"
        )
    return compose_part("guidance", "by_level", {"high.scale": scale, "low.scale": recipe.guided(second).scale})


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


def _image(recipe: Recipe, root: Path) -> dict[str, Any]:
    """The signal of pictures that the network reads through an image encoder."""
    if recipe.sees is None:
        return {}
    return compose_part("signals", "image", {"image.folder": str(root), "image.frames": recipe.sees})


def _text(recipe: Recipe, root: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """The text encoder of a folder; Mochi's says in model_index.json whether an empty prompt is hidden."""
    node = compose_part("text", str(recipe.text), {"folder": str(root), **recipe.reads})
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
