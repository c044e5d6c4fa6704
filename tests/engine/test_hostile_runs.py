"""Run directories of strangers: what a run takes out of its own config.yaml when it goes on is data, too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from dit.config.build import build
from dit.engine import published, rundir
from dit.foreign import Refused
from tests.engine.runs import changed
from tests.hostile import attacks, places, replaced, watched

# What a file of YAML can hold.
ATTACKS = [name for name in attacks(Path("x")) if name not in ("object", "number key", "itself", "bomb")]
LEVELS = {
    "_target_": "dit.diffusion.levels.Between",
    "low": 0.5,
    "high": 1.0,
    "levels": {"_target_": "dit.diffusion.levels.Uniform"},
}
SIGNALS = {"text": {"_target_": "dit.signals.text.Text", "_partial_": True}}
MODEL: dict[str, Any] = {"levels": LEVELS["levels"], "signals": SIGNALS}


def open_place(key: str) -> dict[str, str]:
    return {"_target_": "dit.config.of_init.OfInit", "key": key}


def completed(
    run: Path, begun: dict[str, Any], monkeypatch: pytest.MonkeyPatch, model: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What becomes of a fine-tuning whose run directory says that it was begun with some other values."""
    model = model or MODEL
    monkeypatch.setattr(published, "open_pipeline", lambda *_: SimpleNamespace(for_expert=lambda _: model))
    (run / rundir.CONFIG).write_text(yaml.safe_dump(begun))
    asked = {name: open_place(name) for name in MODEL} | {"init_from": "model", "text": {"_target_": "x"}}
    return published.completed(asked, run)


def test_a_run_keeps_what_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = {"levels": LEVELS, "signals": {"text": {**SIGNALS["text"], "_convert_": "all"}, "more": {}}}
    found = completed(tmp_path, begun, monkeypatch)
    assert found["levels"] == LEVELS and found["signals"] == {"text": begun["signals"]["text"]}
    assert completed(tmp_path, {}, monkeypatch)["levels"] == LEVELS["levels"]
    build(found["levels"])


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_of_a_run_is_more_than_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the places of a fine-tuning that a run keeps, itself and below."""
    attack, begun = attacks(tmp_path / "sentinel")[name], {"levels": LEVELS, "signals": SIGNALS}
    for place in ["levels", "signals", *(place for place in places(begun) if "." in place)]:
        try:
            found = completed(tmp_path, replaced(begun, place, attack), monkeypatch)
        except ValueError as error:
            assert "\n" not in str(error) and str(tmp_path / rundir.CONFIG) in str(error), (place, error)
        else:  # under a name that the model does not know it is left out
            assert found == {"init_from": "model", "text": {"_target_": "x"}, **MODEL, "levels": LEVELS}, place
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("name", ["command", "functions that compose", "resolver", "class elsewhere"])
def test_nothing_of_a_published_model_is_more_than_its_parts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its folder might bring into a part, or below one."""
    attack = attacks(tmp_path / "sentinel")[name]
    parts = {"sampling": {"solver": {"_target_": "dit.sampling.solvers.Euler"}}}
    model = {**MODEL, **parts, "levels": LEVELS, "text": {"_target_": "dit.text.bytes.ByteEncoder"}}
    assert completed(tmp_path, {}, monkeypatch, model)["levels"] == LEVELS
    for key in ("levels", "signals.text", "sampling.solver", "text", "levels.low"):
        with pytest.raises(Refused, match="^model: "):
            completed(tmp_path, {}, monkeypatch, replaced(model, key, attack))


@pytest.mark.parametrize("key", ["text.max_bytes", "net.position.stride", "net.position.first"])
def test_nothing_of_a_kept_value_is_more_than_data(key: str, tmp_path: Path) -> None:
    today: dict[str, Any] = {"text": {"max_bytes": 511}, "net": {"position": {"stride": None, "first": None}}}
    for name in ATTACKS:
        begun = changed(today, key, attacks(tmp_path / "sentinel")[name])
        (tmp_path / rundir.CONFIG).write_text(yaml.safe_dump(begun))
        with watched() as seen, pytest.raises(ValueError) as caught:
            rundir.as_begun(tmp_path, today)
        assert not seen and "\n" not in str(caught.value) and str(tmp_path / rundir.CONFIG) in str(caught.value)


def test_what_such_a_value_may_be(tmp_path: Path) -> None:
    """An attack that was there: a run directory with a command for levels, which the next start built."""
    begun = {"text": {"max_bytes": {"_target_": "torch.utils.collect_env.run", "command": "x"}}}
    (tmp_path / rundir.CONFIG).write_text(yaml.safe_dump(begun))
    said = "text.max_bytes._target_ asks for torch.utils.collect_env.run: nothing is built there"
    with pytest.raises(Refused, match=said):
        rundir.as_begun(tmp_path, {"text": {"max_bytes": 511}})
