"""Parts of a pipeline from a checkpoint file: which file, which weights, and nothing executed that is not ours.

The config keys that sampling relies on stand here and nowhere else, with the kind of thing that each may hold: a file
may come from a stranger (docs/security.md). The entries of a file are those of `dit.checkpoint.entries`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dit.checkpoint import entries, files
from dit.checkpoint.opened import check_weights, choose, find, read, under
from dit.config.renamed import current
from dit.diffusion.conditioning import Conditioning
from dit.diffusion.given import HELD, Showing
from dit.diffusion.levels import Levels
from dit.diffusion.path import Path as NoisePath
from dit.diffusion.prediction import Prediction
from dit.foreign import Kind, Refused, build, check_counts, check_plain, shown
from dit.interop.recipes import TakesGiven
from dit.machine import memory, size_in_words
from dit.sampling.guidance import Guidance
from dit.sampling.schedule import Schedule
from dit.sampling.solvers import Solver
from dit.signals.base import Around, Signal
from dit.signals.builtin import completed

TRUSTED: tuple[str, ...] = ()  # packages of the user; what of this project may be built where, `KINDS` says
LEVELS = tuple(f"dit.diffusion.{name}" for name in ("levels", "shift", "moving", "timesteps"))
SCHEDULES = ("dit.sampling.schedule", "dit.sampling.published_schedules", *LEVELS[:2])  # with their shifts
PATHS = ("dit.diffusion.path", "dit.diffusion.discrete")
CLIPS = ("data.worlds.world.World", "data.worlds.phyworld.dataset.PhyWorld")  # whose truth is known: what measures need
SOLVERS = ("dit.sampling.solvers", "dit.sampling.stochastic", "dit.sampling.unipc")
KINDS = {
    "net": Kind(nn.Module, "dit.net"),
    "lora": Kind(Any, "dit.adapters.LoRA"),
    "codec": Kind(nn.Module, "dit.codec"),
    "text": Kind(nn.Module, "dit.text"),
    "signals": Kind(Callable[[Around], Signal], "dit.signals"),  # of each entry
    "path": Kind(NoisePath, *PATHS),
    "prediction": Kind(Prediction, "dit.diffusion.prediction", "dit.diffusion.timesteps"),
    "levels": Kind(Levels, *LEVELS, *PATHS),
    "conditioning": Kind(Conditioning, "dit.diffusion.conditioning"),
    "given": Kind(Showing, "dit.diffusion.given"),
    "sampling.schedule": Kind(Schedule, *SCHEDULES),
    "sampling.solver": Kind(Solver, *SOLVERS),
    "sampling.guidance": Kind(Guidance, "dit.sampling.guidance"),
    "data.train": Kind(Any, *CLIPS),
    "data.val": Kind(Any, *CLIPS),
}
MEASURED = ("net", "text", "codec")  # parts with weights


@dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint, as far as sampling needs it.

    Attributes:
        file: where it came from.
        weights: raw weights under canonical keys (`net.*`, `text.*`, `codec.*`).
        ema: profile -> averaged weights under the same keys.
        config: the resolved training config, plain containers.
        frozen: the fingerprint of the weights that lie beside the file, once for the whole run; None: it holds all.
        classes: names of the classes that a network with labels was trained on.
        step: optimizer steps behind the weights; None where the file does not say.
        data_cards: hashes of the cards of all data that they were trained on.
        only: what `weights` are where the file holds one set of them (`dit.checkpoint.exported`); None: raw ones.
    """

    file: Path
    weights: dict[str, Tensor]
    ema: dict[str, dict[str, Tensor]]
    config: dict[str, Any]
    frozen: str | None = None
    classes: tuple[str, ...] = ()
    step: int | None = None
    data_cards: tuple[str, ...] = ()
    only: str | None = None

    @classmethod
    def load(cls, run_or_file: str | Path) -> Checkpoint:
        """Reads a checkpoint file, or the last one of a run directory.

        Raises:
            FileNotFoundError: nothing there, and the message lists what is near; or not the weights beside adapters.
            ValueError: not a checkpoint of this project, or damaged, or the weights beside it are of another run.
        """
        file = find(run_or_file)
        content = read(file, (entries.WEIGHTS, entries.CONFIG), "take another one of the run, or copy it again")
        raw, config = entries.WEIGHTS.of(content), entries.CONFIG.of(content)
        frozen, ema = entries.FROZEN.of(content), entries.AVERAGES.of(content)
        if not isinstance(config, dict):
            raise ValueError(f"{file} is not a checkpoint of this project: its config is no mapping")
        if not isinstance(ema, dict):
            raise ValueError(f"{file} is not a checkpoint of this project: its ema is no mapping")
        for name, weights in {entries.WEIGHTS.name: raw, **{f"ema {name}": ema[name] for name in ema}}.items():
            check_weights(file, name, weights)
        beside = {} if frozen is None else _frozen(file, frozen)
        names = [] if entries.CLASSES.of(content) is None else entries.CLASSES.of(content)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{file} is not a checkpoint of this project: its classes are no list of names")
        step = entries.STEP.of(content) if entries.STEP.is_in(content) else None
        step = step if type(step) is int else None
        cards = entries.DATA_CARDS.of(content)
        if not isinstance(cards, list) or not all(isinstance(card, str) for card in cards):
            raise ValueError(f"{file} is not a checkpoint of this project: its {entries.DATA_CARDS.name} are no hashes")
        only = entries.ONLY.of(content)
        return cls(file, {**beside, **raw}, ema, config, frozen, tuple(names), step, tuple(cards), only)

    def moved(self, folders: Mapping[str, str]) -> Checkpoint:
        """This checkpoint with published parts in other folders: `text`, `codec`, `image` (the signal) -> folder.

        Raises ValueError for a part that is read from no folder.
        """
        config = copy.deepcopy(self.config) if folders else self.config
        for name, folder in folders.items():
            node = config.get("signals") if name == "image" else config
            part = node.get(name) if isinstance(node, dict) else None
            halves = [half for half in ("encoder", "decoder") if isinstance(part, dict) and type(part.get(half)) is str]
            place = next((key for key in ("folder", "ckpt") if isinstance(part, dict) and key in part), None)
            if not isinstance(part, dict) or not (place or halves):
                raise ValueError(f"folders.{name}={folder}: {self.file} reads no {name} from a folder")
            if place:
                part[place] = folder
            else:  # of files, which keep their names
                part.update({half: str(Path(folder) / Path(part[half]).name) for half in halves})
        return replace(self, config=config)

    def value(self, *path: str) -> Any:
        """The plain value that the config holds at `path`; ValueError where it holds nothing, or no plain value."""
        node: Any = self.config
        for depth, key in enumerate(path):
            if not isinstance(node, Mapping) or key not in node:
                raise ValueError(f"the config in {self.file} has no {'.'.join(path[: depth + 1])}")
            node = node[key]
        with self._naming():
            check_plain(node, ".".join(path))
        return current(node)

    def clip(self) -> dict[str, Any]:
        """`num_frames`, `height`, `width` and `fps` of the clips that it was trained on. ValueError where the config
        holds something else, or clips that no memory here holds."""
        found = {name: self.number("data", name) for name in ("num_frames", "height", "width", "fps")}
        with self._naming():
            _check_clip(found, "data")
        return found

    def number(self, *path: str) -> Any:
        """The number that the config holds at `path`; ValueError where it holds something else."""
        value = self.value(*path)
        if type(value) not in (int, float):
            raise ValueError(f"{self.file}: {'.'.join(path)} is {shown(value)}, which is no number")
        return value

    def saw_given(self) -> TakesGiven:
        """Whether the run was trained with given frames, and ever without; where the config does not say, with both."""
        conditioning = self.config.get("conditioning")
        tasks = conditioning.get("tasks") if isinstance(conditioning, Mapping) else None
        parts = [conditioning, *(tasks.values() if isinstance(tasks, Mapping) else ())]
        names = {str(part.get("_target_")).rpartition(".")[2] for part in parts if isinstance(part, Mapping)}
        given = names - {"Unconditional", "RandomTasks", "NoFrame"}
        if names and not given:
            return "never"
        return "may" if not names or names & {"Unconditional", "NoFrame", "RandomSubset"} else "always"

    def given(self, trusted: Sequence[str] = TRUSTED) -> Showing:
        """How the network is shown given frames; runs of before had one way."""
        return HELD if self.config.get("given") is None else self.part("given", trusted=trusted)

    def per_frame(self, trusted: Sequence[str] = TRUSTED) -> bool:
        """Whether the run was trained with a noise level for each frame; so it is taken to be where the config does not
        say, or says it by a class that is not built."""
        if self.config.get("levels") is None:
            return True
        try:
            return bool(self.part("levels", trusted=trusted).per_frame)
        except ValueError:
            return True

    def interval(self, trusted: Sequence[str] = TRUSTED) -> tuple[float, float]:
        """The lowest and the highest noise level that the run was trained for; all where the config does not say, or
        says it by a class that is not built."""
        if self.config.get("levels") is None:
            return 0.0, 1.0
        try:
            low, high = self.part("levels", trusted=trusted).interval
            return float(low), float(high)
        except (ValueError, AttributeError):  # a class of somebody else's need not say
            return 0.0, 1.0

    def part(self, *path: str, trusted: Sequence[str] = TRUSTED, changes: Mapping[str, Any] | None = None) -> Any:
        """The object that the config holds at `path`, built; None where it holds null. `KINDS` says which may be.

        trusted: packages of the user, whose classes may be built too. Raises ValueError for anything else.
        changes: arguments in place of those of the config.
        """
        node = self.value(*path)
        if node is None:
            return None
        if changes:
            node = {**node, **changes}
        key = ".".join(path)
        return self._build(node, KINDS["signals" if path[0] == "signals" else key], key, trusted)

    def _build(self, node: Any, kind: Kind, key: str, trusted: Sequence[str]) -> Any:
        with self._naming():
            check_counts(node, key, len(self.weights))
            if key in MEASURED and not trusted:
                self._check_size(node, kind, key)
            elif key.startswith("data."):
                _check_clip(node, key)
            return build(node, kind, key, trusted)

    def signals(self, net: nn.Module, text: nn.Module | None, trusted: Sequence[str] = TRUSTED) -> dict[str, Signal]:
        """What the network is told, by name; where the config does not say, what its built parts imply."""
        said = self.value("signals") if self.config.get("signals") is not None else {}
        if not isinstance(said, Mapping):
            raise ValueError(f"{self.file}: signals is {shown(said)}, which is no mapping")
        around, kind = Around(net, text, self.classes), KINDS["signals"]
        nodes = completed(said, net, text)
        return {name: self._build(node, kind, f"signals.{name}", trusted)(around) for name, node in nodes.items()}

    def network(self, trusted: Sequence[str] = TRUSTED) -> Any:
        """The network that the config describes, with the adapters that it was trained with, if any."""
        node = self.config.get("net")
        if isinstance(node, dict) and str(node.get("_target_")).startswith("dit.codec."):
            raise ValueError(
                f"{self.file} is of an autoencoder, which makes no videos by itself: train a network on its latents"
                f" (experiment=demo_latent codec.ckpt={files.run_of(self.file)})"
            )
        net = self.part("net", trusted=trusted)
        lora = None if self.config.get("lora") is None else self.part("lora", trusted=trusted)
        if lora is not None:
            largest = max((len(value) for key, value in self.weights.items() if ".lora_A." in key), default=0)
            if lora.rank > largest:
                raise ValueError(f"{self.file}: lora.rank={lora.rank}, but the file's adapters have rank {largest}")
            lora(net)
        return net

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Puts the file in front of what is said of its config."""
        try:
            yield
        except Refused as error:
            raise ValueError(f"{self.file}: {error}") from error.__cause__

    def _check_size(self, node: Any, kind: Kind, key: str) -> None:
        """Raises Refused for a part with more weights than the file holds of it, before memory is taken for them.

        One of which the file holds nothing brings its own weights; it must fit into this machine's memory.
        """
        with torch.device("meta"):
            state = build(node, kind, key).state_dict().values()
        wanted = sum(tensor.numel() for tensor in state)
        held = sum(tensor.numel() for name, tensor in self.weights.items() if name.startswith(f"{key}."))
        if (held or key == "net") and wanted > held:
            raise Refused(f"{key} has {wanted:,} weights, but the file holds {held:,}: it does not fit its own config")
        _check_memory(sum(tensor.numel() * tensor.element_size() for tensor in state), f"{key} holds")

    def choose(self, weights: str) -> tuple[str, dict[str, Tensor]]:
        """(label, averaged weights) for `raw`, for `ema` (the profile that previews used), for a profile's name, or for
        `ema@0.1`, an average of another width.

        The label says which weights they are: `raw`, `ema:<profile>` or `ema@<width>`. For `raw` nothing is averaged.
        """
        return choose(weights, self.ema, self.config, self.file, self.step, self.only)

    def fill(self, parts: Mapping[str, nn.Module | None], averaged: Mapping[str, Tensor]) -> None:
        """Loads raw and then averaged weights into `parts` (`net`, `text`, `codec`), strictly.

        A part of which the file holds nothing was not trained and brings its own weights.
        """
        for name, module in parts.items():
            if module is not None and (name == "net" or under(name, self.weights)):
                module.load_state_dict(self.weights_of(name, module, averaged), strict=True)

    def weights_of(self, name: str, module: nn.Module, averaged: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a part, averaged ones where there are; they lie in the file until they are used. Raises
        ValueError for others than the part has."""
        raw, mean = (under(name, weights) for weights in (self.weights, averaged))
        weights, own = {**raw, **mean}, module.state_dict()
        for key in sorted(own.keys() ^ raw.keys()) + sorted(weights.keys() - raw.keys()):
            where = "the checkpoint" if key in own else "the network of its config"
            raise ValueError(f"{self.file} does not fit its own config: {name}.{key} is not in {where}")
        for key, value in weights.items():
            if value.shape != own[key].shape:
                raise ValueError(f"{self.file}: {name}.{key} is {tuple(value.shape)}, needed {tuple(own[key].shape)}")
        return weights


def _check_clip(clip: Any, key: str) -> None:
    """Raises Refused for clips that are larger than this machine's memory."""
    sizes: list[Any] = [clip.get(each) for each in ("num_frames", "height", "width")] if isinstance(clip, dict) else []
    if sizes and all(type(size) is int for size in sizes):
        _check_memory(3 * 4 * math.prod(sizes), f"{key} makes clips of {sizes[0]} frames of {sizes[1]}x{sizes[2]},")


def _check_memory(size: int, what: str) -> None:
    if size > (there := memory()):
        raise Refused(f"{what} {size_in_words(size)}, and this machine has {size_in_words(there)}")


def _frozen(file: Path, mark: str) -> dict[str, Tensor]:
    """The weights that a checkpoint's adapters stand beside."""
    beside = file.parent / files.FROZEN
    if not beside.is_file():
        raise FileNotFoundError(
            f"{file} holds adapters alone, and {beside} is not there, which holds the weights beside them: copy both"
        )
    content = read(beside, (entries.WEIGHTS, entries.FINGERPRINT), "copy it again; all checkpoints of the run share it")
    if entries.FINGERPRINT.of(content) != mark:
        raise ValueError(f"{beside} is of another run than {file.name} beside it: copy the two of one run")
    weights = entries.WEIGHTS.of(content)
    check_weights(beside, entries.WEIGHTS.name, weights)
    return weights
