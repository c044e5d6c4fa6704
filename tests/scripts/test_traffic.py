"""The counter of kernels and bytes against counts by hand, and a whole table."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts import traffic
from scripts.fake_device import Watch, backward, fake_cuda, on_cuda, placed
from scripts.traffic import Count, Device

B, N, D, H = 2, 48, 32, 64
F4, F2 = 4, 2  # bytes


class MLP(nn.Module):
    """Two products and a GELU, with a view on the way."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x))).transpose(0, 1)


def counted(autocast: bool, train: bool) -> Count:
    with fake_cuda():
        net = on_cuda(MLP(D, H), torch.float32)
        x = placed(torch.empty(B, N, D))
        return traffic.count(net, (x,), autocast, train, length=0)


def moved(found: Count) -> list[tuple[str, int]]:
    return [(kernel.name, kernel.bytes) for kernel in found.kernels]


UP, DOWN = B * N * (D + H) + H * D + H, B * N * (D + H) + H * D


def test_forward() -> None:
    found = counted(autocast=False, train=False)
    assert moved(found) == [("addmm", F4 * UP), ("gelu", F4 * 2 * B * N * H), ("mm", F4 * DOWN)]
    assert [kernel.flops for kernel in found.kernels] == [2 * B * N * D * H, 0, 2 * B * N * D * H]
    assert found.other_bytes() == F4 * 2 * B * N * H and found.product_bytes() == F4 * (UP + DOWN)


def test_autocast_is_seen() -> None:
    """Everything that a product reads is cast first, weights too."""
    found = counted(autocast=True, train=False)
    casts = sorted(size for name, size in moved(found) if name == "_to_copy")
    assert casts == sorted((F4 + F2) * size for size in (B * N * D, D * H, H, H * D))
    assert [kernel.bytes for kernel in found.kernels if kernel.flops] == [F2 * UP, F2 * DOWN]
    assert all(kernel.half for kernel in found.kernels if kernel.flops)


def test_backward() -> None:
    """Nobody wants the gradient to x: of the up projection there is one product, of the down projection two."""
    found = counted(autocast=False, train=True)
    names = [name for name, _ in moved(found)]
    assert names[:3] == ["addmm", "gelu", "mm"]
    assert sorted(names[3:]) == ["gelu_backward", "mm", "mm", "mm", "sum"]
    assert sum(kernel.flops for kernel in found.kernels) == (2 + 3) * 2 * B * N * D * H
    assert dict(moved(found))["sum"] == F4 * (B * N * H + H)


def test_attention() -> None:
    with fake_cuda(), Count(0) as found:
        q, k = (torch.empty(B, 4, n, D, device="cuda", dtype=torch.bfloat16) for n in (N, 16))
        functional.scaled_dot_product_attention(q, k, k)
    (kernel,) = found.kernels
    assert kernel.flops == 2 * 2 * B * 4 * N * 16 * D
    # k and v are one tensor here, and read once; beside the output stand one log-sum a row and the seed of dropout.
    least = F2 * B * 4 * D * (2 * N + 16) + F4 * B * 4 * N
    assert least <= kernel.bytes <= least + 64


def test_what_is_not_a_kernel_and_what_is_not_read() -> None:
    with fake_cuda(), Count(7) as found:
        x = torch.empty(4, 6, device="cuda")
        x.t().unflatten(0, (2, 3)).expand(5, 2, 3, 4).chunk(2)
        torch.zeros(0, 3, device="cuda").sin()
        assert not found.kernels
        x[:, :1].expand(4, 6) + 1  # the one column is there once
        x.zero_()
        torch.nn.functional.embedding(torch.zeros(3, dtype=torch.int64, device="cuda"), x)
        assert int(x.sum().long()) == 7 and found.waits == 1
        torch.tensor([1.0, 2.0], device="cuda")
        assert found.copies == 1
    sizes = dict(moved(found))
    assert sizes["add"] == F4 * (4 + 24) and sizes["zero_"] == F4 * 24
    assert sizes["embedding"] == F4 * 2 * 3 * 6 + 8 * 3


def test_the_bound() -> None:
    device = Device(peak=100.0, peak_fp32=10.0, bandwidth=4.0, launch=0.5)
    assert traffic.Kernel("mm", flops=200, bytes=4, half=True).seconds(device) == 2.5
    assert traffic.Kernel("mm", flops=200, bytes=4, half=False).seconds(device) == 20.5
    assert traffic.Kernel("add", flops=0, bytes=12, half=True).seconds(device) == 3.5


def test_the_backward_pass_is_that_of_the_engine() -> None:
    """Broadcasts, casts, a tensor that is used twice, one that leads nowhere: on the CPU both give the same numbers."""
    a, b, c = (torch.randn(shape, requires_grad=True) for shape in ((3, 1, 4), (2, 4), (4, 4)))
    half = (a * b).double() @ c.double()
    out = (half + half.detach().sin() * a).float() + torch.stack([b, b * 2]).sum(0)[:1] + a.unbind(2)[1][..., None]
    grad = torch.randn(out.shape)
    wanted = torch.autograd.grad(out, (a, b, c), grad, retain_graph=True)
    found = backward(out, grad)
    assert set(found) == {a, b, c}
    for leaf, value in zip((a, b, c), wanted, strict=True):
        torch.testing.assert_close(found[leaf], value)


def test_a_watch_lets_small_draws_through_but_no_large_ones() -> None:
    with fake_cuda(), Watch(draws=True):
        torch.empty(8).to("cuda", non_blocking=True)
        with pytest.raises(RuntimeError, match=r"copies \(100000,\) from cpu to cuda:0"):
            torch.empty(100_000).to("cuda", non_blocking=True)
        with pytest.raises(RuntimeError, match="copies"):
            torch.empty(8).to("cuda")


@pytest.mark.parametrize(
    ("precision", "kinds"), [("fp32", ["fp32"]), ("bf16", ["autocast", "bf16"]), ("bf16-true", ["bf16"])]
)
def test_a_table(precision: str, kinds: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    sizes = ["frames=2", "height=8", "width=8", "text_tokens=4", "net=wan21_tiny", "net.depth=1"]
    traffic.main(["twin=wan", f"precision={precision}", *sizes, "launch=0", "bandwidth=1e12"])
    printed = capsys.readouterr().out
    assert "bandwidth=1000000000000.0, launch=0.0" in printed
    rows = re.findall(r"^\| wan (\w+) \| ([\w +]+) \| (\d+) \| (\d+) \| 0 \+ 0 .* \| (\d\.\d+) \|$", printed, re.M)
    assert [row[:2] for row in rows] == [(kind, what) for kind in kinds for what in ("forward", "forward + backward")]
    for kind, _, ours, theirs, ratio in rows:
        assert kind == "fp32" or (int(ours) < int(theirs) and float(ratio) < 1)


@pytest.mark.parametrize(
    ("argument", "words"),
    [("net=dit_s_2", "twin=wan, or twin=all"), ("twin=sora", "there are dit, latte"), ("peak=fast", "must be numbers")],
)
def test_mistakes_are_named(argument: str, words: str) -> None:
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match=words):
        traffic.main([argument])
