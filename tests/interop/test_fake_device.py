"""The GPU that is not there: its backward pass is that of torch's engine, and its watch sees copies."""

import pytest
import torch

from tests.interop.fake_device import Watch, backward, fake_cuda


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
