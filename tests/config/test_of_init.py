"""What a config leaves to a published model, and what it may set beside it."""

from __future__ import annotations

from typing import Any

import pytest

from dit.config.of_init import OfCodec, OfNet, filled, is_open

MODEL: dict[str, Any] = {
    "net": {"_target_": "net", "depth": 2, "kernel": {"_target_": "auto"}, "checkpointing": {"_target_": "none"}},
    "codec": {"_target_": "codec", "dtype": "float32", "batch": 1, "posterior": "mode", "tiling": None},
    "text": None,
}


def place(kind: str, key: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"dit.config.of_init.{kind}", "key": key, **settings}


def test_settings_beside_the_models_own_parts() -> None:
    less = {"_target_": "blocks"}
    config = {
        "net": place("OfNet", "net", kernel="own", checkpointing=less),
        "codec": place("OfCodec", "codec", dtype="bfloat16", batch="own", posterior="own", tiling=None),
        "text": place("OfText", "text", dtype="own"),
        "data": [place("OfInit", "net.depth")],
    }
    found = filled(config, MODEL)
    assert found["net"] == {**MODEL["net"], "checkpointing": less}
    assert found["codec"] == {**MODEL["codec"], "dtype": "bfloat16"}
    assert found["text"] is None and found["data"] == [2]
    assert is_open(config) and not is_open(found)
    assert MODEL["codec"]["dtype"] == "float32", "the model's own config is left alone"


def test_what_is_no_setting_is_refused() -> None:
    more = place("OfNet", "net", kernel="own", checkpointing="own", depth=3)
    with pytest.raises(ValueError, match="net.depth cannot be set beside a published model, whose own it is"):
        filled(more, MODEL)
    with pytest.raises(ValueError, match="text.dtype=float16: the model has no text of which that is set"):
        filled(place("OfText", "text", dtype="float16"), MODEL)


def test_a_place_that_nobody_filled_is_one_line() -> None:
    for kind, arguments in ((OfNet, ["net", "own", "own"]), (OfCodec, ["codec", "own", "own", "own", None])):
        with pytest.raises(
            ValueError, match=f"{arguments[0]} is that of a published model: init_from=DIR names its fol"
        ):
            kind(*arguments)
