"""Linear layers of a network compute the same in both libraries, forward and backward."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dit import onednn
from dit.net.embed import PatchEmbedding
from dit.onednn import Product, accelerate, may_use_onednn

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def operands(*lead: int, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(*lead, 96, generator=draw), torch.randn(160, 96, generator=draw)
    return x, weight, torch.randn(160, generator=draw) if bias else None


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(7,), (2, 33), (2, 3, 5)])
def test_equals_the_definition_in_float64(lead: tuple[int, ...], bias: bool) -> None:
    given = operands(*lead, bias=bias)
    leaves = [tensor.requires_grad_() for tensor in given if tensor is not None]
    exact = [tensor.detach().double().requires_grad_() for tensor in leaves]
    out, wanted = Product.apply(*given), functional.linear(*exact)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-4)
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).transpose(0, -1)
    slope = slope.contiguous().transpose(0, -1)  # gradients come in any strides
    found = torch.autograd.grad((out * slope).sum(), leaves)
    for mine, other in zip(found, torch.autograd.grad((wanted * slope).sum(), exact), strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=1e-5, atol=1e-3)
    spoiled = Product.apply(given[0].flip(-1), *given[1:])
    assert not torch.allclose(spoiled.double(), wanted, atol=1e-2)


@needs_onednn
def test_gradient_of_a_wide_weight() -> None:
    draw = torch.Generator().manual_seed(2)
    grad, x = torch.randn(40, 1024, generator=draw), torch.randn(40, 1100, generator=draw)
    torch.testing.assert_close(
        onednn.gradient_of_weight(grad, x).double(), grad.double().t() @ x.double(), rtol=1e-5, atol=1e-4
    )
    torch.testing.assert_close(onednn.gradient_of_weight(grad[:, :9], x), grad[:, :9].t() @ x)


@needs_onednn
def test_views_and_frozen_weights() -> None:
    x, weight, bias = operands(4, 50)
    view = x.transpose(0, 1)  # not contiguous
    torch.testing.assert_close(
        Product.apply(view, weight, bias), functional.linear(view, weight, bias), rtol=1e-4, atol=1e-4
    )
    x.requires_grad_()
    Product.apply(x, weight, bias).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand_as(x), rtol=1e-4, atol=1e-4)


@needs_onednn
def test_the_choice_is_the_machines_and_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, _ = operands(1000)
    monkeypatch.setattr(onednn, "mkl_is_slow", lambda: True)
    assert may_use_onednn(x, weight)
    assert not may_use_onednn(x[:10], weight)  # small
    assert not may_use_onednn(x.double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not may_use_onednn(x, weight)
    layer = nn.Linear(96, 160)
    accelerate(layer)
    names: list[str] = []
    monkeypatch.setattr(onednn, "product", lambda *given: names.append("onednn") or functional.linear(*given))
    layer(x)
    assert names == ["onednn"]
    monkeypatch.setattr(onednn, "mkl_is_slow", lambda: False)
    layer(x)
    assert names == ["onednn"]


@needs_onednn
def test_few_rows_of_many_features_stay_with_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "mkl_is_slow", lambda: True)
    real, rows = onednn.product, []
    monkeypatch.setattr(onednn, "product", lambda x, *given: rows.append(x.shape[0]) or real(x, *given))
    layer = nn.Linear(onednn.WIDE, 64)
    accelerate(layer)
    x = torch.randn(onednn.MANY_ROWS, onednn.WIDE, generator=torch.Generator().manual_seed(4))
    whole = layer(x)
    torch.testing.assert_close(layer(x[:-1]), whole[:-1], rtol=1e-4, atol=1e-5)
    assert rows == [onednn.MANY_ROWS]


@needs_onednn
def test_a_network_keeps_its_weights_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subclasses that compute what nn.Linear computes go the same way, other layers and copies of the network too."""

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    net = nn.Sequential(PatchEmbedding(96, 96, bias=True), nn.GELU(), Doubled(96, 160))
    x, _, _ = operands(1000)
    wanted, names, classes = net(x), list(net.state_dict()), [type(part) for part in net]
    seen: list[int] = []
    real = onednn.product
    monkeypatch.setattr(onednn, "product", lambda x, w, b: seen.append(w.data_ptr()) or real(x, w, b))
    monkeypatch.setattr(onednn, "mkl_is_slow", lambda: False)
    accelerate(net)
    assert torch.equal(net(x), wanted) and not seen
    monkeypatch.setattr(onednn, "mkl_is_slow", lambda: True)
    accelerate(net)
    torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-5)
    assert seen == [net[0].weight.data_ptr()]
    assert list(net.state_dict()) == names and [type(part) for part in net] == classes
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin[0].weight.zero_()
    assert not torch.allclose(twin(x), wanted, atol=1e-3)  # its own weights
    assert seen[1:] == [twin[0].weight.data_ptr()]


@needs_onednn
def test_the_same_bits_each_time() -> None:
    x, weight, bias = operands(300)
    first = Product.apply(x, weight, bias)
    assert all(torch.equal(first, Product.apply(x.clone(), weight.clone(), bias)) for _ in range(5))
