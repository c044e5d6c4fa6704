"""Given latents: bit for bit under every solver, and what the network sees of them at every evaluation."""

from __future__ import annotations

import zlib

import pytest
import torch
from torch import Tensor

from dit.diffusion.path import VE, VP, Cosine, Linear, Path
from dit.diffusion.prediction import Estimate
from dit.sampling.given import Given, hold
from dit.sampling.schedule import Shifted
from dit.sampling.solvers import DDIM, DPMSolverPP2M, Euler, Heun, Solver, end

SOLVERS: list[Solver] = [Euler(), Heun(), DDIM(0.0), DDIM(1.0), DPMSolverPP2M()]
PATHS: list[Path] = [Linear(), Cosine(), VP(0.1, 20.0), VE(0.01, 20.0)]
SHAPE = (2, 3, 5, 4, 6)


class Spy:
    """A denoiser of moderate taste (x0 near the tanh of x) that remembers what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor) -> Estimate:
        self.asked.append((x.clone(), t.clone()))
        t = self.path.expand(t)
        x0 = torch.tanh(x + x.mean(2, keepdim=True))
        eps = (x - self.path.alpha(t) * x0) / self.path.sigma(t)  # NaN at level 0: it must not spread
        return Estimate(x0, eps, self.path.alpha_dot(t) * x0 + self.path.sigma_dot(t) * eps)


def masks(generator: torch.Generator) -> dict[str, Tensor]:
    """Frames, parts of frames, and parts that fill some frames but not others; never everything."""
    frames = torch.rand(SHAPE[0], SHAPE[2], generator=generator) < 0.5
    frames[:, 1], frames[:, 2] = True, False
    known = torch.rand(SHAPE[0], 1, *SHAPE[2:], generator=generator) < 0.4
    known[:, :, 0, 0, 0] = False
    both = known.clone()
    both[:, :, 3], both[:, :, 4, 0, 0] = True, False
    return {"frames": frames, "parts": known, "both": both}


def run(
    solver: Solver, path: Path, given: Given | None, seed: int = 0, context_level: float = 0.0
) -> tuple[Tensor, Spy, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(SHAPE, generator=generator)
    spy = Spy(path)
    denoise = hold(spy, given, noise, path, context_level)
    levels = Shifted(2.0)(6, 1, path, 1)
    start, fresh = path.prior_std * noise, lambda: torch.randn(SHAPE, generator=generator)
    x = end(solver(denoise, start, levels, path, fresh))
    return (x if given is None else given.put_back(x)), spy, noise


@pytest.mark.parametrize("kind", ["frames", "parts", "both"])
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_given_latents_come_back_bit_for_bit(solver: Solver, path: Path, kind: str) -> None:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{solver}{kind}".encode()))
    given = Given(torch.randn(SHAPE, generator=generator), masks(generator)[kind])
    x, spy, noise = run(solver, path, given)
    known = given.mask.expand(SHAPE)
    assert torch.equal(x[known], given.latents[known])
    assert bool(x.isfinite().all()) and not torch.equal(x[~known], given.latents[~known])
    assert len(spy.asked) == (11 if solver == Heun() else 6)

    frames = given.frames
    for seen, t in spy.asked:
        if kind == "parts":  # no whole frame is known: one level for all
            assert t.shape == (2, 1)
            level = t[:, :, None, None, None]
        else:
            assert t.shape == (2, 5) and bool((t[frames] == 0).all())
            assert t[~frames].unique().numel() == 1 and t[~frames][0] > 0
            level = t[:, None, :, None, None]
        whole = frames[:, None, :, None, None].expand(SHAPE)
        assert torch.equal(seen[whole], given.latents[whole]), "known frames enter clean"
        partly = known & ~whole
        noised = path.alpha(level) * given.latents + path.sigma(level) * noise
        assert torch.equal(seen[partly], noised[partly]), "known parts enter with the sample's own noise"


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_check_sees_a_solver_that_forgets_what_is_given(solver: Solver) -> None:
    generator = torch.Generator().manual_seed(1)
    given = Given(torch.randn(SHAPE, generator=generator), masks(generator)["frames"])
    known = given.mask.expand(SHAPE)
    forgetful, spy, _ = run(solver, Linear(), None)
    assert not torch.equal(forgetful[known], given.latents[known])
    assert all(t.shape == (2, 1) for _, t in spy.asked), "nothing given: one level for all frames"


def test_unknown_frames_depend_on_the_given_ones() -> None:
    generator = torch.Generator().manual_seed(2)
    mask = masks(generator)["frames"]
    a, b = (Given(torch.randn(SHAPE, generator=generator), mask) for _ in range(2))
    known = a.mask.expand(SHAPE)
    assert not torch.equal(run(Euler(), Linear(), a)[0][~known], run(Euler(), Linear(), b)[0][~known])


def test_unknown_entries_of_the_given_latents_are_not_read() -> None:
    generator = torch.Generator().manual_seed(3)
    for mask in masks(generator).values():
        latents = torch.randn(SHAPE, generator=generator)
        clean, poisoned = Given(latents, mask), Given(latents.clone(), mask)
        poisoned.latents[~clean.mask.expand(SHAPE)] = torch.nan
        assert torch.equal(run(DPMSolverPP2M(), Cosine(), clean)[0], run(DPMSolverPP2M(), Cosine(), poisoned)[0])


def test_context_noise_is_seen_by_the_network_and_not_returned() -> None:
    generator = torch.Generator().manual_seed(4)
    given = Given(torch.randn(SHAPE, generator=generator), masks(generator)["frames"])
    x, spy, noise = run(Heun(), Linear(), given, context_level=0.3)
    known, frames = given.mask.expand(SHAPE), given.frames
    assert torch.equal(x[known], given.latents[known])
    lowest = min(t.max().item() for _, t in spy.asked)
    assert lowest < 0.3, "or the last assertion shows nothing"
    for seen, t in spy.asked:
        level = min(0.3, t.max().item())
        torch.testing.assert_close(t[frames], torch.full_like(t[frames], level))
        torch.testing.assert_close(seen[known], ((1 - level) * given.latents + level * noise)[known])


def test_one_set_of_given_latents_serves_all_samples() -> None:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, *SHAPE[1:], generator=generator)
    mask = torch.tensor([[True, False, False, True, False]])
    one, each = Given(latents, mask), Given(latents.expand(SHAPE), mask.expand(2, -1))
    (a, spy, _), (b, _, _) = run(Euler(), Linear(), one), run(Euler(), Linear(), each)
    assert torch.equal(a, b) and spy.asked[0][1].shape == (2, 5)


def test_rows() -> None:
    generator = torch.Generator().manual_seed(6)
    given = Given(torch.randn(4, *SHAPE[1:], generator=generator), torch.rand(4, 5, generator=generator) < 0.5)
    part = given.rows(slice(1, 3), torch.zeros((), dtype=torch.float64))
    assert part.latents.dtype == torch.float64 and torch.equal(part.mask, given.mask[1:3])
    assert len(Given(given.latents[:1], given.mask[:1]).rows(slice(2, 4), given.latents).latents) == 1


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"given mask is torch.float32 \(2, 5\)"):
        Given(torch.zeros(SHAPE), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        Given(torch.zeros(SHAPE), torch.zeros(2, 4, dtype=torch.bool))
