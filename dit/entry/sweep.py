"""Sweeps (`-m`): each job is a run of its own, named after what is swept, and one that fails ends no other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from dit.config.sweep import is_sweep
from dit.entry.literal import NAMES, TEXTS

LONGEST_NAME = 240  # bytes of a run's name in UTF-8; file systems take 255
LONGEST_TEXT = 40  # characters of a swept text in it


def runs_here() -> bool:
    """Whether the jobs of a sweep run one after another in this process, which Hydra's basic launcher does."""
    return str(HydraConfig.get().launcher.get("_target_", "")).endswith(".BasicLauncher")


def run_name(name: str, arguments: Sequence[str]) -> str:
    """`name`, with the job's swept values behind it in a sweep: `demo-position.rope3d-seed.0`.

    The same job of the same sweep always has the same name, so that launching the sweep again resumes it. Values that
    make it too long are shortened, with a few digits that tell such jobs apart.

    Args:
        arguments: of the command line, as Hydra read them.
    """
    if not is_sweep():
        return name
    swept = _swept_keys(arguments)
    overrides = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    parts = [_part(each) for each in overrides if each.key_or_group in swept and each.key_or_group != "name"]
    return _short("-".join([name, *parts]))


def _part(override: Override) -> str:
    key = re.split(r"[./@]", override.key_or_group)[-1]
    value = override.value()
    if override.key_or_group not in TEXTS | NAMES:
        return f"{key}.{_letters(override.get_value_element_as_str())}"
    # Two texts may differ in what a folder's name cannot hold.
    text = _letters(str(value))
    return f"{key}.{text[:LONGEST_TEXT]}" + ("" if text == value and len(text) <= LONGEST_TEXT else _mark(str(value)))


def _letters(value: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", value)


def _short(name: str) -> str:
    if len(name.encode()) <= LONGEST_NAME:
        return name
    mark = _mark(name)
    return name.encode()[: LONGEST_NAME - len(mark)].decode(errors="ignore") + mark


def _mark(text: str) -> str:
    return f"_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _swept_keys(arguments: Sequence[str]) -> set[str]:
    """Keys that have several values in the sweep, from the command line and from `hydra.sweeper.params`."""
    given = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    overrides = OverridesParser.create().parse_overrides(given)
    keys = {override.key_or_group for override in overrides if override.is_sweep_override()}
    return keys | set(HydraConfig.get().sweeper.get("params") or {})
