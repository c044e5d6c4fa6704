"""What all tests share."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult, ConfigSource

from dit.entry import CONFIGS


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


@pytest.fixture(autouse=True, scope="session")
def configs_are_put_together_once() -> Iterator[None]:
    """Hydra takes 0.2 to 0.5 s to put a config together, tests ask for two thousand, and configs/ stays as it is: what
    was put together before is copied, and so is a file that was read before."""
    put_together, read = ConfigLoaderImpl.load_configuration, ConfigRepository.load_config
    whole: dict[Any, Any] = {}
    files: dict[str, ConfigResult | None] = {}

    def ours(sources: list[ConfigSource]) -> bool:
        return {source.path for source in sources} <= {"hydra.conf", str(CONFIGS), ""}

    def load_configuration(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *given: Any, **named: Any
    ) -> Any:
        if not ours(self.get_sources()):
            return put_together(self, config_name, overrides, *given, **named)
        key = os.getcwd(), config_name, *overrides, *given, *sorted(named.items())
        if key not in whole:
            whole[key] = put_together(self, config_name, overrides, *given, **named)
        return copy.deepcopy(whole[key])

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        if not ours(self.get_sources()):
            return read(self, config_path)
        if config_path not in files:
            files[config_path] = read(self, config_path)
        kept = files[config_path]
        return kept and replace(kept, config=copy.deepcopy(kept.config))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "load_configuration", load_configuration)
        patch.setattr(ConfigRepository, "load_config", load_config)
        yield
