"""Guidance: `guidance(denoiser, cond, uncond) -> denoise(x, t)`, what is asked of the network at each level.

`cond` and `uncond` are the network's conditioning dicts (docs/architecture.md lists their keys) with the same keys;
`uncond` says "no prompt". x0, eps and velocity are affine in the network's output: guiding one guides all three alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dit.config.limits import Natural, Share
from dit.diffusion.denoiser import Denoiser
from dit.diffusion.prediction import Estimate

Cond = dict[str, Tensor]
DenoiseFrames = Callable[[Tensor, Tensor], Estimate]  # t is (B, 1) or (B, F)


class Guidance(ABC):
    """What is asked of the network at each level."""

    @property
    def reads_negative(self) -> bool:
        """Whether a sample depends on `uncond`, and so on a negative prompt."""
        return False

    def check(self, network: Any) -> None:  # noqa: B027 most can guide any network
        """Raises ValueError, in one line, for a network that cannot be guided in this way."""

    def change(self, own: Guidance) -> Guidance:
        """What guides where a pipeline's or checkpoint's `own` guidance is replaced by this one."""
        return self

    @abstractmethod
    def __call__(self, denoiser: Denoiser, cond: Cond, uncond: Cond) -> DenoiseFrames:
        """`denoise(x, t)`, for x (B, C, F, H, W) and t (B, 1) or (B, F)."""


@dataclass(frozen=True)
class NoGuidance(Guidance):
    """The conditioned network alone."""

    def __call__(self, denoiser: Denoiser, cond: Cond, uncond: Cond) -> DenoiseFrames:
        return lambda x, t: denoiser(x, t, cond)


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Classifier-free guidance, `uncond + scale (cond - uncond)` (Ho & Salimans 2022, arXiv 2207.12598, equation 6 with
    scale = 1 + w).

    Args:
        scale: 1 is the conditioned network alone (and then costs one pass), above 1 follows the prompt more closely.
        rescale: how much of the growth in contrast is taken back, 0 to 1, on x0 and over unknown frames only
            (Lin et al. 2023, arXiv 2305.08891, section 3.4, equations 15 and 16).
        interval: (low, high) levels between which guidance acts, both included; a frame outside is the conditioned
            network's alone, and if all are it costs one pass (Kynkaanniemi et al. 2024, arXiv 2404.07724).
        together: both passes in one call of the network, the shorter text padded. False: one after the other, which
            needs half the memory for activations and pads nothing.
    """

    scale: float
    rescale: Share
    interval: tuple[Share, Share]
    together: bool = True  # configs of before do not say

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval", checked_interval(self.interval))
        if not 0 <= self.rescale <= 1:
            nearest = min(max(self.rescale, 0.0), 1.0)
            raise ValueError(f"guidance.rescale={self.rescale} is outside [0, 1]; nearest: {nearest}")

    @property
    def reads_negative(self) -> bool:
        return self.scale != 1

    def __call__(self, denoiser: Denoiser, cond: Cond, uncond: Cond) -> DenoiseFrames:
        both = join(cond, uncond) if self.together else {}

        def denoise(x: Tensor, t: Tensor) -> Estimate:
            acting = Acting(self.interval, t)
            if self.scale == 1 or not acting:
                return denoiser(x, t, cond)
            if self.together:
                halves = [part.chunk(2) for part in denoiser(torch.cat([x, x]), torch.cat([t, t]), both)]
                plain, away = (Estimate(*parts) for parts in zip(*halves, strict=True))
            else:
                plain, away = denoiser(x, t, cond), denoiser(x, t, uncond)
            guided = Estimate(*(u + self.scale * (c - u) for c, u in zip(plain, away, strict=True)))
            if self.rescale:
                guided = self._rescaled(denoiser, x, t, plain.x0, guided)
            return acting.choose(guided, plain)

        return denoise

    def _rescaled(self, denoiser: Denoiser, x: Tensor, t: Tensor, x0: Tensor, guided: Estimate) -> Estimate:
        """`guided` with its x0 scaled towards the spread of `x0`, the conditioned one; eps and velocity follow."""
        path, t = denoiser.path, denoiser.path.expand(t)
        unknown = (t > 0).expand(x.shape[0], 1, x.shape[2], 1, 1)
        factor = _std(x0, unknown) / _std(guided.x0, unknown).clamp(min=torch.finfo(x.dtype).tiny)
        change = self.rescale * (factor - 1) * guided.x0  # of x0
        # x stays what it is, so eps moves against x0; a level of exactly 0 has no eps to speak of
        sigma = path.sigma(t)
        against = torch.where(sigma > 0, -path.alpha(t) * change / sigma.clamp(min=torch.finfo(x.dtype).tiny), 0)
        velocity = guided.velocity + path.alpha_dot(t) * change + path.sigma_dot(t) * against
        return Estimate(guided.x0 + change, guided.eps + against, velocity)


@dataclass(frozen=True)
class SkipLayer(Guidance):
    """Another guidance, plus a push away from what the network believes without some of its blocks:
    `base + scale (cond - cond without blocks)` (spatiotemporal skip guidance, Hyung et al. 2024, arXiv 2411.18664).

    Args:
        base: the guidance that it is added to.
        blocks: blocks that are left out, counted from 0; middle ones are usual.
        scale: 0 is `base` alone (and costs no pass).
        interval: (low, high) levels between which it acts, both included.
    """

    base: Guidance
    blocks: tuple[Natural, ...]
    scale: float
    interval: tuple[Share, Share]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))  # YAML knows only lists
        object.__setattr__(self, "interval", checked_interval(self.interval))
        if not self.blocks:
            raise ValueError("guidance.blocks=[] leaves no block out; name one of the middle ones: guidance.blocks=[8]")

    @property
    def reads_negative(self) -> bool:
        return self.base.reads_negative

    def check(self, network: Any) -> None:
        """Raises ValueError for a network without these blocks, or one whose blocks cannot be left out."""
        self.base.check(network)
        if not hasattr(network, "skipping"):
            raise ValueError(f"guidance=skip_layer needs a network whose blocks can be left out, not {type(network)}")
        with network.skipping(self.blocks):
            pass

    def __call__(self, denoiser: Denoiser, cond: Cond, uncond: Cond) -> DenoiseFrames:
        network: Any = denoiser.net
        self.check(network)
        base = self.base(denoiser, cond, uncond)

        def denoise(x: Tensor, t: Tensor) -> Estimate:
            guided = base(x, t)
            acting = Acting(self.interval, t)
            if self.scale == 0 or not acting:
                return guided
            whole = denoiser(x, t, cond)
            with network.skipping(self.blocks):
                without = denoiser(x, t, cond)
            pushed = Estimate(*(g + self.scale * (w - o) for g, w, o in zip(guided, whole, without, strict=True)))
            return acting.choose(pushed, guided)

        return denoise


@dataclass(frozen=True)
class ByLevel(Guidance):
    """One guidance at high noise levels and another at low ones (Wan 2.2: `guidance_scale` and `guidance_scale_2`).

    The level is that of the noisiest frame. Asking for it makes the host wait for the device once a step.

    Args:
        high, low: at levels of at least the boundary, and below it.
        boundary: noise level; None is the one at which the two networks of a model meet (`experts.ByLevel`).
    """

    high: Guidance
    low: Guidance
    boundary: Share | None

    @property
    def reads_negative(self) -> bool:
        return self.high.reads_negative or self.low.reads_negative

    def check(self, network: Any) -> None:
        """Raises ValueError for a network that one of the two cannot guide, or that has no boundary where one is
        needed."""
        self.high.check(network)
        self.low.check(network)
        if self.boundary is None and not hasattr(network, "boundary"):
            raise ValueError(
                "guidance.boundary=null is where two networks meet, and this model has one; give it:"
                " guidance.boundary=0.875"
            )

    def __call__(self, denoiser: Denoiser, cond: Cond, uncond: Cond) -> DenoiseFrames:
        network: Any = denoiser.net
        self.check(network)
        boundary = network.boundary if self.boundary is None else self.boundary
        high, low = (each(denoiser, cond, uncond) for each in (self.high, self.low))
        return lambda x, t: (high if bool(t.max() >= boundary) else low)(x, t)


@dataclass(frozen=True)
class AsTrained(Guidance):
    """The guidance that a checkpoint's own config holds, with single values changed; sample.py's default.

    Args:
        scale, rescale, interval, together: as in `ClassifierFree`; None keeps the checkpoint's.
    """

    scale: float | None
    rescale: Share | None
    interval: tuple[Share, Share] | None
    together: bool | None = None

    def change(self, own: Guidance) -> Guidance:
        """`own` with the values that are set; ValueError when it has no such value."""
        changes = {name: value for name, value in vars(self).items() if value is not None}
        absent = [name for name in changes if not hasattr(own, name)]
        if absent:
            raise ValueError(f"the checkpoint samples with {own!r}, which has no {absent[0]}; add guidance=cfg")
        return replace(own, **changes) if changes else own  # type: ignore[type-var]

    def __call__(self, denoiser: Denoiser, cond: Cond, uncond: Cond) -> DenoiseFrames:
        raise ValueError(
            "guidance=own is a checkpoint's own and belongs to sample.py; use guidance=cfg or guidance=none"
        )


def checked_interval(interval: Sequence[float]) -> tuple[float, float]:
    """(low, high), levels. Raises ValueError when they are not in order within [0, 1]."""
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(f"guidance.interval={list(interval)} is not [low, high] within [0, 1]; all: [0.0, 1.0]")
    return interval[0], interval[1]


class Acting:
    """Which frames are guided: those whose level is above 0 and lies in an interval. False if there are none.

    The interval [0, 1] holds every level. Then the levels are not read, for which the host would wait for the device.
    """

    def __init__(self, interval: tuple[float, float], t: Tensor) -> None:
        low, high = interval
        self.frames: Tensor | None = None  # all; else (B, 1 or F)
        if interval != (0, 1):
            self.frames = (t > 0) & (t >= low) & (t <= high)

    def __bool__(self) -> bool:
        return self.frames is None or bool(self.frames.any())

    def choose(self, guided: Estimate, plain: Estimate) -> Estimate:
        """`guided` in those frames, `plain` in the others."""
        if self.frames is None:
            return guided
        frames = self.frames[:, None, :, None, None]
        return Estimate(*(torch.where(frames, a, b) for a, b in zip(guided, plain, strict=True)))


def join(cond: Cond, uncond: Cond) -> Cond:
    """The two dicts stacked along the batch; the shorter text is padded and its padding masked out."""
    if cond.keys() != uncond.keys():
        raise ValueError(f"cond has {sorted(cond)}, uncond has {sorted(uncond)}: both need the same keys")
    both: Cond = {}
    for key, value in cond.items():
        other = uncond[key]
        if key in ("text", "text_mask"):
            length = max(value.shape[1], other.shape[1])
            value, other = _lengthen(value, length), _lengthen(other, length)
        both[key] = torch.cat([value, other])
    return both


def _lengthen(text: Tensor, length: int) -> Tensor:
    """(B, L, ...) padded with zeros (False) to (B, length, ...)."""
    return pad(text, (0, 0) * (text.ndim - 2) + (0, length - text.shape[1]))


def _std(x0: Tensor, unknown: Tensor) -> Tensor:
    """Standard deviation of each sample over its unknown frames: (B, 1, 1, 1, 1)."""
    axes = (1, 2, 3, 4)
    weight = unknown.expand_as(x0).to(x0.dtype)
    count = weight.sum(axes, keepdim=True).clamp(min=1)
    mean = (weight * x0).sum(axes, keepdim=True) / count
    return ((weight * (x0 - mean) ** 2).sum(axes, keepdim=True) / count).sqrt()
