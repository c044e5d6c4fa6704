"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch


def pytest_configure() -> None:
    """Of a shell's background job a process and its children ignore Ctrl-C, which tests send."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def rates_are_not_measured() -> Iterator[None]:
    """Runs measure what the processor can do, seconds each, for a metric that no test looks at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dit.rates.measured_matmul_rate", lambda device, dtype: 1e12)
        yield


@pytest.fixture(autouse=True, scope="session")
def seeds_are_of_devices_that_are_there() -> Iterator[None]:
    """Until a GPU is first used torch notes each seed for it with the stack that asked: a millisecond for each
    `manual_seed`, and most tests begin with one. Where there is no GPU nobody will ever read these notes."""
    with pytest.MonkeyPatch.context() as patch:
        for device in (torch.cuda, torch.xpu):
            if not device.is_available():
                patch.setattr(device, "manual_seed_all", lambda seed: None)
        yield
