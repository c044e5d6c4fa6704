"""What a checkpoint holds: the name of each entry, its content, and what a file without it means.

Whoever reads or writes an entry asks here. A checkpoint is a mapping of plain containers and tensors (`archive.py`
reads it). Entries that were added later say what files from before mean by having none (`absent`).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

T = TypeVar("T")
Weights = dict[str, Tensor]  # canonical name (`net.blocks.0...`, `text.*`) -> tensor


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One entry of a file.

    Attributes:
        name: its key.
        absent: what it is taken to be in a file that has none.
        always: whether every file has it; then `absent` is of no use.
    """

    name: str
    absent: Any = None
    always: bool = False

    def is_in(self, content: Mapping[str, Any]) -> bool:
        return self.name in content

    def of(self, content: Mapping[str, Any]) -> T:
        """The entry; KeyError where it is missing though every file has it."""
        found: T = content[self.name] if self.always or self.is_in(content) else deepcopy(self.absent)
        return found

    def put(self, content: MutableMapping[str, Any], value: T) -> None:
        content[self.name] = value


# -- what sampling needs, too

WEIGHTS: Entry[Weights] = Entry("state_dict", always=True)
"""Raw weights of what is trained; canonical names have no prefix of a compiler or wrapper."""
AVERAGES: Entry[dict[str, Weights]] = Entry("ema", {})
"""Profile -> averaged weights in float32, under the same names."""
CONFIG: Entry[dict[str, Any]] = Entry("config", always=True)
"""The resolved config of the run, plain containers."""
CLASSES: Entry[list[str] | None] = Entry("classes")
"""Names behind the numbers of a network that reads labels; None: it reads none."""
FROZEN: Entry[str | None] = Entry("frozen")
"""Fingerprint of the weights that stand still and lie beside the file (`FINGERPRINT`); None: the file holds all."""
DATA_CARDS: Entry[list[str]] = Entry("data_cards", [])
"""SHA-256 of the data cards (`data_card.json`) of all that the weights were trained on, in the order of training."""
ONLY: Entry[str | None] = Entry("only_weights")
"""Of a file to pass on (`exported.py`) the label of its one set of weights, `ema:narrow` or `raw`, which stand as
`WEIGHTS`; None: these are raw."""
STEP: Entry[int] = Entry("global_step", always=True)
"""Optimizer steps that are done. Written by Lightning, as the other two of its own below."""

# -- what a run needs to go on exactly

OPTIMIZERS: Entry[list[dict[str, Any]]] = Entry("optimizer_states", always=True)
"""State of the one optimizer that Lightning sees, in a list."""
LR_SCHEDULERS: Entry[list[dict[str, Any]]] = Entry("lr_schedulers", [])
LR_FACTOR: Entry[float | None] = Entry("lr_factor")
"""The share of the peak learning rate at which the next step would be made."""
DATA: Entry[dict[str, Any] | None] = Entry("VideoData")
"""Place in the stream of clips, and what the clips were (`data.module.VideoData.state_dict`)."""
RANDOM_STATES: Entry[list[dict[str, Any]]] = Entry("rng", [])
"""Of all ranks, in their order."""
SECONDS: Entry[float] = Entry("seconds", 0.0)
"""Wall-clock time of all processes of the run."""
UNWRITTEN_METRICS: Entry[list[dict[str, Any]]] = Entry("unwritten_metrics", [])
"""Rows that metrics.csv had no room for."""
UNWRITTEN_DETAILS: Entry[list[tuple[int, str, str]]] = Entry("unwritten_details", [])
"""Lines that details.csv had no room for: step, name, value; absent where it had room for all."""
RUNNING_LOSSES: Entry[list[list[float]]] = Entry("running_losses", always=True)
"""Losses of `net` since the last row of metrics.csv, a list for each rank."""
RUNNING_WEIGHTS: Entry[dict[str, list[list[float]]]] = Entry("running_weights", {})
"""What each of these losses, `net`'s among them, counts for in their mean; absent where all count alike."""
SEEN: Entry[tuple[int, int]] = Entry("seen", (0, 0))
"""Tokens and FLOPs of all ranks since the first step, of a run on clips of several shapes."""
OTHER_RUNNING_LOSSES: Entry[dict[str, list[list[float]]]] = Entry("running_losses_of", {})
"""The same of the other optimizers, by name; absent where there are none."""

# -- the file of weights that stand still, beside the checkpoints (`files.FROZEN`): `WEIGHTS`, and

FINGERPRINT: Entry[str] = Entry("fingerprint", always=True)
"""Of its weights; `FROZEN` of the run's checkpoints is the same."""


def lr_factor(content: Mapping[str, Any]) -> float | None:
    """The share of the peak learning rate at which a checkpoint stopped; None where it does not say."""
    if (factor := LR_FACTOR.of(content)) is not None:
        return float(factor)
    for scheduler in LR_SCHEDULERS.of(content):  # files from before there was `LR_FACTOR`
        for base, rate in zip(scheduler.get("base_lrs", ()), scheduler.get("_last_lr", ()), strict=False):
            if base:
                return float(rate) / float(base)
    return None
