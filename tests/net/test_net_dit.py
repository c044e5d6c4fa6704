"""The backbone with DiT's parts against DiT written out plainly, in float64 with random weights."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

WIDTH, HEADS, CLASSES = 48, 4, 7


def sincos(length: int, channels: int) -> Tensor:
    """One axis of DiT's table: (length, channels), sines then cosines."""
    rows = []
    for position in range(length):
        angles = [position / 10000 ** (2 * i / channels) for i in range(channels // 2)]
        rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    return torch.tensor(rows, dtype=torch.float64)


def dit(w: dict[str, Tensor], image: Tensor, t: Tensor, label: Tensor, depth: int) -> Tensor:
    """image (B, C, H, W), t (B,) in [0, 1] -> (B, 5, H, W): arXiv 2212.09748, figure 3, adaLN-zero."""

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def attention(name: str, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = linear(f"{name}.qkv", x).reshape(batch, tokens, 3, HEADS, WIDTH // HEADS)
        q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)).softmax(-1)
        return linear(f"{name}.out", (weights @ v).transpose(1, 2).reshape(batch, tokens, WIDTH))

    # A convolution on pairs of pixels, rows and columns: 2 x 1 patches.
    kernel = w["embed.weight"].reshape(WIDTH, image.shape[1], 2, 1)
    x = functional.conv2d(image, kernel, w["embed.bias"], stride=(2, 1))  # (B, D, H / 2, W)
    height, width = x.shape[2:]
    columns, rows = sincos(width, WIDTH // 2), sincos(height, WIDTH // 2)
    table = torch.cat([columns.repeat(height, 1), rows.repeat_interleave(width, 0)], dim=1)
    x = x.flatten(2).transpose(1, 2) + table
    angles = 1000 * t[:, None] * torch.tensor([10000 ** (-i / 128) for i in range(128)], dtype=torch.float64)
    c = linear("level.out", functional.silu(linear("level.hidden", torch.cat([angles.cos(), angles.sin()], 1))))
    c = c + w["vectors.label.table.weight"][label]
    for i in range(depth):
        block = f"blocks.{i}"
        steer = linear(f"{block}.modulation.linear", functional.silu(c))[:, None].chunk(6, -1)
        x = x + steer[2] * attention(f"{block}.attention", norm(x) * (1 + steer[1]) + steer[0])
        h = linear(f"{block}.mlp.up", norm(x) * (1 + steer[4]) + steer[3])
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + steer[5] * linear(f"{block}.mlp.down", h)
    shift, scale = linear("final.modulation.1.linear", functional.silu(c))[:, None].chunk(2, -1)
    x = linear("final.linear", norm(x) * (1 + scale) + shift)  # (B, N, 2 * 1 * 5)
    x = x.reshape(-1, height, width, 2, 1, 5)
    return torch.einsum("bhwpqc->bchpwq", x).reshape(-1, 5, 2 * height, width)


def test_equals_dit_in_output_and_gradients(randomised) -> None:
    net = randomised(
        *("net.patch=[1,2,1]", f"net.vectors.label.num_classes={CLASSES}", "net.depth=3"), preset="dit_s_2"
    )
    x = torch.randn(2, 3, 1, 6, 5, dtype=torch.float64, requires_grad=True)
    t, label = torch.rand(2, 1, dtype=torch.float64), torch.tensor([4, CLASSES])
    ours = net(x, t, {"label": label})[:, :, 0]
    weights = dict(net.named_parameters())
    theirs = dit(weights, x[:, :, 0], t[:, 0], label, depth=3)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    inputs = [x, *weights.values()]
    probe = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, inputs, probe), torch.autograd.grad(theirs, inputs, probe), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("spoilt", ["blocks.1.modulation.linear.bias", "blocks.2.attention.qkv.weight", "embed.weight"])
def test_the_comparison_sees_a_changed_weight(randomised, spoilt: str) -> None:
    net = randomised(
        *("net.patch=[1,2,1]", f"net.vectors.label.num_classes={CLASSES}", "net.depth=3"), preset="dit_s_2"
    )
    x = torch.randn(2, 3, 1, 6, 5, dtype=torch.float64)
    t, label = torch.rand(2, 1, dtype=torch.float64), torch.tensor([4, 1])
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    weights[spoilt] += 0.01 * torch.randn_like(weights[spoilt])
    with torch.no_grad():
        off = net(x, t, {"label": label})[:, :, 0] - dit(weights, x[:, :, 0], t[:, 0], label, depth=3)
    assert off.abs().max() > 1e-4
