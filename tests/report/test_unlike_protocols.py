"""On the page, too, scores of one measure that were measured differently are under no common head, and in no mean."""

from __future__ import annotations

from pathlib import Path

from dit.report.measures import Measured, tabled
from dit.scores import Measure
from dit.statistics import Estimate


def measured(value: float, clips: int) -> Measured:
    rows = {"samples": {"fvd[i3d]": Estimate(value), "flicker": Estimate(1.0)}}
    kinds = {"fvd[i3d]": Measure("fvd[i3d]", "", False), "flicker": Measure("flicker")}
    return Measured(
        Path("report.json"), "fvd", "sets", 10, "ema", rows, kinds, {"fvd[i3d]": {"clips": clips}, "seed": 1}
    )


def test_unlike_protocols_are_columns_of_their_own() -> None:
    table = tabled(
        [("a", [("a0", measured(10.0, 64)), ("a1", measured(12.0, 64))]), ("b", [("b0", measured(5.0, 2048))])]
    )
    assert table is not None and list(table.kinds) == ["fvd[i3d]", "flicker", "fvd[i3d] (2)"]
    assert table.kinds["fvd[i3d] (2)"].title == "fvd[i3d] (2)" and table.kinds["fvd[i3d] (2)"].larger is False
    (_, _, first), (_, _, second) = table.rows
    assert first["fvd[i3d]"].mean == 11.0 and "fvd[i3d] (2)" not in first
    assert second["fvd[i3d] (2)"].mean == 5.0 and "fvd[i3d]" not in second and second["flicker"].mean == 1.0


def test_seeds_that_were_measured_differently_are_in_no_mean() -> None:
    table = tabled([("a", [("a0", measured(10.0, 64)), ("a1", measured(20.0, 128)), ("a2", None)])])
    assert table is not None
    ((_, _, row),) = table.rows
    assert row["fvd[i3d]"].mean == 10.0 and row["fvd[i3d] (2)"].mean == 20.0 and table.notes
