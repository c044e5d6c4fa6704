"""What a run takes of a published pipeline's folder, and what it keeps of its own beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dit.config.of_init import TARGET
from dit.engine import published

NEW, OLD, LOW = (f"dit.diffusion.levels.{name}" for name in ("LogitNormal", "Uniform", "LogNormal"))
NOW: dict[str, Any] = {
    "net": {"_target_": "dit.net.backbone.Backbone", "width": 2}, "text": None, "levels": {"_target_": NEW},
    "signals": {
        "guidance": {"_target_": "dit.signals.guidance.GuidanceScale", "scale": 6.0, "in_training": 1.0},
        "image": {"_target_": "dit.signals.image.Image", "folder": "here"},
    },
}  # fmt: skip


class Folder:
    def for_expert(self, expert: str | None) -> dict[str, Any]:
        return {**NOW, "levels": {"_target_": expert or NEW}}


def open_config(**more: Any) -> dict[str, Any]:
    places = {key: {"_target_": TARGET, "key": key} for key in NOW}
    return {**places, "init_from": "DIR", "init_expert": None, "text_cache": "kept", **more}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "open_pipeline", lambda *_: Folder())


def test_a_new_run_takes_all_from_the_folder(tmp_path: Path) -> None:
    found = published.completed(open_config(), tmp_path)
    assert {key: found[key] for key in NOW} == NOW
    assert found["text_cache"] is None, "there is no text to keep"
    assert published.completed(open_config(init_expert=LOW), tmp_path)["levels"] == {"_target_": LOW}
    own = {"_target_": "mine"}
    assert published.completed(open_config(levels=own), tmp_path)["levels"] == own
    closed = dict.fromkeys(open_config(), 1)
    assert published.completed(closed, tmp_path) is closed


def test_a_run_of_before_keeps_what_no_folder_says(tmp_path: Path) -> None:
    """Levels and signals that were others when it began; not where files lie."""
    guidance = {key: value for key, value in NOW["signals"]["guidance"].items() if key != "in_training"}
    begun = {
        "net": {"_target_": "dit.net.backbone.Backbone", "width": 1}, "levels": {"_target_": OLD},
        "signals": {"guidance": guidance, "text": {}, "image": {**NOW["signals"]["image"], "folder": "gone"}},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(begun))
    found = published.completed(open_config(), tmp_path)
    assert found["levels"] == begun["levels"] and found["net"] == NOW["net"]
    assert found["signals"] == {"guidance": {**guidance, "in_training": None}, "image": NOW["signals"]["image"]}


def test_an_expert_of_nothing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="init_expert=low chooses among the networks of init_from=DIR, which is not"):
        published.completed(open_config(init_from=None, init_expert="low"), tmp_path)
