"""Which latent frames are given in training, and at which noise level they enter.

`conditioning(batch, frames, generator, device) -> given` bool (B, F), True where the frame is known. A clip never has
all its frames given: something must be left to learn, so a pattern that would give them all (the first frame of a
single image, both ends of two frames) gives none. Draws follow the rule of `dit/diffusion/levels.py`: made where the
generator lives, then moved.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from dit.config.limits import Count, NonNegative, Share
from dit.diffusion.levels import choose, moved, relative_weights, uniform


class Pattern(ABC):
    """One way of giving frames, as a function of uniform numbers."""

    @abstractmethod
    def __call__(self, u: Tensor, frame: Tensor) -> Tensor:
        """Uniform numbers (B, 1 + F) and frame numbers 0..F-1 (F,) -> bool, (B, F) or (F,) when all clips agree."""


class NoFrame(Pattern):
    """t2v: nothing is given."""

    def __call__(self, u: Tensor, frame: Tensor) -> Tensor:
        return torch.zeros_like(frame, dtype=torch.bool)


class FirstFrame(Pattern):
    """i2v: the first frame."""

    def __call__(self, u: Tensor, frame: Tensor) -> Tensor:
        return frame == 0


class FirstAndLastFrame(Pattern):
    """first_last: both ends."""

    def __call__(self, u: Tensor, frame: Tensor) -> Tensor:
        return (frame == 0) | (frame == len(frame) - 1)


class FirstFrames(Pattern):
    """predict: the first `count` frames.

    Args:
        count: latent frames; a clip that has no more is given none.
    """

    def __init__(self, count: Count) -> None:
        self.count = count

    def __call__(self, u: Tensor, frame: Tensor) -> Tensor:
        return frame < self.count


class RandomPrefix(Pattern):
    """extend: the first n frames, n equally likely to be 1 ... F-1."""

    def __call__(self, u: Tensor, frame: Tensor) -> Tensor:
        length = 1 + (u[:, :1] * (len(frame) - 1)).floor()
        return frame < length


class Keyframes(Pattern):
    """interpolate: the last frame and every k-th from the first, k equally likely to be 2 ... largest_stride.

    Args:
        largest_stride: at least 2; F or more includes "first and last only".
    """

    def __init__(self, largest_stride: Count) -> None:
        if largest_stride < 2:
            raise ValueError(f"largest_stride={largest_stride} gives every frame; the smallest that does not is 2")
        self.largest_stride = largest_stride

    def __call__(self, u: Tensor, frame: Tensor) -> Tensor:
        stride = 2 + (u[:, :1] * (self.largest_stride - 1)).floor()
        return (frame % stride == 0) | (frame == len(frame) - 1)


class RandomSubset(Pattern):
    """Any number of frames anywhere: each with the same chance, itself uniform in [0, 1] for each clip."""

    def __call__(self, u: Tensor, frame: Tensor) -> Tensor:
        return u[:, 1:] < u[:, :1]


class Conditioning(ABC):
    """Draws the given frames of a batch and sets their noise level."""

    @abstractmethod
    def __call__(
        self, batch: int, frames: int, generator: torch.Generator | None, device: torch.device | str
    ) -> Tensor:
        """Which frames are given: bool (batch, frames), at least one False in each row."""

    @abstractmethod
    def frame_levels(self, t: Tensor, given: Tensor, generator: torch.Generator | None) -> Tensor:
        """Levels t (B, 1) or (B, F), with those of given frames set: (B, F), or t itself if none are ever given."""


class Unconditional(Conditioning):
    """Nothing is given, and levels shared by all frames stay (B, 1): the network's fast path."""

    def __call__(
        self, batch: int, frames: int, generator: torch.Generator | None, device: torch.device | str
    ) -> Tensor:
        return torch.zeros(batch, frames, dtype=torch.bool, device=device)

    def frame_levels(self, t: Tensor, given: Tensor, generator: torch.Generator | None) -> Tensor:
        return t


class RandomTasks(Conditioning):
    """Each clip draws a task, the task says which frames are given: one network learns to sample them all.

    With `context_noise` c the given frames of a clip carry a level drawn from U(0, c), and t says which: the network
    learns not to trust its context to the last detail, so that long roll-outs, whose context is its own output, drift
    less (Valevski et al. 2024, arXiv:2408.14837, section 3.2.1; Chen et al. 2024, arXiv:2407.01392). Level 0 is drawn
    too, so clean context may be given in sampling.

    Args:
        tasks: name -> pattern of given frames.
        weights: name -> relative frequency, at least 0; the same names.
        context_noise: largest level of given frames, in [0, 1); 0 gives them clean.
    """

    def __init__(self, tasks: Mapping[str, Pattern], weights: Mapping[str, NonNegative], context_noise: Share) -> None:
        if not 0 <= context_noise < 1:
            raise ValueError(f"context_noise={context_noise} is a noise level of given frames: at least 0, below 1")
        self.tasks = list(tasks.values())
        self.weights = relative_weights(tasks.keys(), weights)
        self.context_noise = context_noise

    def __call__(
        self, batch: int, frames: int, generator: torch.Generator | None, device: torch.device | str
    ) -> Tensor:
        task = choose(self.weights, batch, generator)
        u = uniform((batch, 1 + frames), generator)
        frame = torch.arange(frames, device=u.device)
        patterns = torch.stack([pattern(u, frame).expand(batch, frames) for pattern in self.tasks])
        given = patterns[task, torch.arange(batch, device=u.device)]
        return moved(given & ~given.all(dim=1, keepdim=True), device)

    def frame_levels(self, t: Tensor, given: Tensor, generator: torch.Generator | None) -> Tensor:
        context = self.context_noise * uniform((len(given), 1), generator)
        return torch.where(given, moved(context.to(t.dtype), t.device), t)
