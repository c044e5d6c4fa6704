"""A score and how it was come by.

The same clips give another FVD with another number of them, another way of resizing or other weights of the feature
network. So a score carries its `Protocol`, and a table puts two scores under one another only where these agree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """All that decides a score beside the clips themselves. Equal protocols make scores that can be compared.

    Attributes:
        split: which clips these are, in words: "val of clips.jsonl", "held-out prompts".
        clips: how many were scored.
        reference: how many they were held against; 0 where there is no other set.
        frames, height, width: of the clips as they were scored, in pixels.
        fps: frames a second; None where nobody said.
        resize: how frames came to the size that a network takes, "" where none does.
        network: name of the network (of features, of flow), "" where there is none.
        sha256: of its file or weights, "" where there is none.
        settings: what else decides the number, by name.
    """

    split: str
    clips: int
    reference: int
    frames: int
    height: int
    width: int
    fps: float | None
    resize: str = ""
    network: str = ""
    sha256: str = ""
    settings: tuple[tuple[str, str | float | int], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without what there is none of."""
        own = {key: value for key, value in asdict(self).items() if key != "settings" and value not in ("", None)}
        if not self.reference:
            del own["reference"]
        return own | dict(self.settings)

    def __str__(self) -> str:
        return ", ".join(f"{key} {_short(key, value)}" for key, value in self.as_dict().items())

    def differences(self, other: Protocol) -> list[str]:
        """In what two differ: "clips 64 and 128"."""
        mine, theirs = self.as_dict(), other.as_dict()
        keys = dict.fromkeys([*mine, *theirs])
        return [
            f"{key} {_short(key, mine.get(key, 'none'))} and {_short(key, theirs.get(key, 'none'))}"
            for key in keys
            if mine.get(key) != theirs.get(key)
        ]


@dataclass(frozen=True)
class Score:
    """A number with its protocol.

    Attributes:
        name: of the measure; one that asks a network names it: "fvd[i3d]".
        value: the number.
        low, high: its 95 % interval, None where there is none.
        protocol: how it was measured.
        larger_is_better: None where neither is.
        unit: "share" (of 1), any other, or "".
        note: what must be said beside it, a sentence or more.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    protocol: Protocol
    larger_is_better: bool | None
    unit: str = ""
    note: str = ""

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{interval}"


def as_report(rows: Mapping[str, Sequence[Score]]) -> dict[str, Any]:
    """Scores as plain values: row -> measure -> number, interval, protocol and note, and what each measure is."""
    named = {row: {score.name: score for score in scores} for row, scores in rows.items()}
    return {
        "metrics": {row: {name: score.value for name, score in scores.items()} for row, scores in named.items()},
        "intervals": {
            row: {name: [score.low, score.high] for name, score in scores.items() if score.low is not None}
            for row, scores in named.items()
        },
        "protocols": {
            row: {name: score.protocol.as_dict() for name, score in scores.items()} for row, scores in named.items()
        },
        "notes": {
            row: {name: score.note for name, score in scores.items() if score.note} for row, scores in named.items()
        },
        "measures": {
            name: {"title": name, "unit": score.unit, "larger_is_better": score.larger_is_better}
            for scores in named.values()
            for name, score in scores.items()
        },
    }


def check_alike(rows: Mapping[str, Sequence[Score]]) -> None:
    """Raises ValueError, in one line, where a measure stands in two rows with different protocols."""
    first: dict[str, tuple[str, Score]] = {}
    for row, scores in rows.items():
        for score in scores:
            other, known = first.setdefault(score.name, (row, score))
            if known.protocol != score.protocol:
                differ = "; ".join(known.protocol.differences(score.protocol))
                raise ValueError(f"{score.name} of {other} and {row} cannot be compared: they differ in {differ}")


def table(rows: Mapping[str, Sequence[Score]]) -> str:
    """A Markdown table, with a column for each measure and protocol, and below it the protocols and notes.

    Scores of one measure that were measured differently stand in columns of their own, `fvd[i3d]` and `fvd[i3d] (2)`.
    """
    columns: dict[tuple[str, Protocol], str] = {}
    for score in (score for scores in rows.values() for score in scores):
        if (score.name, score.protocol) not in columns:
            number = 1 + sum(name == score.name for name, _ in columns)
            columns[score.name, score.protocol] = score.name if number == 1 else f"{score.name} ({number})"
    lines = [["", *columns.values()], ["---"] * (len(columns) + 1)]
    for row, scores in rows.items():
        there = {(score.name, score.protocol): str(score) for score in scores}
        lines.append([row, *(there.get(column, "") for column in columns)])
    said = [f"- {title}: {protocol}" for (_, protocol), title in columns.items()]
    notes = dict.fromkeys(
        f"- {columns[score.name, score.protocol]} of {row}: {score.note}"
        for row, scores in rows.items()
        for score in scores
        if score.note
    )
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", *said, *notes])


def _short(key: str, value: Any) -> str:
    """A value in a sentence; of a hash the first 12 digits."""
    if key == "sha256" and isinstance(value, str):
        return value[:12]
    return value if isinstance(value, str) else json.dumps(value)
