"""Which licences are allowed, and what is counted under which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data.card import Card, data_card
from data.clips import ClipDataset
from data.columns import TEXTS
from data.decode import Ladder, PyAV
from data.excerpts import MiddleView
from data.filter import Filter
from data.manifest import Manifest, chosen
from data.rights import UNKNOWN, allowed, ledger
from tests.data.worlds.world_settings import simple
from tests.engine import small

LICENCES = ["MIT", " mit", "CC-BY-4.0", "", None, "proprietary"]


def clips(**columns: Any) -> Manifest:
    own = {"path": [f"{index}.mp4" for index in range(6)], "licence": LICENCES, **columns}
    table = {name: pa.array(values, pa.string() if name == "licence" else None) for name, values in own.items()}
    return Manifest(Path("root"), pa.table({**table, "caption": pa.array([["x"]] * 5 + [[]], TEXTS)}))


def left(licences: list[str] | None, **columns: Any) -> list[str]:
    paths: list[str] = allowed(clips(**columns), licences).table.column("path").to_pylist()
    return [path[0] for path in paths]


def test_the_unknown_is_refused_unless_it_is_named() -> None:
    assert left(None) == list("012345")
    assert left(["MIT", "CC-BY-4.0"]) == list("012")
    assert left(["cc-by-4.0", "Unknown"]) == list("234")
    assert left([UNKNOWN]) == list("34")


def test_a_list_that_states_no_licence_is_unknown_as_a_whole() -> None:
    table = clips().table.drop_columns(["licence"])
    assert len(allowed(Manifest(Path("root"), table), [UNKNOWN])) == 6
    with pytest.raises(ValueError, match=r"data.licences=\[MIT\] allows none of 6 clips: 6 of unknown; .* by the name"):
        allowed(Manifest(Path("root"), table), ["MIT"])


def test_what_is_refused_is_counted_and_a_name_that_is_nowhere_is_said(caplog: pytest.LogCaptureFixture) -> None:
    kept = allowed(clips(), ["MIT", "CC-BY-4"])
    assert "data.licences refuses 4 of 6 clips: 2 of unknown, 1 of CC-BY-4.0, 1 of proprietary" in caplog.text
    assert "data.licences names CC-BY-4, which no clip has; CC-BY-4.0 is there" in caplog.text
    assert kept.left_out == {"licence": 4} and kept.chosen_by == {"licences": ["MIT", "CC-BY-4"]}


def test_clips_and_hours_are_counted_by_licence_and_source() -> None:
    listed = clips(
        path=["a.mp4", "b.mp4", "c.png", "d.mp4", "e.mp4", "f.png"],
        source=["x", "x", "x", "x", "x", "y"],
        duration=[3600.0, None, None, None, None, None],
        start=[None, 1.0, None, 2.0, None, None],
        end=[None, 1801.0, None, None, 36.0, None],
    )
    rows = {(row["licence"], row["source"]): row for row in ledger(listed)}
    assert sum(row["clips"] for row in rows.values()) == 6
    assert rows["MIT", "x"]["hours"] == 1.0 and rows["mit", "x"]["hours"] == 0.5
    assert rows["CC-BY-4.0", "x"] | {"hours": 0} == {
        "licence": "CC-BY-4.0", "source": "x", "clips": 1, "images": 1, "hours": 0, "clips_without_duration": 0
    }  # fmt: skip
    unknown = rows["unknown", "x"]
    assert (unknown["clips"], unknown["hours"], unknown["clips_without_duration"]) == (2, 0.01, 1)
    assert ledger(clips())[0] == {
        "licence": "unknown", "source": "unknown", "clips": 2, "images": 0, "hours": 0.0, "clips_without_duration": 2
    }  # fmt: skip


def card_of(manifest: Manifest, val: Any = None) -> Card:
    dataset = ClipDataset(manifest, Ladder(decoders=[PyAV()]), MiddleView(), 8, 32, 32, 8.0)
    return data_card(dataset, val, {"num_frames": 8, "fps": 8.0}, {"train": dataset.fingerprint()})


def test_the_card_of_the_same_clips_is_the_same_and_of_others_another(tmp_path: Path) -> None:
    first = card_of(clips())
    assert first.hash == card_of(Manifest(tmp_path, clips().table)).hash, "wherever they lie"
    others = [
        clips(licence=["MIT"] * 6),
        clips(source=["y"] * 6),
        clips(path=[f"{index}.mov" for index in range(6)]),
        allowed(clips(), ["MIT"]),
        chosen(clips(), Filter("licence is not None")),
    ]
    assert len({first.hash, *(card_of(other).hash for other in others)}) == 6
    assert json.loads(first.json)["train"]["rights"] == ledger(clips())


def test_the_card_can_be_read_by_people() -> None:
    odd = clips(source=["a|b\nc", *["x"] * 5])
    kept = allowed(chosen(odd, Filter("path != '5.mp4'")), ["MIT", "unknown"])
    card = card_of(kept, simple(labels=["colour"]))
    text = card.markdown
    assert card.hash in text and "| MIT | a\\|b c | 1 | 0 | 0.000 | 1 |" in text
    assert "- filter: `path != '5.mp4'`" in text and "- licences: MIT, unknown" in text
    assert "- Left out: 1 by filter, 1 by licence." in text and "4 clips, 0.000 hours." in text
    assert "| generated | data.worlds.world |" in text and "- split: `train`" in text
    assert card.line == "4 clips; licences: unknown 2, MIT 1, mit 1"


def test_data_of_ones_own_is_of_unknown_rights() -> None:
    card = small.video_data().card()
    assert [row["licence"] for row in card.content["train"]["rights"]] == [UNKNOWN]
    assert card.content["train"]["rights"][0]["source"].endswith("small.Clips")
