"""What all tests share."""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import hydra
import pytest
import torch
from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.config_source import ConfigResult

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
def configs_are_put_together_quickly() -> Iterator[None]:
    """Hydra takes 0.2 to 0.5 s to put a config together, and tests ask for two thousand. A third of that is a table of
    choices for each file, which only a default that names another one (`${...}`) looks into: it is made for those
    alone. And a file of configs/ is read once, then copied, as is what was put together once."""
    table, read, put_together = defaults_list._create_interpolation_map, ConfigRepository.load_config, hydra.compose
    files: dict[str, ConfigResult | None] = {}
    configs: dict[str, Any] = {}

    def _create_interpolation_map(choices: Any, defaults: Any, self_added: bool) -> Any:
        looked_into = any(default.is_interpolation() for default in defaults if not default.is_self())
        return table(choices, defaults, self_added) if looked_into else None

    def is_of_ours(repository: ConfigRepository) -> bool:
        return {source.path for source in repository.get_sources()} <= {"hydra.conf", str(CONFIGS), ""}

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        if not is_of_ours(self):
            return read(self, config_path)
        if config_path not in files:
            files[config_path] = read(self, config_path)
        kept = files[config_path]
        return kept and replace(kept, config=copy.deepcopy(kept.config))

    def compose(config_name: str | None = None, overrides: list[str] | None = None, **more: Any) -> Any:
        if not is_of_ours(GlobalHydra.instance().config_loader().repository):  # type: ignore[attr-defined]
            return put_together(config_name, overrides, **more)
        asked = repr((config_name, overrides, more))
        if asked not in configs:
            configs[asked] = put_together(config_name, overrides, **more)
        return copy.deepcopy(configs[asked])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydra, "compose", compose)
        patch.setattr(defaults_list, "_create_interpolation_map", _create_interpolation_map)
        patch.setattr(ConfigRepository, "load_config", load_config)
        yield
