"""FLOPs against closed forms."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dit.flops import count_flops, count_flops_by_op
from dit.net.kernels.auto import Auto
from dit.net.kernels.base import Kernel
from dit.net.kernels.flex import Flex
from dit.net.kernels.masks import KeyPadding
from dit.net.kernels.sdpa import SDPA
from dit.net.kernels.xformers import XFormers

BATCH, CHANNELS, FRAMES, HEIGHT, WIDTH = 2, 12, 3, 4, 5
TOKENS = FRAMES * HEIGHT * WIDTH
DIM, HEADS = CHANNELS, 3


class DiTBlock(nn.Module):
    """One DiT block on latents whose channels are the width, so that the block is the whole network."""

    def __init__(self, kernel: Kernel, recompute: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, DIM)
        self.modulation = nn.Linear(DIM, 6 * DIM)
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))
        self.register_buffer("offset", torch.zeros(DIM))
        self.kernel = kernel
        self.recompute = recompute

    def block(self, x: Tensor, c: Tensor, mask: KeyPadding | None) -> Tensor:
        shift, scale, gate, shift_m, scale_m, gate_m = self.modulation(c).unsqueeze(1).chunk(6, dim=-1)
        q, k, v = self.qkv(x * (1 + scale) + shift).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + gate * self.proj(self.kernel(q, k, v, mask).transpose(1, 2).flatten(2))
        return x + gate_m * self.mlp(x * (1 + scale_m) + shift_m)

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        c = self.embed(cond["label"]) * t
        tokens = x.flatten(2).transpose(1, 2) + self.offset
        mask = KeyPadding(cond["text_mask"]) if "text_mask" in cond else None
        if self.recompute:
            return checkpoint(self.block, tokens, c, mask, use_reentrant=False)
        return self.block(tokens, c, mask)


def closed_form() -> tuple[int, int]:
    """Forward FLOPs of the block that see tokens, and those of the modulation (per sample, not per token)."""
    linears = 2 * TOKENS * DIM * (3 * DIM + DIM + 4 * DIM + 4 * DIM)
    attention = 2 * 2 * TOKENS * TOKENS * DIM
    return BATCH * (linears + attention), BATCH * 2 * DIM * 6 * DIM


def count(net: nn.Module, backward: bool, **cond: tuple[int, ...]) -> int:
    kinds = {"label": torch.int64, "text_mask": torch.bool}
    told = {key: torch.empty(shape, dtype=kinds[key]) for key, shape in {"label": (BATCH,), **cond}.items()}
    return count_flops(net, (BATCH, CHANNELS, FRAMES, HEIGHT, WIDTH), (BATCH, 1), told, backward)


@pytest.mark.parametrize("kernel", [SDPA(), Flex(), XFormers(), Auto(candidates=[XFormers(), SDPA()])])
@pytest.mark.parametrize("cond", [{}, {"text_mask": (BATCH, TOKENS)}], ids=["full", "padded"])
def test_forward_equals_the_closed_form(kernel: Kernel, cond: dict[str, tuple[int, ...]]) -> None:
    assert count(DiTBlock(kernel), backward=False, **cond) == sum(closed_form())


@pytest.mark.parametrize("recompute", [False, True])
def test_a_training_step_is_three_forwards_less_the_gradient_of_the_input(recompute: bool) -> None:
    # The latents ask for no gradient, so that of the qkv projection to its input (which does: it is modulated) stays.
    assert count(DiTBlock(SDPA(), recompute), backward=True) == 3 * sum(closed_form())


def test_counts_by_operator_split_attention_from_linear_layers() -> None:
    label = torch.zeros(BATCH, dtype=torch.int64)
    args = (DiTBlock(SDPA()), (BATCH, CHANNELS, FRAMES, HEIGHT, WIDTH), (BATCH, 1), {"label": label})
    assert count_flops_by_op(*args, backward=False)["bmm"] == BATCH * 4 * TOKENS * TOKENS * DIM


def test_frozen_weights_need_no_gradient() -> None:
    net = DiTBlock(SDPA())
    net.mlp.requires_grad_(False)
    weights_of_mlp = BATCH * 2 * TOKENS * DIM * 8 * DIM
    assert count(net, backward=True) == 3 * sum(closed_form()) - weights_of_mlp


def test_counting_leaves_the_network_alone() -> None:
    net = DiTBlock(SDPA()).bfloat16()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.inference_mode():
        assert count(net, backward=True) == 3 * sum(closed_form())
    for name, value in net.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in net.parameters())
