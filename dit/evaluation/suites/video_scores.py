"""Scores of measures on any video, as a suite's result holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from dit.evaluation.harness.result import Score
from dit.evaluation.video.protocol import Score as VideoScore
from dit.scores import Measure

Scores = Mapping[str, Sequence[VideoScore]]  # of each row


def rows_of(scores: Scores) -> dict[str, dict[str, Score]]:
    return {row: {each.name: Score(each.value, each.low, each.high) for each in own} for row, own in scores.items()}


def measures_of(scores: Scores) -> dict[str, Measure]:
    return {each.name: Measure(each.name, each.unit, each.larger_is_better) for own in scores.values() for each in own}


def protocol_of(own: Sequence[VideoScore]) -> dict[str, Any]:
    """Measure -> its protocol, in which two checkpoints must agree to be compared."""
    return {each.name: each.protocol.as_dict() for each in own}


def mark_of(*said: Any) -> str:
    """A short name of what else decides what is found of samples: findings of another one are not taken for these."""
    return hashlib.sha256(repr(said).encode()).hexdigest()[:12]


def notes_of(scores: Scores) -> list[str]:
    """What must be said beside scores, a line each."""
    return [f"{each.name} of {row}: {each.note}" for row, own in scores.items() for each in own if each.note]
