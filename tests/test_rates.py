"""Rates of devices: stated and measured."""

from collections.abc import Callable

import pytest
import torch

from dit.rates import measured_matmul_rate, peak_rate


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", None),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA B200", 2250),
    ],
)
def test_peak_rates_by_name(name: str, tera: float | None) -> None:
    rate = peak_rate(name)
    assert rate == (None if tera is None else pytest.approx(tera * 1e12))


class Machine:
    """A clock and products that take `seconds(size)` of it."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.sizes: list[int] = []

    def product(self, a: torch.Tensor, b: torch.Tensor, bias: None = None) -> None:
        self.sizes.append(len(a))
        self.now += self.seconds(len(a))


@pytest.mark.parametrize(
    ("rate", "size"),
    [(1e12, 2048), (20e9, 1024), (0.2e9, 256), (1e6, 256)],
    ids=["quick", "slow", "without vector units", "for ever"],
)
def test_measured_rate_is_that_of_a_product_and_bounded(
    rate: float, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(lambda size: 2 * size**3 / rate)
    monkeypatch.setattr("dit.rates.time.perf_counter", lambda: machine.now)
    monkeypatch.setattr("dit.rates.product", machine.product, raising=False)
    monkeypatch.setattr(torch, "mm", machine.product)
    assert measured_matmul_rate("cpu", torch.float32) == pytest.approx(rate)
    assert max(machine.sizes) == size
    assert machine.now < max(3.0, 4.01 * machine.seconds(256))  # a second of products, and the way there


def test_measured_rate_is_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of seven products behind one that warms up."""
    taken = iter([0.01, 0.01, *(0.01,) * 6, 50.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 70.0])
    machine = Machine(lambda size: next(taken))
    monkeypatch.setattr("dit.rates.time.perf_counter", lambda: machine.now)
    monkeypatch.setattr("dit.rates.product", machine.product, raising=False)
    monkeypatch.setattr(torch, "mm", machine.product)
    assert measured_matmul_rate("cpu", torch.float32) == pytest.approx(2 * 2048**3 / 0.4)


def test_a_processor_has_a_rate() -> None:
    assert 1e6 < measured_matmul_rate("cpu", torch.float32, seconds=0.01) < 1e15
