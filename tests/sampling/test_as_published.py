"""What the pipelines of Wan 2.2 5B and SkyReels-V2 do with noise levels, from diffusers' code, by this sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit.diffusion.denoiser import Denoiser
from dit.diffusion.experts import ByLevel
from dit.diffusion.path import Linear
from dit.diffusion.prediction import Flow
from dit.sampling import schedule
from dit.sampling.given import Given, hold
from dit.sampling.guidance import ByLevel as GuidanceByLevel
from dit.sampling.guidance import ClassifierFree, NoGuidance
from dit.sampling.schedule import Autoregressive, Pyramid, Schedule, over_frames
from dit.sampling.solvers import Euler, end

SHAPE = (2, 3, 5, 4, 6)  # latents
STEPS = 4


def net(x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """A velocity in which every frame sees the others and its own level."""
    return torch.tanh(x + x.mean(2, keepdim=True) * 0.5) - t[:, None, :, None, None]


def sampled(given: Given | None, noise: Tensor, levels: Tensor) -> Tensor:
    denoise = NoGuidance()(Denoiser(net, Linear(), Flow()), {}, {})
    x = end(Euler()(hold(denoise, given, noise, Linear()), noise, levels, Linear()))
    return x if given is None else given.put_back(x)


def expanded(noise: Tensor, condition: Tensor | None, levels: Tensor) -> Tensor:
    """WanPipeline and WanImageToVideoPipeline with expand_timesteps=True, a timestep for every token: the mask is 0 in
    the first frame of an image-to-video sample, whose timestep is 0. The scheduler is flow-matching Euler."""
    latents, mask = noise, torch.ones(1, 1, *SHAPE[2:], dtype=noise.dtype)
    if condition is not None:
        mask[:, :, 0] = 0
    else:
        condition = torch.zeros_like(noise)
    for t, s in zip(levels, levels[1:], strict=False):
        model_input = (1 - mask) * condition + mask * latents
        timestep = (mask[0][0] * t).flatten(1)[:, 0].expand(len(noise), -1)  # of a token; equal within a frame
        latents = latents + (s - t) * net(model_input, timestep, {})
    return (1 - mask) * condition + mask * latents


def test_expanded_timesteps() -> None:
    draw = torch.Generator().manual_seed(0)
    noise, image = (torch.randn(SHAPE, generator=draw, dtype=torch.float64) for _ in range(2))
    levels = schedule.Shifted(5.0)(STEPS, 1, Linear(), 5)
    torch.testing.assert_close(sampled(None, noise, levels), expanded(noise, None, levels), rtol=1e-12, atol=1e-12)
    first = Given(image, (torch.arange(5) == 0).expand(2, -1))
    found, wanted = sampled(first, noise, levels), expanded(noise, image, levels)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found[:, :, 1:], sampled(None, noise, levels)[:, :, 1:])


class Expert(nn.Module):
    """A velocity with a weight and a text of its own."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.parameter = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return net(self.weight * x + cond["text"].mean((1, 2))[:, None, None, None, None], t, cond)


def in_turn(noise: Tensor, texts: tuple[Tensor, Tensor], levels: Tensor, ratio: float, *scales: float) -> Tensor:
    """WanPipeline with boundary_ratio, guidance_scale and guidance_scale_2; the scheduler is flow-matching Euler."""
    latents, boundary = noise, ratio * 1000
    for t, s in zip(levels, levels[1:], strict=False):
        model, scale = (Expert(0.5), scales[0]) if 1000 * t >= boundary else (Expert(0.8), scales[1])
        timestep = t.expand(len(noise), 1)
        cond, uncond = (model(latents, timestep, {"text": text}) for text in texts)
        latents = latents + (s - t) * (uncond + scale * (cond - uncond))
    return latents


@pytest.mark.parametrize("ratio", [0.875, 0.9])
@pytest.mark.parametrize("together", [True, False])
def test_two_experts(ratio: float, together: bool) -> None:
    """One of the levels is the boundary itself."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(SHAPE, generator=draw, dtype=torch.float64)
    texts = torch.full((2, 3, 4), 0.3, dtype=torch.float64), torch.full((2, 3, 4), -0.2, dtype=torch.float64)
    levels = torch.tensor([1.0, 0.95, ratio, 0.5, 0.2, 0.0], dtype=torch.float64)
    high, low = (ClassifierFree(scale, 0.0, (0.0, 1.0), together) for scale in (4.0, 3.0))
    experts = ByLevel(Expert(0.5), Expert(0.8), ratio)
    cond, uncond = ({"text": text} for text in texts)
    guided = GuidanceByLevel(high, low, None)(Denoiser(experts, Linear(), Flow()), cond, uncond)
    with torch.no_grad():
        found = end(Euler()(hold(guided, None, noise, Linear()), noise, levels, Linear()))
        wanted = in_turn(noise, texts, levels, ratio, 4.0, 3.0)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        for other in ((ratio + 0.01, 4.0, 3.0), (ratio, 3.0, 3.0), (ratio, 4.0, 4.0)):
            assert not torch.allclose(found, in_turn(noise, texts, levels, *other), rtol=1e-4)


def matrix(frames: int, ar_step: int, block: int, prefix: int) -> tuple[Tensor, Tensor]:
    """Rows of timesteps (rows, frames) and which frames are updated, as SkyReels-V2's pipeline makes them."""
    pipelines = pytest.importorskip("diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing")
    made: Any = pipelines.SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix
    template = torch.tensor([1000, 750, 500, 250])
    rows, _, updated, intervals = made(None, frames, template, frames, ar_step, prefix, block)
    assert set(intervals) == {(0, frames)}
    return rows, updated


@pytest.mark.parametrize(
    ("frames", "ar_step", "block", "prefix"),
    [(6, 0, 1, 0), (6, 1, 1, 0), (6, 1, 2, 0), (6, 3, 3, 0), (6, 2, 1, 2), (8, 1, 2, 4), (4, 4, 1, 0), (4, 9, 2, 0)],
)
def test_diffusion_forcing(frames: int, ar_step: int, block: int, prefix: int) -> None:
    """`ar_step` is the lag of a pyramid, `causal_block_size` its group, and the prefix is given."""
    rows, updated = matrix(frames, ar_step, block, prefix)
    known = torch.arange(frames) < prefix
    ours = over_frames(Pyramid(schedule.Linear(), block, ar_step)(STEPS, 1, Linear(), frames - prefix), known, 1)
    moves = (ours.diff(dim=0) < 0) & ~known
    assert torch.equal(moves, updated)
    # What the network is told: of waiting frames theirs says 999, a dummy, ours the level at which they begin.
    told = torch.where(known, 0, (1000 * ours[:-1]).round()).long()
    assert torch.equal(told, torch.where(rows == 999, 1000, rows))


def test_another_lag_or_block_is_noticed() -> None:
    rows, updated = matrix(6, 2, 1, 0)
    for other in (
        Pyramid(schedule.Linear(), 1, 1),
        Pyramid(schedule.Linear(), 2, 2),
        Autoregressive(schedule.Linear(), 1),
    ):
        ours = other(STEPS, 1, Linear(), 6)
        assert len(ours) - 1 != len(rows) or not torch.equal(ours.diff(dim=0) < 0, updated)


def forced(noise: Tensor, each: Schedule, ar_step: int, block: int) -> Tensor:
    """The denoising loop of that pipeline with a flow-matching Euler scheduler for every frame."""
    rows, updated = matrix(noise.shape[2], ar_step, block, 0)
    levels = each(STEPS, 1, Linear(), 1)
    place = {int(round(1000 * t)): index for index, t in enumerate(schedule.Linear()(STEPS, 1, Linear(), 1).tolist())}
    latents = noise.clone()
    for row, update in zip(rows.tolist(), updated.tolist(), strict=True):
        index = [place[1000 if timestep == 999 else timestep] for timestep in row]
        out = net(latents, levels[index].expand(len(noise), -1), {})
        for frame in range(noise.shape[2]):
            if update[frame]:
                step = levels[index[frame] + 1] - levels[index[frame]]
                latents[:, :, frame] = latents[:, :, frame] + step * out[:, :, frame]
    return latents


@pytest.mark.parametrize(("ar_step", "block"), [(0, 1), (1, 1), (2, 3)])
def test_the_loop_of_diffusion_forcing(ar_step: int, block: int) -> None:
    noise = torch.randn(2, 3, 6, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    each = schedule.Shifted(8.0)
    levels = Pyramid(each, block, ar_step)(STEPS, 1, Linear(), 6)
    torch.testing.assert_close(
        sampled(None, noise, levels), forced(noise, each, ar_step, block), rtol=1e-12, atol=1e-12
    )
