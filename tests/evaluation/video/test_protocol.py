"""Scores that were measured differently are never under one another."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dit.evaluation.video.protocol import Protocol, Score, as_report, check_alike, table

PLAIN = Protocol("val", 64, 64, 16, 32, 32, 8.0, "bilinear to 64x64, with antialias", "random", "ab" * 32)


def score(value: float, protocol: Protocol = PLAIN, name: str = "fvd[random]", note: str = "") -> Score:
    return Score(name, value, value - 1, value + 1, protocol, False, "", note)


def columns(text: str) -> list[str]:
    return [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]


def test_alike_scores_share_a_column_with_its_protocol_below() -> None:
    rows = {"runs/a": [score(10), score(2, name="kvd[random]")], "runs/b": [score(12)]}
    check_alike(rows)
    said = table(rows)
    assert columns(said) == ["", "fvd[random]", "kvd[random]"]
    assert "| runs/b | 12 [11, 13] |  |" in said
    assert "- fvd[random]: split val, clips 64, reference 64, frames 16, height 32, width 32, fps 8.0" in said
    assert "resize bilinear to 64x64, with antialias, network random, sha256 abababababab" in said


@pytest.mark.parametrize(
    "changed",
    [
        {"clips": 128}, {"reference": 128}, {"split": "test"}, {"frames": 8}, {"height": 64}, {"fps": None},
        {"resize": ""}, {"sha256": "cd" * 32}, {"network": "i3d"}, {"settings": (("samples", 3),)},
    ],
)  # fmt: skip
def test_unlike_scores_are_refused_or_stand_apart(changed: dict[str, object]) -> None:
    other = replace(PLAIN, **changed)  # type: ignore[arg-type]
    rows = {"runs/a": [score(10)], "runs/b": [score(12, other)], "runs/c": [score(13)]}
    with pytest.raises(ValueError) as error:
        check_alike(rows)
    assert "fvd[random] of runs/a and runs/b cannot be compared: they differ in" in str(error.value)
    assert next(iter(changed)) in str(error.value) or "samples" in str(error.value)
    said = table(rows)
    assert columns(said) == ["", "fvd[random]", "fvd[random] (2)"]
    assert "| runs/a | 10 [9, 11] |  |" in said and "| runs/b |  | 12 [11, 13] |" in said
    assert sum(line.startswith("- fvd[random]") for line in said.splitlines()) == 2


def test_notes_stand_below() -> None:
    said = table({"runs/a": [score(10, note="about 3 of it is due to the number of clips")]})
    assert "- fvd[random] of runs/a: about 3 of it" in said


def test_a_report_is_plain_values_with_protocols() -> None:
    content = json.loads(json.dumps(as_report({"samples": [score(10, note="few")], "floor": [score(3)]})))
    assert content["metrics"] == {"samples": {"fvd[random]": 10}, "floor": {"fvd[random]": 3}}
    assert content["intervals"]["samples"]["fvd[random]"] == [9, 11]
    assert content["protocols"]["samples"]["fvd[random]"]["sha256"] == "ab" * 32
    assert content["notes"] == {"samples": {"fvd[random]": "few"}, "floor": {}}
    assert content["measures"]["fvd[random]"] == {"title": "fvd[random]", "unit": "", "larger_is_better": False}
