"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


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
