"""scripts/coordinate_check.py: its table has the slopes with and without mup, and its figure the changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.coordinate_check import main

TINY = ["experiment=demo", "net.depth=1", "net/kernel=sdpa", "optim=adamw", "optim.lr=0.01", "widths=16,32,64"]
QUICK = ["steps=4", "seeds=1", "batch=1", "frames=2", "size=8"]


def test_slopes_with_and_without_mup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "check.svg"
    main([*TINY, *QUICK, f"out={figure}"])
    said = capsys.readouterr().out
    assert all(f"{name}, width {width}: " in said for name in ("as configured", "mup") for width in (16, 32, 64))
    row = next(line for line in said.splitlines() if line.startswith("| output |"))
    plain, scaled = (float(each) for each in re.findall(r"\| ([+-][\d.]+) \(", row))
    assert abs(scaled) < 0.08 and plain > 0.12, row
    assert "<svg" in figure.read_text() and "block 0" in said


@pytest.mark.parametrize(
    "argument, said",
    [
        ("widths=16,32", "at least three"),
        ("widths=16,b,64", "whole numbers"),
        ("widths=48,96,100", "heads of 4 channels each, and 8 are needed"),
        ("steps=0", "steps=0 must be at least 1"),
        ("out=check.png", r"must end in \.svg"),
    ],
)
def test_what_cannot_be_asked(argument: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        main([argument])
