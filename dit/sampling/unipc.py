"""UniPC: a multistep predictor, and a corrector that costs no evaluation (Zhao et al. 2023, arXiv 2302.04867)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from dit.config.limits import Range
from dit.diffusion.path import Path
from dit.sampling.solvers import Denoise, Noise, Solver, State, Step, choose, on


@dataclass(frozen=True)
class UniPC(Solver):
    """The predictor UniP and the corrector UniC, both in B(h) form (section 3 for eps, appendix A for x0).

    With m the network's belief in x0 (for eps, alpha and sigma change places and h its sign), lambda = log(alpha /
    sigma) and h the step in it, `x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) m_t - alpha_s B(h) sum_k a_k (m_k -
    m_t)` over beliefs m_k of earlier steps (predictor) and of the step's end as well (corrector). A step is corrected
    when the network has been asked at its end for the next one; so the last step of a frame is not.

    A frame's first step is of order 1, the second of order 2, and so on; a frame that stood still begins anew. A step
    into a clean end is of order 1. A step from alpha = 0 is infinitely long in lambda: it is DDIM's, is not
    corrected, and later steps do not look back on it.

    Args:
        order: of the predictor, 1 to 3; corrected steps are of one order more.
        variant: bh1 is B(h) = h, bh2 is B(h) = e^h - 1 (of -h for x0). bh2 suits guidance and few steps.
        belief: x0 or eps, what is taken to change slowly along the way.
        lower_order_final: whether the last steps of a frame are of lower order, the last of order 1: steadier for few
            steps.
    """

    order: Annotated[int, Range(least=1, most=3)]
    variant: Literal["bh1", "bh2"]
    belief: Literal["x0", "eps"]
    lower_order_final: bool

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 3:
            raise ValueError(f"solver.order={self.order} must be 1, 2 or 3")

    def walk(
        self, denoise: Denoise, x: Tensor, steps: Iterable[Step], path: Path, noise: Noise | None
    ) -> Iterator[State]:
        taken = list(steps)
        left = remaining(taken)
        past: list[Past] = []  # the latest first
        behind = torch.zeros_like(left[0])  # how many of them a frame may look back on
        for step, to_come in zip(taken, left, strict=True):
            estimate = denoise(x, step.start)
            belief, place = estimate.x0 if self.belief == "x0" else estimate.eps, _lambda(path, step.t)
            moves, from_noise = _flat(step.moves, place), _flat(path.alpha(step.t) == 0, place)
            if past:
                x = self._corrected(x, past, place, belief, moves & (behind > 0), path)
            first = ~moves | from_noise | _flat(path.sigma(step.s) == 0, place)
            order = torch.where(first, 1, (behind + 1).clamp(max=self.order))
            if self.lower_order_final:
                order = torch.minimum(order, to_come.clamp(min=1))
            past = [Past(x, belief, place, step, order), *past[: self.order - 1]]
            there = self._moved(past, _lambda(path, step.s), None, path)
            if self.belief == "eps" and bool(from_noise.any()):
                ddim = on(x, path.alpha(step.s)) * estimate.x0 + on(x, path.sigma(step.s)) * estimate.eps
                there = choose(from_noise.reshape(step.t.shape), ddim, there)
            x = step.move(x, there)
            past[0] = self._remembered(past[0], x, moves & (behind == 0))
            behind = torch.where(moves & ~from_noise, behind + 1, 0)
            yield State(x, estimate)

    def _remembered(self, taken: Past, x: Tensor, first: Tensor) -> Past:
        """A step as it is looked back on. x: behind it. first: (n,) bool, frames of which it is the first."""
        return taken

    def _corrected(self, x: Tensor, past: list[Past], end: Tensor, belief: Tensor, which: Tensor, path: Path) -> Tensor:
        """x with the frames `which` corrected by the belief at the end of their last step."""
        if not bool(which.any()):
            return x
        there = self._moved(past, end, belief, path)
        return there if bool(which.all()) else choose(which.reshape(past[0].step.s.shape), there, x)

    def _moved(self, past: list[Past], end: Tensor, belief: Tensor | None, path: Path) -> Tensor:
        """Behind the step that `past[0]` begins, of its order; corrected where the belief at its end is given."""
        now, step = past[0], past[0].step
        if self.belief == "x0":
            keep, scale = path.sigma(step.s) / path.sigma(step.t), path.alpha(step.s)
            gain = scale - path.alpha(step.t) * keep  # alpha_s (1 - e^-h), with no infinity in it
        else:
            keep, scale = path.alpha(step.s) / path.alpha(step.t), path.sigma(step.s)
            gain = scale - path.sigma(step.t) * keep
        there = on(now.x, keep) * now.x + on(now.x, gain) * now.belief
        # scale * B(h), with which the differences of beliefs are multiplied
        size = -gain if self.variant == "bh2" else scale * self._signed(end - now.place).reshape(scale.shape)
        weights = self._weights(past, end, belief is not None)
        others = [each.belief for each in past[1:]] + ([] if belief is None else [belief])
        for weight, other in zip(weights, others, strict=True):
            if bool((weight != 0).any()):
                factor = torch.where(weight.reshape(size.shape) == 0, 0, -size * weight.reshape(size.shape))
                there = there + on(now.x, factor) * (other - now.belief)
        return there

    def _signed(self, h: Tensor) -> Tensor:
        return -h if self.belief == "x0" else h

    def _weights(self, past: list[Past], end: Tensor, corrects: bool) -> list[Tensor]:
        """What multiplies (belief - that of now), for each earlier belief and, if `corrects`, that of the end: each
        (n,) float64, a frame's 0 where its order does not reach so far back."""
        now, earlier = past[0], past[1:]
        total = [torch.zeros_like(end) for _ in range(len(earlier) + corrects)]
        for order in range(1, len(past) + 1):
            mine = now.order == order
            if not bool(mine.any()):
                continue
            found = self._of_order(order, now.place[mine], [each.place[mine] for each in earlier], end[mine], corrects)
            for place, weight in zip([*range(order - 1), *([len(earlier)] if corrects else [])], found, strict=True):
                total[place][mine] = weight
        return total

    def _of_order(self, order: int, now: Tensor, earlier: list[Tensor], end: Tensor, corrects: bool) -> list[Tensor]:
        """The same for frames of one order: a_k / r_k, with r_k the places of beliefs in units of the step."""
        h = end - now
        places = torch.stack(
            [*((each - now) / h for each in earlier[: order - 1]), torch.ones_like(h)], -1
        )  # (n, order)
        unknown = order if corrects else order - 1
        if not unknown:
            return []
        if unknown == 1:  # the published simplification, of the same order
            return [0.5 / places[:, 0]]
        powers = torch.stack([places[:, :unknown] ** i for i in range(unknown)], -2)
        solved = torch.linalg.solve(powers, self._moments(h, unknown))
        return list((solved / places[:, :unknown]).unbind(-1))

    def _moments(self, h: Tensor, count: int) -> Tensor:
        """The right-hand side: k! phi_{k + 1}(h) h / B(h) for k = 1 ... count, (n, count)."""
        z = self._signed(h)
        size = z if self.variant == "bh1" else torch.expm1(z)
        found, phi, factorial = [], torch.expm1(z) / z - 1, 1
        for k in range(1, count + 1):
            found.append(phi * factorial / size)
            factorial *= k + 1
            phi = phi / z - 1 / factorial
        return torch.stack(found, -1)


@dataclass(frozen=True)
class UniPCInPlace(UniPC):
    """UniPC where x is overwritten in place, so that a frame's first correction begins at the end of its first step
    instead of its start: diffusion forcing of SkyReels-V2, in its own code and in diffusers. It is there for the same
    video, not for a better one. The arguments are `UniPC`'s."""

    def _remembered(self, taken: Past, x: Tensor, first: Tensor) -> Past:
        if not bool(first.any()):
            return taken
        kept = x if bool(first.all()) else choose(first.reshape(taken.step.s.shape), x, taken.x)
        return taken._replace(x=kept)


class Past(NamedTuple):
    """A step that was taken: from x, with the belief there, at lambda = `place` (n,), with `order` (n,) of each
    frame."""

    x: Tensor
    belief: Tensor
    place: Tensor
    step: Step
    order: Tensor


def remaining(steps: list[Step]) -> Tensor:
    """In how many steps each frame moves from each step on, it included: int64 (steps, n), n = 1 for a shared level."""
    moves = torch.stack([_flat(step.moves, step.t.reshape(-1)) for step in steps])
    return moves.long().flip(0).cumsum(0).flip(0)


def _flat(mask: Tensor | None, like: Tensor) -> Tensor:
    """A mask of frames as bool (n,); None is all."""
    return torch.ones_like(like, dtype=torch.bool) if mask is None else mask.reshape(-1)


def _lambda(path: Path, t: Tensor) -> Tensor:
    return path.log_snr(t).reshape(-1) / 2
