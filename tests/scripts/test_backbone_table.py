"""docs/backbone.md is what configs/net says."""

from __future__ import annotations

from scripts import backbone_table


def test_the_page_is_what_the_configs_say() -> None:
    wrong = "docs/backbone.md is not what configs/net says: run python scripts/backbone_table.py"
    assert backbone_table.PAGE.read_text() == backbone_table.page(), wrong


def test_a_changed_setting_is_in_the_table() -> None:
    config = backbone_table.source("wan21_1_3b")
    assert backbone_table.changed(config, "mlp") == " (ratio=5.833)"
    config.mlp.ratio = 4.0
    assert backbone_table.changed(config, "mlp") == " (ratio=4)"
    assert backbone_table.changed(config, "norm") == ""


def test_long_patterns_are_counted() -> None:
    assert backbone_table.runs("D" * 20 + "P" * 40) == "D*20 P*40" and backbone_table.runs("ST") == "ST"
