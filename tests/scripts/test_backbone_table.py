"""docs/backbone.md is what configs/net says."""

from __future__ import annotations

from scripts import backbone_table


def test_the_page_is_what_the_configs_say() -> None:
    wrong = "docs/backbone.md is not what configs/net says: run python scripts/backbone_table.py"
    assert backbone_table.PAGE.read_text() == backbone_table.page(), wrong


def test_a_setting_of_a_models_own_is_in_the_table() -> None:
    config = backbone_table.source("wan21_1_3b")
    assert backbone_table.own_settings(config) == "mlp.ratio=5.833"
    config.mlp.ratio = 4.0
    assert backbone_table.own_settings(config) == "mlp.ratio=4"
    assert backbone_table.own_settings(backbone_table.source("allegro")) == ""


def test_models_with_equal_parts_share_a_row_and_others_do_not() -> None:
    configs = {name: backbone_table.source(name) for name in ("wan21_14b", "wan21_tiny", "hunyuan_video")}
    head, _, wan, hunyuan = backbone_table.parts_table(configs).splitlines()
    assert wan.startswith("| `wan21_14b`, `wan21_tiny` | F |") and hunyuan.startswith("| `hunyuan_video` | DP |")
    assert "| guidance |" in head, "a group that only one of them has is a column too"
    configs["wan21_tiny"].pattern = "C"
    assert len(backbone_table.parts_table(configs).splitlines()) == 5


def test_what_few_have_is_bold() -> None:
    assert backbone_table.most(["a", "a", "b"]) == "a" and backbone_table.most(["a", "b"]) is None
    assert backbone_table.cell("b", "a") == "**b**" and backbone_table.cell("a", "a") == "a"
    assert backbone_table.cell("none", None) == "-"
