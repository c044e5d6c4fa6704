"""Which runs are the same but for the seed, and what else differs among them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dit.config.flat import COPIES, leaves, lies_in
from dit.report.runs import Run

SEED = "seed"
# How a run is called, watched, spread over devices and gone on with; and which of its parts lie where. None of these
# makes another experiment.
ASIDE = (
    "name",
    "show",
    "logger",
    "preview",
    "resume_from",
    "resume_lr",
    "resume_changes",
    "callbacks.checkpoints",
    "callbacks.metrics",
    "callbacks.progress",
    "callbacks.after_step",
    "data.num_workers",
    "data.pin_memory",
    "data.timeout",
    "data.shard_cache",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "text_cache",
    "net.family",
    "ema.snapshot_every",
    *COPIES,
)
ABSENT = "absent"
TARGET = "_target_"


@dataclass(frozen=True)
class Group:
    """Runs whose configs differ by nothing but seeds, no two of the same seed. runs: by their place in the report."""

    label: str
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """A key of the config and what it is in each group, as text."""

    key: str
    values: list[str]


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Groups in the order of their first runs. A run that repeats another one, seed and all, begins a group of its own:
    it is no further draw, and would make the interval look narrower than it is."""
    members: list[list[int]] = []
    settings: list[dict[str, Any]] = []
    for place, run in enumerate(runs):
        own = compared(run.config)
        for group, theirs in zip(members, settings, strict=True):
            if own == theirs and all(runs[other].seed != run.seed for other in group):
                group.append(place)
                break
        else:
            members.append([place])
            settings.append(own)
    labels = [_label([runs[place].name for place in group]) for group in members]
    unique = [
        label if labels.count(label) == 1 else runs[group[0]].name for label, group in zip(labels, members, strict=True)
    ]
    return [Group(label, tuple(group)) for label, group in zip(unique, members, strict=True)]


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a config that make it another experiment: all but seeds and `ASIDE`. null and an absent key are
    one, as a part that an older config did not know."""
    return {
        key: value
        for key, value in leaves(config)
        if value is not None and not lies_in(key, ASIDE) and key.rpartition(".")[2] != SEED
    }


def _label(names: Sequence[str]) -> str:
    """What names have in common at their front, without a seed's name at its end: `demo-position.rope3d` of
    `demo-position.rope3d-seed.0` and `-seed.1`."""
    if len(names) == 1:
        return names[0]
    front = os.path.commonprefix(list(names))
    if any(name[len(front) :][:1].isdigit() for name in names):  # "seed10" and "seed11" share "seed1": drop the digit
        front = re.sub(r"\d+$", "", front)
    front = re.sub(r"([\W_]+s(eed)?)?[\W_]*$", "", front, flags=re.IGNORECASE)
    return front or names[0]


def differences(runs: Sequence[Run], groups: Sequence[Group]) -> list[Difference]:
    """Settings in which groups differ, in the order of the config. Where a part is of another class, that alone is said
    of what belongs to it: the settings of the one are none of the other."""
    configs = [compared(runs[group.runs[0]].config) for group in groups]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    found: list[Difference] = []
    other_class: list[str] = []
    for key in sorted(keys, key=lambda key: not key.endswith(f".{TARGET}")):
        values = [config.get(key) for config in configs]
        if all(value == values[0] for value in values) or lies_in(key, other_class):
            continue
        part = key.removesuffix(f".{TARGET}")
        if part != key:
            other_class.append(part)
        found.append(Difference(part, [_shown(value) for value in values]))
    order = {key: place for place, key in enumerate(dict.fromkeys(key.removesuffix(f".{TARGET}") for key in keys))}
    return sorted(found, key=lambda each: order[each.key])


def _shown(value: Any) -> str:
    """A value as one reads it; of a class its name."""
    if value is None:
        return ABSENT
    if isinstance(value, str):
        return value.rpartition(".")[2] if re.fullmatch(r"(dit|data|torch)(\.\w+)+", value) else value
    return json.dumps(value, ensure_ascii=False)


def notes(runs: Sequence[Run], groups: Sequence[Group]) -> list[str]:
    """What to know of the groups, a line each."""
    said = []
    by_settings: dict[str, Group] = {}
    for group in groups:
        mark = json.dumps(compared(runs[group.runs[0]].config), sort_keys=True, default=str)
        if (first := by_settings.setdefault(mark, group)) is not group:
            seeds = sorted({str(runs[place].seed) for place in group.runs})
            said.append(
                f"{group.label} has the config and the seed ({', '.join(seeds)}) of a run of {first.label}: it repeats"
                " that one, and is shown beside it rather than averaged with it"
            )
    return said
