"""Chained clips: each is given the end of the one before, and the seams are exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit.sampling.given import Given
from dit.sampling.rollout import roll_out, stitch
from tests.sampling.fakes import FakeCodec
from tests.sampling.test_tasks import canvas

Clips = list[tuple[Tensor, Tensor]]


def made(
    stride: tuple[int, int, int], causal: bool, num_frames: int, chunks: int, num_context: int, forget: bool
) -> tuple[Clips, list[Given | None], FakeCodec]:
    codec, board, asked = FakeCodec(list(stride), causal), canvas(stride, causal, num_frames), []
    generator = torch.Generator().manual_seed(num_frames)

    def sample(given: Given | None) -> Tensor:
        asked.append(given)
        fresh = torch.randn(2, 3, *board.latent_shape, generator=generator)
        return fresh if given is None or forget else given.put_back(fresh)

    clips = list(roll_out(sample, codec.decode, board, None, chunks, num_context))
    return clips, asked, codec


@pytest.mark.parametrize("chunks, num_context", [(1, 2), (2, 1), (4, 3)])
def test_shared_frames_are_the_earlier_ones_bit_for_bit(chunks: int, num_context: int) -> None:
    clips, asked, _ = made((1, 1, 1), False, 6, chunks, num_context, forget=False)
    assert asked[0] is None and len(clips) == chunks
    for (earlier, _), (later, _), given in zip(clips, clips[1:], asked[1:], strict=False):
        assert torch.equal(later[:, :, :num_context], earlier[:, :, -num_context:])
        assert not torch.equal(later[:, :, num_context:], earlier[:, :, num_context:])
        assert given.frames[0].tolist() == [frame < num_context for frame in range(6)]
    long = stitch([latents for latents, _ in clips], num_context)
    assert long.shape[2] == 6 + (chunks - 1) * (6 - num_context)
    step = 6 - num_context
    for index, (latents, _) in enumerate(clips):
        assert torch.equal(long[:, :, index * step : index * step + 6], latents), "every clip lies in the long one"


def test_the_check_sees_a_sampler_that_forgets_its_context() -> None:
    clips, _, _ = made((1, 1, 1), False, 6, 2, 3, forget=True)
    assert not torch.equal(clips[1][0][:, :, :3], clips[0][0][:, :, -3:])


def test_a_codec_that_packs_frames_encodes_the_context_anew() -> None:
    """The last five frames of a causal clip are grouped 4+1 at its end and 1+4 at the start of the next."""
    clips, asked, codec = made((4, 2, 2), True, 9, 3, 5, forget=False)
    for (_, pixels), given in zip(clips, asked[1:], strict=False):
        assert given.frames[0].tolist() == [True, True, False]
        assert torch.equal(given.latents[:, :, :2], codec.encode(pixels[:, :, -5:]))
    assert stitch([pixels for _, pixels in clips], 5).shape[2] == 9 + 4 + 4
