"""What is said of clips, and the entries of a network's `cond` that say it: training and sampling share this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

NO_CLASS = -1

TextEncoder = Callable[[Sequence[str]], dict[str, Tensor]]


@dataclass(frozen=True)
class About:
    """What is said of B clips.

    Attributes:
        captions: B texts; "" says nothing.
        labels: int64 (B,), classes, `NO_CLASS` for none; None where there are no classes at all.
        fps: float (B,), frames a second, on the network's device.
    """

    captions: Sequence[str]
    labels: Tensor | None
    fps: Tensor

    def silent(self, which: Sequence[bool]) -> About:
        """The same with caption and class of some clips left out, which is how classifier-free guidance trains: both at
        once, as it also leaves out both."""
        captions = ["" if drop else caption for caption, drop in zip(self.captions, which, strict=True)]
        if self.labels is None:
            return replace(self, captions=captions)
        dropped = torch.tensor(list(which)).to(self.labels.device, non_blocking=True)
        return replace(self, captions=captions, labels=self.labels.masked_fill(dropped, NO_CLASS))

    def rows(self, rows: slice) -> About:
        """What is said of the clips `rows`."""
        labels = None if self.labels is None else self.labels[rows]
        return About(self.captions[rows], labels, self.fps[rows])


def cond_of(about: About, text: TextEncoder | None, num_classes: int | None) -> dict[str, Tensor]:
    """`cond`: `fps`; what the text encoder says of the captions, if there is one; `label` for a network with classes.

    num_classes: of the network, whose class `num_classes` is "no class"; None for one that reads no labels.
    """
    cond = {"fps": about.fps}
    if num_classes is not None:
        labels = about.labels
        if labels is None:
            labels = torch.full(about.fps.shape, NO_CLASS, dtype=torch.int64, device=about.fps.device)
        labels = labels.to(about.fps.device)
        cond["label"] = torch.where(labels == NO_CLASS, num_classes, labels)
    return cond if text is None else {**text(about.captions), **cond}
