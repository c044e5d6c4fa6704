"""`--help` and `show=true`: pages that are printed instead of working."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dit.entry import CONFIGS
from dit.entry.pages import EXAMPLES, SCRIPTS, WIDTH

SMALL = ("experiment=demo", "name=mine", "net.width=48", "net.depth=1", "text.width=32", "text.depth=1", "logger=none")
SMALL = (*SMALL, "net.text_width=32", "data.num_workers=0")


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_fits_two_screens_and_names_every_group(
    name: str, command: Callable[..., None], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    command(SCRIPTS[name], "--help")
    page = capsys.readouterr().out
    lines = page.splitlines()
    assert len(lines) <= 48 and max(map(len, lines)) <= WIDTH
    assert len(EXAMPLES[name]) == 5 and all(example in page for example in EXAMPLES[name])
    assert "solver:" in page and "dpmpp_2m" in page and "--cfg job" in page
    assert (name == "train") == ("weighting: uniform clipped_velocity" in page)
    assert not list(tmp_path.iterdir())


def test_show_prints_what_differs_and_trains_nothing(
    command: Callable[..., None], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    steps = yaml.safe_load((CONFIGS / "experiment" / "demo.yaml").read_text())["trainer"]["max_steps"]
    command("train.py", *SMALL, "seed=3", "net.position.scale.f=0.5", "show=true")
    page = capsys.readouterr().out
    assert "  net.width: 48 (file says 192)\n" in page and "  seed: 3 (file says 0)\n" in page
    assert f"  trainer.max_steps: {steps} (file says 100000)\n" in page, "what the experiment sets"
    assert "net.heads" not in page and "alignment" not in page, "only what differs, and what is used"
    assert "net: " in page and f"would start at step 0 of {steps}" in page and "runs/mine" in page
    assert max(map(len, page.splitlines())) <= WIDTH and len(page.splitlines()) <= 48
    assert not list(tmp_path.iterdir()), "nothing may be written"


def test_show_refuses_what_training_would_refuse(
    command: Callable[..., None], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stop:
        command("train.py", *SMALL, "net.in_channels=5", "show=true")
    assert stop.value.code == 2 and "net.in_channels=5, but the codec gives" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
