"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def rates_are_not_measured() -> Iterator[None]:
    """Runs measure what the processor can do, seconds each, for a metric that no test looks at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dit.rates.measured_matmul_rate", lambda device, dtype: 1e12)
        yield
