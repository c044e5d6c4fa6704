"""Channels of given frames that a network reads beside the noisy latents: the same in training and in sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dit.diffusion.conditioning import FirstFrame, RandomTasks
from dit.diffusion.given import HELD
from dit.diffusion.levels import Uniform
from dit.diffusion.loss import Objective
from dit.diffusion.path import Linear
from dit.diffusion.prediction import V
from dit.diffusion.space import Output
from dit.diffusion.weighting import Uniform as EqualWeight
from dit.sampling.pipeline import Pipeline
from dit.sampling.tasks import FirstLast
from tests.sampling.fakes import FAKES, checkpoint

CHANNELS = {"given_frames": 4, "given_latents": 3}


class Spy(nn.Module):
    """Remembers what it was told."""

    concat_channels = CHANNELS

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        return frames

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.told = cond
        return x


def assert_told(cond: dict[str, Tensor], clean: Tensor, frames: list[int]) -> None:
    """The clean latents (B, C, F, H, W) and 1 in the given frames, 0 in all others."""
    known = torch.tensor([float(frame in frames) for frame in range(clean.shape[2])])[:, None, None]
    batch, _, *grid = clean.shape
    assert torch.equal(cond["given"], known.expand(batch, 1, *grid))
    assert torch.equal(cond["given_frames"], known.expand(batch, 4, *grid))
    assert torch.equal(cond["given_latents"], clean * known)


def test_training_shows_the_clean_latents_and_the_mask() -> None:
    conditioning = RandomTasks({"i2v": FirstFrame()}, {"i2v": 1.0}, context_noise=0.0)
    objective = Objective(Linear(), V(), Uniform(), EqualWeight(), conditioning, Output(), HELD)
    net, x0, cond = Spy(), torch.randn(2, 3, 5, 4, 4), {"fps": torch.ones(2)}
    objective(net, x0, cond, torch.Generator().manual_seed(0))
    assert_told(net.told, x0, [0])
    assert list(cond) == ["fps"]


def test_sampling_shows_the_same_to_both_halves_of_guidance(tmp_path: Path) -> None:
    made = Pipeline.from_checkpoint(checkpoint(tmp_path), device="cpu", trusted=FAKES)
    net: Any = made.net
    net.concat_channels = CHANNELS
    first, last = torch.rand(2, 3, 8, 10) * 2 - 1
    made(["x"], [0], task=FirstLast(first, last))
    clean = torch.zeros(2, 3, 6, 8, 10)
    clean[:, :, 0], clean[:, :, -1] = first, last
    for _, _, cond in net.asked:
        assert_told(cond, clean, [0, 5])
    net.asked.clear()
    made(["x"], [0])
    assert_told(net.asked[0][2], torch.zeros(2, 3, 6, 8, 10), [])
