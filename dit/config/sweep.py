"""Whether this run is one job of a sweep (`-m`)."""

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode


def is_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
