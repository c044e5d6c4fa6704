"""Recipes of a training step: its networks beside `net`, the optimizers that train them, and the loss of each.

`net` is the network that is sampled. A recipe adds others under names of their own; checkpoints, averages, clipping,
metrics and resuming go by these names.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

NET = "net"  # the network that is sampled; also the optimizer that trains it and the text encoder


class Part(NamedTuple):
    """A network beside `net`.

    Attributes:
        module: the network.
        optimizer: the one that trains it: `net`, or one of the recipe's; None: it is frozen.
        averaged: whether the averages of the weights (EMA) hold it.
    """

    module: nn.Module
    optimizer: str | None
    averaged: bool


class Clips(NamedTuple):
    """The clips of a micro-batch. Of a packed one `x0`, `pixels` and `footage` are those of each group of clips of one
    shape, in tuples; they are given to recipes that take them (`Recipe.takes_packed`).

    Attributes:
        x0: clean latents (B, C, F, H, W).
        pixels: what they were encoded from, (B, 3, num_frames, height, width) in [-1, 1].
        cond: what the networks are told, with captions and classes left out of some clips (`caption_dropout`).
        uncond: makes the same with captions and classes left out of all clips.
        footage: what frames are shown from that are given beside the clips.
    """

    x0: Any
    pixels: Any
    cond: dict[str, Tensor]
    uncond: Callable[[], dict[str, Tensor]]
    footage: Any = None

    @property
    def groups(self) -> list[tuple[Tensor, Tensor]]:
        """Latents and pixels of clips of one shape, (n, ...) each; all are one group unless they are packed."""
        return list(zip(self.x0, self.pixels, strict=True)) if isinstance(self.x0, tuple) else [(self.x0, self.pixels)]


class Loss(NamedTuple):
    """The loss of one optimizer in a step.

    Attributes:
        total: 0-dim, with its graph, which reaches the parameters of this optimizer and no others.
        per_sample: (B,), to name the clips whose loss is not finite.
        shown: 0-dim, for the column `train/loss`: `total` without the terms that have columns of their own.
        columns: those terms and whatever else is to be seen, name -> 0-dim: further columns of metrics.csv.
    """

    total: Tensor
    per_sample: Tensor
    shown: Tensor
    columns: Mapping[str, Tensor]

    def detached(self) -> Loss:
        """The losses without their graphs."""
        columns = {name: value.detach() for name, value in self.columns.items()}
        return Loss(self.total.detach(), self.per_sample.detach(), self.shown.detach(), columns)


class Recipe(ABC):
    """One training step.

    Attributes:
        copies: networks that are built as `net` is and begin with its weights (those of `init_from`): name -> the
            optimizer that trains it, None: it is frozen. Memory is counted by it before anything is built.
        optimizers: name -> `optimizer(model)`, those beside the config's `optim`, which is `net`.
        trains_text: whether the text encoder is trained with `net`; otherwise it is frozen.
        denoises: whether `net` learns to denoise latents, along the objective's path; otherwise `net` is an autoencoder
            (`dit/codec/vae`), and the run has no objective.
        takes_packed: whether it takes packed batches, clips of several shapes in one sequence.
        sees_clips: whether `net` is shown noised clips of the batch, which is what alignment needs.
        sees_pixels: whether it works on the clips' pixels too, which a latent cache does not hold.
        needs_weights: why a run cannot begin with random weights, for the message; None: it can.
        passes: forward passes of networks of `net`'s size in a step, for the count of FLOPs; a backward pass counts as
            two.
    """

    copies: Mapping[str, str | None] = {}
    optimizers: Mapping[str, Callable[[nn.Module], Optimizer]] = {}
    trains_text = True
    denoises = True
    takes_packed = False
    sees_clips = True
    sees_pixels = False
    needs_weights: str | None = None
    passes = 3.0

    def parts(self, net: Any) -> dict[str, Part]:
        """The networks beside `net`, by name: the `copies`, and others that a subclass adds. Called once. Raises
        ValueError where `net` is not what the recipe needs."""
        return {name: Part(copy.deepcopy(net), owner, averaged=False) for name, owner in self.copies.items()}

    @abstractmethod
    def losses(self, nets: Mapping[str, Any], clips: Clips, step: int) -> dict[str, Loss]:
        """The loss of each optimizer, by name. One that is left out does nothing in this step.

        All losses go through one backward pass. What a loss must not reach is computed without gradient or detached.

        Args:
            nets: `net` and the parts, by name.
            clips: of this micro-batch.
            step: optimizer steps that are done. All micro-batches of a step, and all ranks, name the same optimizers.
        """
