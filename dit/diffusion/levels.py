"""Which noise levels are trained: `levels(batch, frames, num_tokens, generator, device) -> t`.

t is float32, (B, 1) when the frames of a clip share a level and (B, F) when each has its own. Draws are made on the
generator's device (the CPU for None, from the global generator) and then moved, so that a CPU generator gives the same
levels whatever trains. A `Distribution` turns uniform numbers into levels; what wraps one (`Shifted`, `PerFrame`,
`Stratified`) is a distribution again, and they nest.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dit.config.limits import Count, NonNegative, Positive, Share
from dit.diffusion.path import Path

SMALLEST_SHARE = 1e-6  # of a distribution, between two bounds; less is drawn from the grain of float64


def uniform(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform float64 numbers in [0, 1) on the generator's device. In float32 the tails would be grainy."""
    device = torch.device("cpu") if generator is None else generator.device
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=device)


def moved(values: Tensor, device: torch.device | str) -> Tensor:
    """Small draws on their way to the device. From the CPU it does not wait for the device to finish earlier work."""
    return values.to(device, non_blocking=values.device.type == "cpu")


class Group(NamedTuple):
    """Clips of one shape in a batch: how many, their latent frames, and the tokens of each."""

    clips: int
    frames: int
    num_tokens: int


class Levels(ABC):
    """Draws the noise levels of a batch.

    Sampling looks at two attributes to know what a network was trained for.

    Attributes:
        per_frame: whether frames of a clip may get levels of their own, (batch, frames).
        interval: (lowest, highest) level that is drawn.
    """

    @property
    def per_frame(self) -> bool:
        return False

    @property
    def interval(self) -> tuple[float, float]:
        return 0.0, 1.0

    def at(self, step: int) -> "Levels":
        """What a step of training draws from."""
        return self

    @abstractmethod
    def __call__(
        self, batch: int, frames: int, num_tokens: int, generator: torch.Generator | None, device: torch.device | str
    ) -> Tensor:
        """Levels in [0, 1], float32, (batch, 1) or (batch, frames), for clips of `num_tokens` tokens."""

    def of_groups(
        self, groups: Sequence[Group], generator: torch.Generator | None, device: torch.device | str
    ) -> list[Tensor]:
        """Those of clips of several shapes that are one batch, (clips, 1) or (clips, frames) of each group."""
        return [self(*group, generator, device) for group in groups]


class Distribution(Levels):
    """A distribution of levels as a function of uniform numbers (its quantile function, unless it says otherwise)."""

    @abstractmethod
    def from_uniform(self, u: Tensor, num_tokens: int) -> Tensor:
        """Uniform numbers of any shape -> levels of that shape."""

    def draw(self, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        """The uniform numbers behind the levels: float64, one a clip (batch, 1) unless overridden."""
        return uniform((batch, 1), generator)

    def __call__(
        self, batch: int, frames: int, num_tokens: int, generator: torch.Generator | None, device: torch.device | str
    ) -> Tensor:
        return moved(self.from_uniform(self.draw(batch, frames, generator), num_tokens).float(), device)

    def of_groups(
        self, groups: Sequence[Group], generator: torch.Generator | None, device: torch.device | str
    ) -> list[Tensor]:
        """All clips are drawn together, so that `Stratified` spreads the levels over all of them."""
        return drawn_together(self.draw, self.from_uniform, groups, generator, device)


def drawn_together(
    draw: Callable[[int, int, torch.Generator | None], Tensor],
    from_uniform: Callable[[Tensor, int], Tensor],
    groups: Sequence[Group],
    generator: torch.Generator | None,
    device: torch.device | str,
) -> list[Tensor]:
    """Levels of each group out of uniform numbers that are drawn at once, as many a clip as the longest needs."""
    u = draw(sum(group.clips for group in groups), max(group.frames for group in groups), generator)
    parts = zip(groups, u.split([group.clips for group in groups]), strict=True)
    return [moved(from_uniform(part[:, : group.frames], group.num_tokens).float(), device) for group, part in parts]


class Uniform(Distribution):
    """U(0, 1) (Lipman et al. 2023, arXiv:2210.02747, eq. 5)."""

    def from_uniform(self, u: Tensor, num_tokens: int) -> Tensor:
        return u


class LogitNormal(Distribution):
    """sigmoid(N(mean, std^2)) (Esser et al. 2024, arXiv:2403.03206, eq. 19).

    Args:
        mean: 0 is centred on t = 1/2; above 0 towards noise.
        std: spread of the logit, above 0.
    """

    def __init__(self, mean: float, std: Positive) -> None:
        if std <= 0:
            raise ValueError(f"std={std} of the logit must be above 0, for example 1")
        self.mean = mean
        self.std = std

    def from_uniform(self, u: Tensor, num_tokens: int) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


class LogNormal(Distribution):
    """The levels of a path at which ln(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, arXiv:2206.00364, table 1).

    On the linear path that is `LogitNormal`. What would lie beyond an end of the path is drawn at the end.

    Args:
        path: of the run, which says the level of a ratio.
        mean, std: of the logarithm; -1.2 and 1.2 in the paper, 0 and 1 in Cosmos 1.0, in units of its latents.
    """

    def __init__(self, path: Path, mean: float, std: Positive) -> None:
        if std <= 0:
            raise ValueError(f"std={std} of the logarithm of sigma must be above 0, for example 1")
        self.path, self.mean, self.std = path, mean, std

    def from_uniform(self, u: Tensor, num_tokens: int) -> Tensor:
        return self.path.t_from_log_snr(-2 * (self.mean + self.std * torch.special.ndtri(u)))


class Wrapper(Distribution):
    """Changes something of another distribution, `levels`, and leaves the rest as it is there."""

    def __init__(self, levels: Distribution) -> None:
        self.levels = levels

    @property
    def per_frame(self) -> bool:
        return self.levels.per_frame

    @property
    def interval(self) -> tuple[float, float]:
        return self.levels.interval

    def draw(self, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        return self.levels.draw(batch, frames, generator)


class Shift(ABC):
    """The factor s of a shift, as a function of the number of tokens."""

    @abstractmethod
    def __call__(self, num_tokens: int) -> float:
        """s above 0; 1 leaves the levels alone, more moves them towards noise."""


@dataclass(frozen=True)
class ConstantShift(Shift):
    """The same s for every size.

    Args:
        shift: s, above 0.
    """

    shift: Positive

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise ValueError(f"shift={self.shift} must be above 0; 1 does nothing")

    def __call__(self, num_tokens: int) -> float:
        return self.shift


@dataclass(frozen=True)
class TokenShift(Shift):
    """s = sqrt(num_tokens / base_tokens) (Esser et al. 2024, arXiv:2403.03206, eq. 23).

    Args:
        base_tokens: number of tokens at which the levels stay as they are.
    """

    base_tokens: Count

    def __post_init__(self) -> None:
        if self.base_tokens < 1:
            raise ValueError(f"base_tokens={self.base_tokens} must be at least 1, for example 256")

    def __call__(self, num_tokens: int) -> float:
        return math.sqrt(num_tokens / self.base_tokens)


class Shifted(Wrapper):
    """t' = s t / (1 + (s - 1) t): on the linear path the SNR falls by s^2 (Esser et al. 2024, eq. 23).

    Args:
        levels: what is shifted.
        shift: gives s.
    """

    def __init__(self, levels: Distribution, shift: Shift) -> None:
        low, high = levels.interval
        if low > 0 or high < 1:
            raise ValueError("levels=shifted of levels between two bounds would move the bounds: put Between around it")
        super().__init__(levels)
        self.shift = shift

    def from_uniform(self, u: Tensor, num_tokens: int) -> Tensor:
        t = self.levels.from_uniform(u, num_tokens)
        s = self.shift(num_tokens)
        return s * t / (1 + (s - 1) * t)


class Between(Wrapper):
    """The part of a distribution between two levels: levels outside are not drawn, the others as often as before
    relative to one another. Trains one of two networks that share the levels (`experts.ByLevel`, Wan 2.2).

    With quantile function Q and probabilities P(low), P(high): t = Q(P(low) + u (P(high) - P(low))).

    Args:
        levels: the distribution; its `from_uniform` rises with u.
        low, high: the bounds, 0 <= low < high <= 1.

    Raises ValueError where they are not, and, at the first draw, where `levels` has next to nothing between them.
    """

    def __init__(self, levels: Distribution, low: Share, high: Share) -> None:
        if not 0 <= low < high <= 1:
            raise ValueError(f"levels.low={low} and levels.high={high} must be in order within [0, 1]")
        super().__init__(levels)
        self.low, self.high = low, high
        self._shares: dict[int, tuple[float, float]] = {}  # number of tokens -> P(low), P(high)

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    def from_uniform(self, u: Tensor, num_tokens: int) -> Tensor:
        if num_tokens not in self._shares:
            self._shares[num_tokens] = self._probabilities(num_tokens)
        below, upto = self._shares[num_tokens]
        return self.levels.from_uniform(below + u * (upto - below), num_tokens).clamp(self.low, self.high)

    def _probabilities(self, num_tokens: int) -> tuple[float, float]:
        """P(t < low) and P(t < high), by bisection of the quantile function."""
        bounds = torch.tensor([self.low, self.high], dtype=torch.float64)
        left, right = torch.zeros_like(bounds), torch.ones_like(bounds)
        for _ in range(60):
            middle = (left + right) / 2
            below = self.levels.from_uniform(middle, num_tokens) < bounds
            left, right = torch.where(below, middle, left), torch.where(below, right, middle)
        lower = 0.0 if self.low == 0 else left[0].item()
        upper = 1.0 if self.high == 1 else right[1].item()
        if upper - lower < SMALLEST_SHARE:
            raise ValueError(
                f"next to no levels lie between levels.low={self.low} and levels.high={self.high} in the distribution"
                " of levels.levels: widen the bounds, or take another distribution"
            )
        return lower, upper


class PerFrame(Wrapper):
    """An independent level for each latent frame: diffusion forcing (Chen et al. 2024, arXiv:2407.01392, alg. 1).

    Args:
        levels: the distribution of each frame's level.
    """

    @property
    def per_frame(self) -> bool:
        return True

    def draw(self, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        return uniform((batch, frames), generator)

    def from_uniform(self, u: Tensor, num_tokens: int) -> Tensor:
        return self.levels.from_uniform(u, num_tokens)


class Stratified(Wrapper):
    """Levels spread evenly over the batch: one in each of `batch` equally likely intervals, in random order.

    Lowers the variance of the loss without changing its mean (Kingma et al. 2021, arXiv:2107.00630, appendix I.1;
    there one offset is shared, here each interval has its own). Each frame of `PerFrame` is spread on its own.

    Args:
        levels: whose uniform numbers are spread.
    """

    def draw(self, batch: int, frames: int, generator: torch.Generator | None) -> Tensor:
        within = self.levels.draw(batch, frames, generator)
        interval = uniform(tuple(within.shape), generator).argsort(dim=0)
        return (interval + within) / batch

    def from_uniform(self, u: Tensor, num_tokens: int) -> Tensor:
        return self.levels.from_uniform(u, num_tokens)


class Mixture(Levels):
    """Each clip takes its levels from one of several, for example ordinary training beside diffusion forcing.

    Args:
        parts: name -> levels. With any that is per frame, all clips get (B, F).
        weights: name -> relative frequency, at least 0; the same names.
    """

    def __init__(self, parts: Mapping[str, Levels], weights: Mapping[str, NonNegative]) -> None:
        self.parts = list(parts.values())
        self.weights = relative_weights(parts.keys(), weights)

    @property
    def per_frame(self) -> bool:
        return any(part.per_frame for part in self.parts)

    @property
    def interval(self) -> tuple[float, float]:
        lows, highs = zip(*(part.interval for part in self.parts), strict=True)
        return min(lows), max(highs)

    def __call__(
        self, batch: int, frames: int, num_tokens: int, generator: torch.Generator | None, device: torch.device | str
    ) -> Tensor:
        choice = moved(choose(self.weights, batch, generator), device)
        drawn = [part(batch, frames, num_tokens, generator, device) for part in self.parts]
        return chosen(drawn, choice)

    def of_groups(
        self, groups: Sequence[Group], generator: torch.Generator | None, device: torch.device | str
    ) -> list[Tensor]:
        counts = [group.clips for group in groups]
        choices = moved(choose(self.weights, sum(counts), generator), device).split(counts)
        drawn = zip(*(part.of_groups(groups, generator, device) for part in self.parts), strict=True)
        return [chosen(parts, choice) for parts, choice in zip(drawn, choices, strict=True)]


def chosen(drawn: Sequence[Tensor], choice: Tensor) -> Tensor:
    """Of several levels of each clip, (batch, 1 or frames) each, the one that `choice`, (batch,), names."""
    stacked = torch.stack(torch.broadcast_tensors(*drawn))
    return stacked[choice, torch.arange(len(choice), device=choice.device)]


def relative_weights(names: Iterable[str], weights: Mapping[str, float]) -> Tensor:
    """Weights in the order of `names`, float64, divided by their sum; a ValueError where they do not fit."""
    wanted = list(names)
    if set(wanted) != set(weights):
        raise ValueError(f"weights are for {sorted(weights)} but the parts are {sorted(wanted)}: give each one weight")
    values = torch.tensor([float(weights[name]) for name in wanted], dtype=torch.float64)
    if (values < 0).any() or values.sum() <= 0:
        raise ValueError(f"weights {dict(weights)} must be at least 0 and not all 0")
    return values / values.sum()


def choose(weights: Tensor, batch: int, generator: torch.Generator | None) -> Tensor:
    """An index into `weights` for each of `batch` clips, (batch,) int64 on the generator's device."""
    u = uniform((batch,), generator)
    return torch.searchsorted(weights.cumsum(0).to(u.device), u, right=True).clamp(max=len(weights) - 1)
