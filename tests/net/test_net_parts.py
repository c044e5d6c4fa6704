"""Norms, MLPs, modulation and embeddings against their formulas."""

import math

import pytest
import torch
from torch import nn

from dit.net.embed import ClassEmbedding, ScalarEmbedding
from dit.net.layers import GELUMLP, LayerNorm, RMSNorm, SwiGLU, ZeroLinear, add_gated, modulate
from dit.net.modulation import AdaLNSingle, AdaLNZero
from dit.net.patches import patchify, unpatchify


def random(module: nn.Module) -> nn.Module:
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


@pytest.mark.parametrize("runs", [1, 3, 6])
def test_modulate_and_gate_act_on_equal_runs_of_tokens(runs: int) -> None:
    x, branch = torch.randn(2, 2, 6, 4, dtype=torch.float64)
    shift, scale, gate = torch.randn(3, 2, runs, 4, dtype=torch.float64)
    per_token = [m.repeat_interleave(6 // runs, dim=1) for m in (shift, scale, gate)]
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + per_token[1]) + per_token[0])
    torch.testing.assert_close(add_gated(x, gate, branch), x + per_token[2] * branch)


@pytest.mark.parametrize("affine", [True, False])
def test_norms(affine: bool) -> None:
    x = 3 + torch.randn(2, 5, 8, dtype=torch.float64)
    layer, rms = random(LayerNorm(8, eps=0.1, affine=affine)), random(RMSNorm(8, eps=0.1, affine=affine))
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(layer(x), expected * layer.weight + layer.bias if affine else expected)
    expected = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(rms(x), expected * rms.weight if affine else expected)


def test_mlps() -> None:
    x = torch.randn(3, 6, dtype=torch.float64)
    for approximate in ("tanh", "none"):
        mlp = random(GELUMLP(6, ratio=1.5, approximate=approximate, bias=True))
        assert mlp.up.weight.shape == (9, 6)
        torch.testing.assert_close(mlp(x), mlp.down(nn.GELU(approximate=approximate)(mlp.up(x))))
    exact, tanh = (nn.GELU(approximate=a)(torch.tensor(1.5, dtype=torch.float64)).item() for a in ("none", "tanh"))
    assert exact == pytest.approx(1.5 * 0.5 * (1 + math.erf(1.5 / math.sqrt(2)))) and exact != tanh
    swiglu = random(SwiGLU(6, ratio=8 / 3, multiple_of=5, bias=False))
    assert swiglu.down.weight.shape == (6, 20) and swiglu.down.bias is None
    a, b = swiglu.gate_and_value.weight[:20], swiglu.gate_and_value.weight[20:]
    torch.testing.assert_close(swiglu(x), swiglu.down((x @ a.T) * torch.sigmoid(x @ a.T) * (x @ b.T)))


def test_adaln_zero_is_a_projection_in_each_block() -> None:
    modulation = AdaLNZero(4, 4)
    heads = [random(modulation.block_head(6)) for _ in range(2)]
    level = torch.randn(2, 3, 4, dtype=torch.float64)
    for head in heads:
        expected = nn.functional.silu(level) @ head.linear.weight.T + head.linear.bias
        torch.testing.assert_close(torch.cat(head(modulation(level, {})), dim=-1), expected)
    final = random(modulation.final_head())
    expected = nn.functional.silu(level) @ final[1].linear.weight.T + final[1].linear.bias
    torch.testing.assert_close(torch.cat(final(level), dim=-1), expected)


@pytest.mark.parametrize("vectors", [3, 6])
def test_adaln_single_is_one_projection_and_a_table_in_each_block(vectors: int) -> None:
    modulation = random(AdaLNSingle(4, 4))
    head = random(modulation.block_head(vectors))
    level = torch.randn(2, 3, 4, dtype=torch.float64)
    shared = (nn.functional.silu(level) @ modulation.shared.weight.T + modulation.shared.bias).unflatten(-1, (6, 4))
    found = head(modulation(level, {}))
    assert len(found) == vectors
    for i, vector in enumerate(found):
        torch.testing.assert_close(vector, shared[..., i, :] + head.table[i])
    final = random(modulation.final_head())
    torch.testing.assert_close(torch.stack(final(level)), torch.stack([level + final.table[0], level + final.table[1]]))


def test_scalar_embedding_is_dits_and_precise_in_bf16() -> None:
    embed = random(ScalarEmbedding(5, frequencies=8, max_period=10000.0, scale=1000.0, shift=0.0))
    t = torch.rand(2, 3, dtype=torch.float64)
    features = torch.empty(2, 3, 8, dtype=torch.float64)
    for i in range(4):
        features[..., i] = torch.cos(1000 * t * 10000 ** (-i / 4))
        features[..., 4 + i] = torch.sin(1000 * t * 10000 ** (-i / 4))
    torch.testing.assert_close(embed(t), embed.out(nn.functional.silu(embed.hidden(features))))
    # Levels 0.500 and 0.501 are one timestep apart; bf16 sinusoids of 1000 t could not tell them apart.
    close = embed.bfloat16()(torch.tensor([0.5, 0.501]))
    assert (close[0] - close[1]).abs().max() > 0.05
    with pytest.raises(ValueError, match="frequencies=7 is odd; nearest: 6, 8"):
        ScalarEmbedding(5, frequencies=7, max_period=1e4, scale=1.0, shift=0.0)


def test_class_embedding_has_a_row_for_no_class() -> None:
    embed = ClassEmbedding(4, num_classes=3)
    assert embed(torch.tensor([0, 3])).shape == (2, 4)
    with pytest.raises(IndexError):
        embed(torch.tensor([4]))


def test_zero_linear_starts_at_zero_whatever_the_std() -> None:
    linear = ZeroLinear(3, 4)
    assert linear.weight.any()
    linear.init_own(std=1.0)
    assert not linear.weight.any() and not linear.bias.any()


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 1, 3), (3, 4, 1)])
def test_patchify_is_the_convolution_and_unpatchify_puts_every_value_back(patch: tuple[int, int, int]) -> None:
    (f, h, w), x = patch, torch.randn(2, 3, 6, 4, 9, dtype=torch.float64)
    if 9 % w or 4 % h:
        x = x[..., : 9 // w * w]
    conv = nn.Conv3d(3, 7, patch, stride=patch).double()
    tokens = patchify(x, patch)
    linear = nn.functional.linear(tokens, conv.weight.flatten(1), conv.bias)
    torch.testing.assert_close(linear, conv(x).flatten(2).transpose(1, 2))
    channel_last = tokens.unflatten(-1, (3, f * h * w)).transpose(-1, -2).flatten(-2)
    grid = (6 // f, 4 // h, x.shape[-1] // w)
    torch.testing.assert_close(unpatchify(channel_last, patch, grid), x, rtol=0, atol=0)
    assert not torch.equal(unpatchify(tokens, patch, grid), x), "channel-first is another order"


@pytest.mark.parametrize(
    "size, message",
    [
        ((5, 4, 6), "frames=5 is not a multiple of the patch's 2; nearest: 4, 6"),
        ((4, 2, 6), "height=2 is not a multiple of the patch's 4; nearest: 4$"),
        ((4, 4, 0), "width=0 is not a multiple of the patch's 3; nearest: 3$"),
    ],
)
def test_illegal_grids_name_the_nearest_legal_ones(size: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patchify(torch.zeros(1, 1, *size), (2, 4, 3))


@pytest.mark.parametrize("mlp", ["gelu_tanh", "swiglu"])
def test_an_mlp_without_hidden_channels_is_refused(build, mlp: str) -> None:
    with pytest.raises(Exception, match="mlp.ratio=1e-30 leaves no hidden channel of width=48"):
        build(f"net/mlp={mlp}", "net.mlp.ratio=1e-30")
