"""Diffusion forcing of SkyReels-V2: a UniPC of diffusers for each latent frame beside our one with levels of frames."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from dit.diffusion.denoiser import Denoiser
from dit.foreign import build
from dit.interop.schedulers import of_scheduler
from dit.sampling.checkpoint import KINDS
from dit.sampling.given import hold

diffusers = pytest.importorskip("diffusers")

FRAMES, STEPS = 4, 6
CONFIG = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 8.0}


class Coupled:
    """A random smooth function in which each frame sees all others and their levels; it remembers the levels."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.mix = torch.randn(FRAMES, FRAMES, generator=generator, dtype=torch.float64)
        self.told: list[list[float]] = []

    def __call__(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.told.append(t[0].tolist())
        level = t[:, None, :, None, None]
        return torch.tanh(torch.einsum("fg,bcghw->bcfhw", self.mix, x + level)) + torch.sin(3 * level) * x


def theirs(lag: int, group: int, noise: Tensor, net: Coupled, in_place: bool) -> list[Tensor]:
    """The loop of the pipeline, x behind each of its rows. in_place: the schedulers keep views of x, as there."""
    scheduler = diffusers.UniPCMultistepScheduler(**CONFIG)
    scheduler.set_timesteps(STEPS)
    matrix, _, update, _ = diffusers.SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix(
        None, FRAMES, scheduler.timesteps, FRAMES, lag, 0, group
    )
    each, x, states = [deepcopy(scheduler) for _ in range(FRAMES)], noise.clone(), []
    for row, moves in zip(matrix, update, strict=True):
        out = net(x, row[None].double().expand(len(x), -1) / 1000, {})
        for frame in range(FRAMES):
            if moves[frame]:
                part = x[:, :, frame] if in_place else x[:, :, frame].clone()
                x[:, :, frame] = each[frame].step(out[:, :, frame], row[frame], part, return_dict=False)[0]
        states.append(x.clone())
    return states


def ours(lag: int, group: int, noise: Tensor, net: Coupled, pipeline: str) -> list[Tensor]:
    scheduler = diffusers.UniPCMultistepScheduler(**CONFIG)
    parts = of_scheduler(json.loads(scheduler.to_json_string()), "SkyReelsV2Transformer3DModel", pipeline)
    pyramid = "dit.sampling.schedule.Pyramid"
    node = {"_target_": pyramid, "schedule": parts.schedule, "group": group, "lag": lag}
    schedule = build(node, KINDS["sampling.schedule"], "schedule")
    solver = build(parts.solver, KINDS["sampling.solver"], "solver")
    path, prediction = (
        build(parts.path, KINDS["path"], "path"),
        build(parts.prediction, KINDS["prediction"], "prediction"),
    )
    levels, denoiser = schedule(STEPS, 1, path, FRAMES), Denoiser(net, path, prediction)
    denoise = hold(lambda x, t: denoiser(x, t, {}), None, noise, path)
    x = schedule.start_std(path, levels[0].max().item()) * noise
    return [state.x for state in solver(denoise, x, levels, path)]


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("lag, group", [(0, 1), (1, 1), (2, 1), (STEPS, 1), (9, 1), (3, 2)])
def test_frames_one_behind_another(lag: int, group: int, in_place: bool) -> None:
    noise = torch.randn(2, 3, FRAMES, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    names = ("SkyReelsV2Pipeline", "SkyReelsV2DiffusionForcingPipeline")
    their_net, our_net = Coupled(), Coupled()
    wanted = theirs(lag, group, noise, their_net, in_place)
    found = ours(lag, group, noise, our_net, names[in_place])
    assert len(found) == len(wanted) == STEPS + (FRAMES // group - 1) * min(lag, STEPS)
    assert our_net.told == their_net.told
    for mine, yours in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-5, atol=1e-5)
    for spoiled in (
        ours(lag + 1 if lag < STEPS else 1, group, noise, Coupled(), names[in_place]),
        ours(lag, group, noise, Coupled(), names[not in_place]),
    ):
        assert not torch.allclose(spoiled[-1], wanted[-1], rtol=1e-3, atol=1e-3)
