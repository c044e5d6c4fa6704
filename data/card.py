"""The data card of a run: which clips it is trained on, whose they are, and how they were chosen.

The same clips give the same card, wherever they lie and whoever trains on them; its hash names it in checkpoints and
samples. It says what lists and files state: nobody here can know whether that is true.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.batch import Clips, Documented
from data.rights import UNKNOWN

FORMAT = 1


@dataclass(frozen=True)
class Card:
    """Plain values, and the two files that they become."""

    content: Mapping[str, Any]

    @property
    def json(self) -> str:
        return json.dumps(self.content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def hash(self) -> str:
        """SHA-256 of the JSON in UTF-8."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    @property
    def markdown(self) -> str:
        return "\n".join(_lines(self)) + "\n"

    @property
    def line(self) -> str:
        """How much of what is trained on, in one line."""
        train = self.content["train"]
        by_licence: dict[str, int] = {}
        for row in train["rights"]:
            by_licence[row["licence"]] = by_licence.get(row["licence"], 0) + row["clips"]
        of_time = f", {hours:.2f} hours" if (hours := train["hours"]) else ""
        listed = ", ".join(f"{licence} {count}" for licence, count in list(by_licence.items())[:6])
        more = f" and {len(by_licence) - 6} more" if len(by_licence) > 6 else ""
        return f"{train['clips']} clips{of_time}; licences: {listed}{more}"


def data_card(train: Clips, val: Clips | None, shape: Mapping[str, Any], fingerprints: Mapping[str, str]) -> Card:
    """The card of clips to train and to validate on.

    Args:
        shape: of every clip, plain values.
        fingerprints: of `train` and `val`, where they have one.
    """
    held_out = None if val is None else _described(val, fingerprints.get("val"))
    trained_on = _described(train, fingerprints.get("train"))
    return Card({"format": FORMAT, "shape": dict(shape), "train": trained_on, "validation": held_out})


def _described(clips: Clips, mark: str | None) -> dict[str, Any]:
    if isinstance(clips, Documented):
        about = dict(clips.document())
    else:  # of a researcher's own
        kind = type(clips)
        source = f"{kind.__module__}.{kind.__qualname__}"
        about = {"rights": [share(UNKNOWN, source, len(clips), None)]}
    rights = about["rights"]
    hours = round(sum(row["hours"] for row in rights), 6)
    return {"clips": len(clips), "hours": hours, **about, **({} if mark is None else {"fingerprint": mark})}


def share(licence: str, source: str, clips: int, hours: float | None) -> dict[str, Any]:
    """A row of the ledger (`rights.ledger`) for clips of one licence and source. hours: None where it is not known."""
    known = hours is not None
    return {
        "licence": licence,
        "source": source,
        "clips": clips,
        "images": 0,
        "hours": round(hours, 6) if hours is not None else 0.0,
        "clips_without_duration": 0 if known else clips,
    }


def _lines(card: Card) -> Iterator[str]:
    yield from ("# Data card", "", f"SHA-256 of `data_card.json`: `{card.hash}`", "")
    shape = ", ".join(f"{name} {_said(value)}" for name, value in card.content["shape"].items())
    yield f"Shape of every clip: {shape}. Licences and sources are those that lists and files state."
    for name, title in (("train", "Training"), ("validation", "Validation")):
        about = card.content[name]
        if about is None:
            continue
        yield from ("", f"## {title}", "")
        yield f"{about['clips']} clips, {about['hours']:.3f} hours."
        yield from _facts(about)
        yield from (
            "",
            "| licence | source | clips | of them images | hours | clips of unknown length |",
            f"|{' --- |' * 6}",
        )
        for row in about["rights"]:
            cells = [_cell(row["licence"]), _cell(row["source"]), row["clips"], row["images"], f"{row['hours']:.3f}"]
            yield f"| {' | '.join(map(str, [*cells, row['clips_without_duration']]))} |"


def _facts(about: Mapping[str, Any]) -> Iterator[str]:
    if "files" in about:
        yield f"- They are of {about['files']} files; {about['without_caption']} have no caption."
    for what, value in about.get("chosen_by", {}).items():
        yield f"- {what}: `{value}`" if isinstance(value, str) else f"- {what}: {', '.join(map(str, value))}"
    if left_out := about.get("left_out"):
        yield f"- Left out: {', '.join(f'{count} by {by}' for by, count in left_out.items())}."
    if classes := about.get("classes"):
        yield f"- Classes: {len(classes)}, {', '.join(classes[:20])}{', ...' * (len(classes) > 20)}."
    if mark := about.get("fingerprint"):
        yield f"- Fingerprint of paths, captions and their order: `{mark}`."


def _said(value: float | Sequence[str]) -> str:
    """A number, or one of several texts."""
    return f"{value:g}" if isinstance(value, (int, float)) else f"one of {', '.join(value)}"


def _cell(text: str) -> str:
    """A text of anyone's in a table of Markdown."""
    return " ".join(text.split()).replace("|", "\\|")
