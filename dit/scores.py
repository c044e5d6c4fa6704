"""What a score says, and which settings it holds under: for those who write and those who read `report.json`
(docs/architecture.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHARE = "share"  # the unit of shares, of 1
OF_MACHINE = ("versions", "device", "files", "batch_size")  # settings that are no part of a protocol


@dataclass(frozen=True)
class Measure:
    """What a number says. unit: `share` (of 1), any other, or "". larger: whether that is better; None where neither
    is, or nobody knows."""

    title: str
    unit: str = ""
    larger: bool | None = None


def protocol_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in which two checkpoints must agree to be compared."""
    return {key: value for key, value in settings.items() if key not in OF_MACHINE}


def own_protocol(settings: Mapping[str, Any], measure: str) -> str:
    """The protocol that a measure has for itself, the settings under its name, as a text; "" where it has none. Scores
    of one measure under unlike protocols are never in one column."""
    own = settings.get(measure)
    return json.dumps(own, sort_keys=True) if isinstance(own, Mapping) else ""
