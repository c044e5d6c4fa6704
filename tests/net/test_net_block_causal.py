"""Blocks of frames that see themselves and those before."""

import pytest
import torch
from torch import Tensor

from dit.net.kernels.masks import Mask
from dit.net.kernels.sdpa import SDPA
from dit.net.layout import BlockCausal
from tests.net.contexts import context_of

GRID = (5, 2, 3)


@pytest.mark.parametrize("block", [1, 2, 3, 4, 5, 9])
def test_is_full_attention_under_its_mask(block: int) -> None:
    """Also where the last block is shorter (2, 3, 4), is all (5) or would be longer (9)."""
    q, k, v = torch.randn(3, 2, 30, 2, 8, dtype=torch.float64, generator=torch.manual_seed(0))
    frame = torch.tensor([f for f in range(GRID[0]) for _ in range(GRID[1] * GRID[2])])
    allowed = frame[:, None] // block >= frame[None, :] // block
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
    wanted = torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(~allowed, -torch.inf).softmax(-1), v)
    torch.testing.assert_close(BlockCausal(block)(SDPA(), q, k, v, context_of(GRID)), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("block", "pairs"), [(1, 15), (2, 4 + 8 + 5), (5, 25)])
def test_no_product_is_made_with_a_key_that_is_hidden(block: int, pairs: int) -> None:
    """pairs: of frames."""
    made = []

    class Counts(SDPA):
        def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None) -> Tensor:
            made.append(q.shape[2] * k.shape[2])
            assert mask is None  # which flash kernels do not take
            return super().__call__(q, k, v)

    q, k, v = torch.randn(3, 2, 30, 2, 8)
    BlockCausal(block)(Counts(), q, k, v, context_of(GRID))
    assert sum(made) == pairs * 6 * 6 and len(made) == -(-5 // block)


def outputs(net: torch.nn.Module, spoil: int) -> Tensor:
    """The output for latents whose frames from `spoil` on are others."""
    x = torch.randn(2, 16, 5, 4, 6, dtype=torch.float64, generator=torch.manual_seed(1))
    x[:, :, spoil:] += 1
    level = torch.rand(2, 5, dtype=torch.float64, generator=torch.manual_seed(2))
    level[:, spoil:] = 0.5
    text = torch.randn(2, 7, 128, dtype=torch.float64, generator=torch.manual_seed(3))
    with torch.no_grad():
        return net(x, level, {"text": text, "fps": torch.tensor([16.0, 24.0])})


def test_later_frames_do_not_reach_earlier_blocks(randomised) -> None:
    net = randomised(preset="skyreels_v2_tiny", tiny=False)
    first, second = outputs(net, 3), outputs(net, 5)
    torch.testing.assert_close(first[:, :, :2], second[:, :, :2], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(first[:, :, 2], second[:, :, 2]), "frames 2 and 3 share a block"


def test_text_in_the_sequence_is_refused(build) -> None:
    net = build("net/text=joint", preset="skyreels_v2_tiny", tiny=False)
    with pytest.raises(ValueError, match="cannot have text tokens in its sequence"):
        outputs(net, 5)


def test_a_block_of_no_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="block=0 frames"):
        BlockCausal(0)
