"""Two checkpoints as one network: each was trained for a part of the noise levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dit.diffusion.experts import ByLevel
from dit.diffusion.given import HELD_NODE
from dit.sampling.checkpoint import Checkpoint

SHARED = ("path", "prediction", "codec", "text", "signals", "given")  # of the config: one sampler serves both networks


def pair(
    high: Checkpoint,
    low: Checkpoint,
    net: nn.Module,
    weights: str,
    boundary: float | None,
    trusted: Sequence[str],
    network: Callable[[Checkpoint, Mapping[str, Tensor]], nn.Module],
) -> ByLevel:
    """`net`, which is that of `high`, above a noise level, and the network of `low` below it.

    Args:
        weights: of `low`, as in `Checkpoint.choose`.
        network: makes that of a checkpoint and its averages.
        boundary: the level; None is where the levels end for which the two were trained (`levels.Between`).

    Raises:
        ValueError: the two are for other levels, or differ in what both need; in one line.
    """
    for name in SHARED:
        ours, theirs = ({"given": HELD_NODE, **each.config}.get(name) for each in (high, low))
        if ours != theirs:
            raise ValueError(f"{low.file} has another {name} than {high.file}: one sampler cannot serve both networks")
    boundary = meeting(high, low, trusted) if boundary is None else boundary
    _, averaged = low.choose(weights)
    if differing := _other_text(high, low, high.choose(weights)[1], averaged):
        raise ValueError(
            f"{low.file} has another text encoder than {high.file} ({differing} differs), and a prompt is encoded once:"
            " train both from one run with recipe=frozen_text"
        )
    return ByLevel(net, network(low, averaged), boundary)


def meeting(high: Checkpoint, low: Checkpoint, trusted: Sequence[str]) -> float:
    """The noise level at which the parts that two runs were trained for meet."""
    ours, theirs = high.interval(trusted), low.interval(trusted)
    if ours[1] < 1 or theirs[0] > 0:
        raise ValueError(
            f"{high.file} was trained for noise levels {_words(ours)} and {low.file} for {_words(theirs)}: ckpt= is the"
            " network of the high levels, low_noise_ckpt= that of the low ones"
        )
    if ours[0] > 0 and theirs[1] < 1 and ours[0] != theirs[1]:
        raise ValueError(
            f"{high.file} was trained for noise levels {_words(ours)} and {low.file} for {_words(theirs)}, which do not"
            f" meet: say where to change, for example boundary={ours[0]:g}"
        )
    boundary = ours[0] if ours[0] > 0 else theirs[1]
    if boundary == 1:
        raise ValueError(
            f"{high.file} and {low.file} were both trained for all noise levels: say where to change, for example"
            " boundary=0.875"
        )
    return boundary


def _other_text(
    high: Checkpoint, low: Checkpoint, averaged: Mapping[str, Tensor], others: Mapping[str, Tensor]
) -> str | None:
    """The first weight of the text encoders that differs."""
    ours, theirs = ({**each.weights, **mean} for each, mean in ((high, averaged), (low, others)))
    names = [name for name in sorted({*ours, *theirs}) if name.startswith("text.")]
    return next((name for name in names if not _same(ours.get(name), theirs.get(name))), None)


def _same(a: Any, b: Any) -> bool:
    return a is not None and b is not None and a.shape == b.shape and torch.equal(a, b)


def _words(interval: tuple[float, float]) -> str:
    return f"{interval[0]:g} to {interval[1]:g}"
