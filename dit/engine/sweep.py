"""Sweeps (`-m`): each job is a run of its own, named after what is swept."""

from __future__ import annotations

import re
import sys

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode


def is_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def run_name(name: str) -> str:
    """`name`, with the job's swept values behind it in a sweep: `demo-position.rope3d-seed.0`.

    The same job of the same sweep always has the same name, so that launching the sweep again resumes it.
    """
    if not is_sweep():
        return name
    swept = _swept_keys(sys.argv[1:])
    parser = OverridesParser.create()
    parts = []
    for override in parser.parse_overrides(list(HydraConfig.get().overrides.task)):
        if override.key_or_group in swept and override.key_or_group != "name":
            key = re.split(r"[./@]", override.key_or_group)[-1]
            parts.append(f"{key}.{override.get_value_element_as_str()}")
    return "-".join([name, *(re.sub(r"[^\w.+-]+", "_", part) for part in parts)])


def _swept_keys(arguments: list[str]) -> set[str]:
    """Keys that have several values in the sweep, from the command line and from `hydra.sweeper.params`."""
    overrides = OverridesParser.create().parse_overrides([a for a in arguments if "=" in a and not a.startswith("-")])
    keys = {override.key_or_group for override in overrides if override.is_sweep_override()}
    return keys | set(HydraConfig.get().sweeper.get("params") or {})
