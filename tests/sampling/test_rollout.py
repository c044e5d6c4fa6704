"""Chained clips: each is given the end of the one before, and the seams are exact."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from dit.sampling.given import Given
from dit.sampling.plan import Plan
from dit.sampling.rollout import roll_out
from dit.sampling.runtime import exhausted
from tests.sampling.fakes import FakeCodec
from tests.sampling.test_tasks import canvas


@dataclass
class Made:
    """Clips of random latents, what was given to each, what was yielded, and the whole."""

    codec: FakeCodec
    clips: list[Tensor] = field(default_factory=list)
    given: list[Given | None] = field(default_factory=list)
    pixels: Tensor = field(default_factory=lambda: torch.empty(0))
    latents: Tensor = field(default_factory=lambda: torch.empty(0))


def make(stride: tuple[int, int, int], causal: bool, num_frames: int, plan: Plan, forget: bool = False) -> Made:
    made, board = Made(FakeCodec(list(stride), causal)), canvas(stride, causal, num_frames)
    generator = torch.Generator().manual_seed(num_frames)
    yielded: list[int] = []

    def sample(given: Given | None) -> Generator[int, None, Tensor]:
        made.given.append(given)
        fresh = torch.randn(2, 3, *board.latent_shape, generator=generator)
        made.clips.append(fresh if given is None or forget else given.put_back(fresh))
        yield len(made.clips)
        return made.clips[-1]

    def watched() -> Generator[int, None, tuple[Tensor, Tensor]]:
        steps = roll_out(sample, made.codec.decode, board, plan)
        while True:
            try:
                yielded.append(next(steps))
            except StopIteration as end:
                return end.value
            yield yielded[-1]

    made.pixels, made.latents = exhausted(watched())
    assert yielded == list(range(1, plan.chunks + 1))
    return made


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("chunks, num_context", [(1, 2), (2, 1), (4, 3)])
def test_shared_frames_are_the_earlier_ones_bit_for_bit(chunks: int, num_context: int, carried: bool) -> None:
    """Where a latent frame is a pixel frame."""
    plan = Plan(chunks=chunks, num_context=num_context, carries_latents=carried)
    made = make((1, 1, 1), False, 6, plan)
    assert made.given[0] is None and len(made.clips) == chunks
    for earlier, later, given in zip(made.clips, made.clips[1:], made.given[1:], strict=False):
        assert torch.equal(later[:, :, :num_context], earlier[:, :, -num_context:])
        assert not torch.equal(later[:, :, num_context:], earlier[:, :, num_context:])
        assert given is not None and given.frames[0].tolist() == [frame < num_context for frame in range(6)]
    assert made.latents.shape[2] == 6 + (chunks - 1) * (6 - num_context)
    step = 6 - num_context
    for index, latents in enumerate(made.clips):
        assert torch.equal(made.latents[:, :, index * step : index * step + 6], latents), (
            "every clip lies in the long one"
        )
    assert torch.equal(made.pixels, made.codec.decode(made.latents))


def test_the_check_sees_a_sampler_that_forgets_its_context() -> None:
    clips = make((1, 1, 1), False, 6, Plan(chunks=2, num_context=3), forget=True).clips
    assert not torch.equal(clips[1][:, :, :3], clips[0][:, :, -3:])


def test_a_codec_that_packs_frames_encodes_the_context_anew() -> None:
    """The last five frames of a causal clip are grouped 4+1 at its end and 1+4 at the start of the next."""
    made = make((4, 2, 2), True, 9, Plan(chunks=3, num_context=5))
    for clip, given in zip(made.clips, made.given[1:], strict=False):
        assert given is not None and given.frames[0].tolist() == [True, True, False]
        assert torch.equal(given.latents[:, :, :2], made.codec.encode(made.codec.decode(clip)[:, :, -5:]))
    assert made.pixels.shape[2] == 9 + 4 + 4


def test_latents_are_carried_where_that_is_asked_for() -> None:
    """SkyReels-V2's long videos: a clip begins with latent frames of the one before, and all are decoded as one."""
    made = make((4, 2, 2), True, 9, Plan(chunks=3, num_context=5, carries_latents=True))
    for clip, given in zip(made.clips, made.given[1:], strict=False):
        assert given is not None and given.frames[0].tolist() == [True, True, False]
        assert torch.equal(given.latents[:, :, :2], clip[:, :, -2:])
    assert torch.equal(made.latents, torch.cat([made.clips[0], *(clip[:, :, 2:] for clip in made.clips[1:])], 2))
    assert made.pixels.shape[2] == 9 + 4 + 4 and torch.equal(made.pixels, made.codec.decode(made.latents))
