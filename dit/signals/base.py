"""What the network is told of a clip beside x_t and t: one `Signal` each (text, class, frame rate).

A signal takes its value of a clip from a training batch or from what is asked of a sample, knows the value that says
nothing, and turns values into entries of `cond`, whose shapes and dtypes it declares. `cond` is the union over the
signals of a run; training and sampling both make it here. Caption dropout puts "nothing" in the place of all values of
a clip at once, and guidance leads away from the same "nothing".

What is made of the latents themselves, the given frames, is no signal: `dit/diffusion/given.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from data.batch import Batch, Values

Cond = dict[str, Tensor]
Alone = Callable[[], AbstractContextManager[torch.device]]


class Entry(NamedTuple):
    """An entry of `cond`.

    shape: of one clip; a name stands for a size that the run decides (`text_tokens`, `text_width`, `pooled_width`).
    """

    shape: tuple[int | str, ...]
    dtype: torch.dtype

    def of(self, batch: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The whole shape, (batch, ...), names looked up in `sizes`."""
        return (batch, *(size if isinstance(size, int) else sizes[size] for size in self.shape))


@dataclass(frozen=True)
class Around:
    """The parts of a run that a signal may need.

    net: the network that reads it. encoder: of texts, None where there is none. classes: names of the data's classes,
    in the order of their numbers.
    """

    net: nn.Module
    encoder: nn.Module | None = None
    classes: Sequence[str] = ()


class Asked(Protocol):
    """What is asked of a sample (`dit.sampling.request.Request`). `signals` holds what is said by name, as it was
    written: texts from files and command lines, or numbers."""

    @property
    def prompt(self) -> str | int: ...
    @property
    def negative_prompt(self) -> str | None: ...
    @property
    def label(self) -> str | int | None: ...
    @property
    def signals(self) -> Mapping[str, Any]: ...


class Clip(Protocol):
    """The clip that a sample will be (`dit.sampling.canvas.Canvas`), in pixels."""

    @property
    def num_frames(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def fps(self) -> float: ...
    @property
    def begin(self) -> int:
        """With which frame of the whole it begins, where clips are chained."""

    @property
    def whole(self) -> int | None:
        """Frames of the whole; None: not known yet."""

    @property
    def first(self) -> Sequence[Tensor] | None:
        """The pictures that the samples begin with, in their own size, uint8 (3, h, w), one for all or one for each;
        None: none is given."""

    @property
    def last(self) -> Sequence[Tensor] | None:
        """Likewise those that they end with."""


class Data(Protocol):
    """What training data has to give beside pixels, captions and frame rates."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def columns(self) -> Collection[str]: ...


class Signal(ABC):
    """One thing that the network is told. Built with what is around it, and its settings by name.

    Attributes:
        around: the run that it belongs to.
        entries: key of `cond` -> shape and dtype.
        nothing: the value that says nothing: a text, or a number that fills the tensor; None: it is always said, and
            neither dropout nor guidance leaves it out.
        example: the value of some clip, of usual size, by which a network's arithmetic is counted.
        asked: names in `Asked.signals` that it reads.
        by_frame: whether its value has a part for each frame, so that clips that are chained are told other ones.
        frames: numbers of the pixel frames that it looks at in training, -1 the last; a latent cache keeps these.
        columns: names in `Batch.values` that the data must have for it, beside captions, frame rates and classes.
    """

    entries: ClassVar[Mapping[str, Entry]]
    nothing: ClassVar[Any] = None
    example: ClassVar[Any]
    asked: tuple[str, ...] = ()
    by_frame: ClassVar[bool] = False
    frames: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()

    def __init__(self, around: Around) -> None:
        self.around = around

    @abstractmethod
    def of_batch(self, batch: Batch) -> Values:
        """The values of B training clips: texts, or a tensor (B, ...) on the device of the pixels."""

    @abstractmethod
    def of_request(self, asked: Asked, clip: Clip) -> Any:
        """The value for a sample that is asked for. ValueError, in one line, for one that cannot be."""

    def away_from(self, asked: Asked, clip: Clip) -> Any:
        """The value that guidance leads away from."""
        return self.of_request(asked, clip) if self.nothing is None else self.nothing

    def gather(self, values: Sequence[Any], device: torch.device) -> Values:
        """Values of single clips as those of B clips."""
        if isinstance(values[0], str):
            return list(values)
        return torch.tensor(list(values), dtype=next(iter(self.entries.values())).dtype, device=device)

    @abstractmethod
    def encode(self, values: Values) -> Cond:
        """The entries of `cond` that say the values of B clips."""

    def check_ahead(self, wanted: Sequence[Asked], clip: Clip) -> None:  # noqa: B027 most need nothing
        """Raises ValueError or FileNotFoundError, in one line, for what `ahead` would fail at after a long time."""

    def ahead(self, wanted: Sequence[Asked], clip: Clip, alone: Alone) -> None:
        """Told of all samples before the first is made. A signal with a large encoder lets it say now what it will be
        asked, and lets go of it.

        alone: within this context the device, which it gives, is without the network.
        """
        return

    def paired(self, cond: Cond, uncond: Cond) -> Cond:
        """What guidance leads away from, beside what it leads to: `uncond`, unless one depends on the other."""
        return uncond

    def of_example(self) -> Cond:
        """The entries of one clip of usual size, on the CPU or where an encoder is; of right shapes, their values need
        not be."""
        return self.encode(self.gather([self.example], torch.device("cpu")))

    def check(self, data: Data, name: str) -> None:
        """Raises ValueError where the data lacks what this signal, `signals.<name>` of the config, is made from."""
        lacking = [column for column in self.columns if column not in data.columns]
        if lacking:
            there = ", ".join(data.columns) or "none"
            raise ValueError(
                f"signals.{name} is made from the column {lacking[0]} of the clips, and the data carries {there}:"
                f" data.columns=[{','.join([*data.columns, *lacking])}] reads it from the manifest"
            )


class Number(Signal):
    """A signal of one number a clip, which is its one entry of `cond`, (B,), as it stands. A sample that is asked for
    says it under the entry's name, or says nothing."""

    @property
    def key(self) -> str:
        """The entry."""
        return next(iter(self.entries))

    def of_request(self, asked: Asked, clip: Clip) -> Any:
        said = asked.signals.get(self.key)
        if said is None:
            return self.nothing
        try:
            value = float(said)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"signals.{self.key}={said} is no finite number")
        return value

    def encode(self, values: Values) -> Cond:
        assert isinstance(values, Tensor)
        return {self.key: values}


def cond_of_batch(signals: Mapping[str, Signal], batch: Batch, left_out: Sequence[bool] = ()) -> Cond:
    """The conditioning of training clips. left_out: bool a clip, True where all signals say nothing."""
    cond: Cond = {}
    mask = None
    for signal in signals.values():
        values = signal.of_batch(batch)
        if any(left_out) and signal.nothing is not None:
            if isinstance(values, Tensor):
                if mask is None:
                    mask = torch.tensor(list(left_out)).to(values.device, non_blocking=True)
                values = values.masked_fill(mask.view(-1, *[1] * (values.dim() - 1)), signal.nothing)
            else:
                values = [signal.nothing if out else value for value, out in zip(values, left_out, strict=True)]
        cond |= signal.encode(values)
    return cond


def cond_of_requests(
    signals: Mapping[str, Signal], wanted: Sequence[Asked], clip: Clip, device: torch.device, away: bool = False
) -> Cond:
    """The conditioning of samples that are asked for; `away`: what guidance leads them away from."""
    cond: Cond = {}
    for signal in signals.values():
        one = signal.away_from if away else signal.of_request
        cond |= signal.encode(signal.gather([one(asked, clip) for asked in wanted], device))
    return cond


def row_of(pictures: Sequence[Tensor] | None, index: int) -> Tensor | None:
    """The picture of one sample, of one for all or one for each."""
    return None if pictures is None else pictures[index if len(pictures) > 1 else 0]


def cond_of_example(signals: Mapping[str, Signal]) -> Cond:
    """The conditioning of one clip of usual size, on the CPU or where an encoder is."""
    return {key: value for signal in signals.values() for key, value in signal.of_example().items()}


def known(signals: Mapping[str, Signal]) -> list[str]:
    """Names of what can be said of a sample beside its prompt."""
    return [name for signal in signals.values() for name in signal.asked]


def check_asked(signals: Mapping[str, Signal], asked: Asked, clip: Clip) -> None:
    """Raises ValueError, in one line, for what a request says that none of the signals hears, or cannot be."""
    names = known(signals)
    for name, value in asked.signals.items():
        if name not in names:
            there = ", ".join(names) or "none"
            raise ValueError(f"signals.{name}={value}, but this network is told no {name}; what can be said: {there}")
    if asked.label is not None and "label" not in names:
        raise ValueError(f"label={asked.label}, but this network reads no class labels; leave it out")
    for signal in signals.values():
        signal.of_request(asked, clip)
