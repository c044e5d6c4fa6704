"""What a compiled program launches on a GPU that is not there, against counts by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts import traffic
from scripts.fake_device import fake_cuda, on_cuda, placed
from scripts.traffic import Compiled
from tests.scripts.test_traffic import MLP

B, N, D, H = 2, 256, 64, 128
F4, F2 = 4, 2  # bytes


class Function(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def counted(net: nn.Module, shape: tuple[int, ...], train: bool = False, autocast: bool = False) -> Compiled:
    with fake_cuda():
        found = traffic.count_compiled(on_cuda(net, torch.float32), (placed(torch.empty(shape)),), autocast, train)
    assert found is not None
    return found


def moved(found: Compiled) -> list[tuple[str, int]]:
    return [(kernel.name, kernel.bytes) for kernel in found.kernels]


UP, DOWN = B * N * (D + H) + H * D, B * N * (D + H) + H * D


def test_forward() -> None:
    """The bias goes into the kernel of the GELU."""
    found = counted(MLP(D, H), (B, N, D))
    assert moved(found) == [("mm", F4 * UP), ("triton", F4 * (2 * B * N * H + H)), ("mm", F4 * DOWN)]
    assert [kernel.flops for kernel in found.kernels] == [2 * B * N * D * H, 0, 2 * B * N * D * H]


def test_backward() -> None:
    """Nobody wants the gradient to x: of the up projection there is one product, of the down projection two."""
    found = counted(MLP(D, H), (B, N, D), train=True)
    names = [kernel.name for kernel in found.kernels if kernel.flops]
    assert len(names) == 5 and found.total(lambda kernel: kernel.flops) == 5 * 2 * B * N * D * H
    # GELU, its gradient from what it has read, the sum for the bias in two steps, and the view's gradient, copied.
    sums = F4 * B * N * H
    assert sorted(kernel.bytes for kernel in found.kernels if not kernel.flops)[1:] == [
        F4 * 2 * B * N * D, pytest.approx(sums, rel=0.01), 2 * sums, 3 * sums,
    ]  # fmt: skip


def test_autocast_is_seen() -> None:
    """Each weight is cast once; x is, too."""
    found = counted(MLP(D, H), (B, N, D), autocast=True)
    assert [kernel.bytes for kernel in found.kernels if kernel.flops] == [F2 * UP, F2 * DOWN]
    assert all(kernel.half for kernel in found.kernels if kernel.flops)
    casts = (F4 + F2) * (B * N * D + 2 * H * D)
    assert found.other_bytes() == casts + F2 * 2 * B * N * H + F4 * H


def test_what_can_be_one_kernel_is_one() -> None:
    """A norm that is scaled, shifted and added to what it was of, read once and written once."""

    def block(x: Tensor) -> Tensor:
        return x + (functional.layer_norm(x, (D,)) * 1.5 + 0.5).sigmoid()

    assert moved(counted(Function(block), (B, N, D))) == [("triton", F4 * 2 * B * N * D)]


def test_of_a_part_the_part_is_read() -> None:
    assert moved(counted(Function(lambda x: x[:, :8] * 2), (B, N, D))) == [("triton", F4 * 2 * B * 8 * D)]
    sums = moved(counted(Function(lambda x: functional.layer_norm(x[..., : D // 2], (D // 2,))), (B, N, D)))
    assert sums == [("triton", F4 * B * N * D)]


def test_attention_is_a_librarys() -> None:
    def attend(x: Tensor) -> Tensor:
        q, k, v = x.unflatten(-1, (4, D // 4)).transpose(1, 2).expand(3, -1, -1, -1, -1).unbind(0)
        return functional.scaled_dot_product_attention(q, k, v)

    found = counted(Function(lambda x: attend(x.bfloat16())), (B, N, D))
    (kernel,) = (kernel for kernel in found.kernels if kernel.flops)
    assert kernel.name == "_scaled_dot_product_flash_attention" and kernel.flops == 2 * 2 * B * N * N * D


@pytest.mark.parametrize("asks", [lambda x: x[x > 0], lambda x: x * x.max().item()], ids=["a size", "a value"])
def test_a_number_of_the_device_cuts_the_program(asks: Callable[[Tensor], Tensor]) -> None:
    with fake_cuda():
        x = placed(torch.empty(B, N))
        assert traffic.count_compiled(Function(asks), (x,), autocast=False, train=False) is None


def test_nothing_is_left_behind() -> None:
    """Of all that is put in the driver's place: this machine has a driver or none, as before."""
    before: Any = torch.cuda.get_device_properties, torch.autograd.grad
    counted(MLP(D, H), (B, N, D), train=True)
    assert (torch.cuda.get_device_properties, torch.autograd.grad) == before
    x = torch.randn(3, requires_grad=True)
    assert torch.equal(torch.autograd.grad(x.square().sum(), x)[0], 2 * x)


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    sizes = ["frames=2", "height=4", "width=4", "text_tokens=4"]
    traffic.main(["twin=dit", "precision=bf16-true", "compile=true", "net=dit_tiny", "net.depth=1"])
    traffic.main(["twin=mochi", "precision=bf16-true", "compile=true", "net=mochi_tiny", "net.depth=2", *sizes])
    printed = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "compiled" in line]
    assert [line[:2] for line in printed] == [
        [f"| {name} bf16, compiled", what] for name in ("dit", "mochi") for what in ("forward", "forward + backward")
    ]
    assert all(int(line[2]) < int(line[3]) for line in printed[:2])
    assert all(int(line[2]) > 0 and line[3] == "-" and line[-1] == "- |" for line in printed[2:])
