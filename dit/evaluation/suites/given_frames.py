"""How many first frames a run was given in training, for suites that give it as many."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dit.diffusion.conditioning import Conditioning
from dit.evaluation.harness.subject import Subject
from dit.sampling.canvas import Canvas

DRAWS = 4096  # of the run's conditioning, to see how many first frames it was trained with


def prefixes(subject: Subject) -> list[int]:
    """How many of the first frames the run was given in training, 0 for none: latent frames, or frames of pixels where
    given ones are only shown beside the clip and not encoded alone."""
    checkpoint = subject.checkpoint
    if checkpoint.config.get("conditioning") is None:
        return [0]
    conditioning = checkpoint.part("conditioning", trusted=subject.sampler.trusted)
    canvas = subject.pipeline.canvas()
    return first_frames(conditioning, canvas.num_frames if in_pixels(canvas) else canvas.latent_shape[0])


def in_pixels(canvas: Canvas) -> bool:
    """Whether given frames are counted in frames of pixels, not of latents."""
    return not canvas.given.in_place and canvas.given.unknown != "left_out"


def first_frames(conditioning: Conditioning, frames: int) -> list[int]:
    """How many of the first frames of clips a conditioning gives, and no other; 0 where it ever gives none."""
    drawn = conditioning(DRAWS, frames, torch.Generator().manual_seed(0), "cpu")
    counts = drawn.sum(1)
    whole = (drawn == (torch.arange(frames)[None] < counts[:, None])).all(1)
    return sorted(set(counts[whole].tolist()))


def in_frames(canvas: Canvas, prefixes: Sequence[int]) -> list[int]:
    """How many frames of pixels `prefixes` are."""
    if in_pixels(canvas):
        return list(prefixes)
    return [int(frame) for frame in canvas.compression.first_frames(torch.tensor(prefixes)).tolist()]
