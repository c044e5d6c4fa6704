"""The evaluation's report holds all that is needed to make it again, and runs that it cannot measure hear why."""

import json
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from dit.codec.base import Codec
from dit.evaluation.harness.result import Result, as_report, scores_of
from dit.evaluation.suites.of_world import heldout_world
from dit.evaluation.suites.world import clips_of, through
from dit.evaluation.verdicts import Report
from dit.evaluation.world import MEASURES, Verdict
from dit.sampling.checkpoint import Checkpoint
from tests import commands
from tests.evaluation.checkpoints import make_run

ROOT = Path(__file__).resolve().parents[2]


def config_of(*overrides: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        composed = hydra.compose("train", overrides=["name=mine", *overrides])
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def checkpoint(config: dict[str, Any]) -> Checkpoint:
    return Checkpoint(Path("mine.ckpt"), {}, {}, config)


def test_real_clips_are_answered_in_a_line_though_they_are_not_there() -> None:
    config = config_of("experiment=real_clips", "data.root=/nowhere")
    with pytest.raises(ValueError, match=r"mine.ckpt was validated on \S+; only worlds can be measured exactly"):
        heldout_world(checkpoint(config))


def test_a_run_that_was_not_validated_is_answered_in_a_line() -> None:
    config = config_of("experiment=demo")
    config["data"]["val"] = None
    with pytest.raises(ValueError, match="was validated on nothing; only worlds"):
        heldout_world(checkpoint(config))


def test_a_world_that_shows_what_training_showed_is_refused() -> None:
    assert heldout_world(checkpoint(config_of("experiment=demo"))).split == "heldout"
    with pytest.raises(ValueError, match=r"\d+ of the prompts were trained on; validate with data.val.split=heldout"):
        heldout_world(checkpoint(config_of("experiment=demo", "data.val.split=train")))


@pytest.mark.parametrize("data", ["world", "world_occlusion", "world_full"])
def test_a_world_of_more_than_straight_motion_is_refused(data: str) -> None:
    """Its reader knows one object on an empty ground: of real clips behind a wall it says that no colour is right."""
    with pytest.raises(ValueError, match="on an empty ground, and suite=world reads no more; suite=objects"):
        heldout_world(checkpoint(config_of("experiment=demo", f"data={data}")))


def report(found: dict[str, tuple[Verdict, ...]], asked: list[dict[str, Any]], files: list[str]) -> dict[str, Any]:
    reports = {name: Report(verdicts, MEASURES) for name, verdicts in found.items()}
    rows = {name: scores_of(each.estimates()) for name, each in reports.items()}
    result = Result(Path("any"), rows, MEASURES, {"clips": len(asked)}, clips_of(reports, asked, files))
    return as_report("world", "a title", {"step": 7}, result)


def test_the_report_holds_each_clip() -> None:
    right = Verdict(True, True, True, True, True, 0.1, 0.2, 0.3, ())
    wrong = Verdict(True, False, True, True, True, 0.3, 0.6, 0.9, ("shape bar",))
    asked = [{"prompt": "a", "seed": 1}, {"prompt": "b", "seed": 2}]
    made = report({"samples (raw)": (right, wrong), "real": (right, right)}, asked, ["a.mp4", "b.mp4"])
    assert json.loads(json.dumps(made, allow_nan=False)) == made | {"clips": json.loads(json.dumps(made["clips"]))}
    second = made["clips"]["samples (raw)"][1]
    assert second["file"] == "b.mp4" and second["prompt"] == "b" and second["seed"] == 2
    assert second["shape"] is False and second["outline_worst"] == 0.9 and list(second["reasons"]) == ["shape bar"]
    assert set(MEASURES) - {"all"} < set(second) and "file" not in made["clips"]["real"][0]
    assert made["metrics"]["samples (raw)"]["outline_error"] == pytest.approx(0.4)
    half = 12.706 * 0.2  # Student's t of two values
    assert made["intervals"]["samples (raw)"]["outline_error"] == pytest.approx([0.4 - half, 0.4 + half], abs=1e-3)
    low, high = made["intervals"]["samples (raw)"]["shape"]
    assert 0 < low < made["metrics"]["samples (raw)"]["shape"] < high < 1
    assert set(made["measures"]) == set(made["metrics"]["real"]) == set(made["intervals"]["real"])
    assert made["suite"] == "world" and made["checkpoint"] == {"step": 7} and made["settings"] == {"clips": 2}
    alone = report({"samples (raw)": (right,)}, asked[:1], ["a.mp4"])
    assert "outline_error" not in alone["intervals"]["samples (raw)"]


def test_real_clips_go_through_the_autoencoder() -> None:
    """In batches, and as the codec does it: the tiny one of tests makes another clip of each."""

    class Half(Codec):
        channels, stride, causal = 3, (1, 1, 1), False

        def __init__(self) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(0.5))

        def encode(self, pixels: torch.Tensor) -> torch.Tensor:
            assert len(pixels) <= 2 and pixels.abs().max() <= 1
            return pixels * self.factor

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return latents

    clips = [torch.full((3, 2, 4, 4), level, dtype=torch.uint8) for level in (0, 255, 255)]
    assert [clip.mean().item() for clip in through(Half(), clips, 2)] == pytest.approx([-0.5, 0.5, 0.5])


@pytest.mark.slow
def test_a_sweep_leaves_a_report_for_each_job_and_nothing_beside(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "mine")
    asked = ("ckpt=runs/mine", "weights=raw", "num_prompts=2", "num_steps=1,2", "device=cpu", "trusted=[]")
    done = commands.run("scripts/evaluate.py", "-m", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {entry.name for entry in tmp_path.iterdir()} == {"runs"}
    for job, steps in (("001", 1), ("002", 2)):
        made = json.loads((tmp_path / "runs" / "mine" / "samples" / job / "report.json").read_text())
        assert made["checkpoint"] == {"file": "runs/mine/checkpoints/last.ckpt", "step": 7, "weights": "raw"}
        assert made["settings"]["num_steps"] == steps and made["settings"]["batch_size"] == 32
        assert {"solver", "schedule", "guidance", "num_frames"} < set(made["settings"])
        clips = made["clips"]["samples (raw)"]
        assert [clip["seed"] for clip in clips] == [1000, 1001] and len(made["clips"]["real clips (ceiling)"]) == 2
        assert all((tmp_path / "runs" / "mine" / "samples" / job / clip["file"]).is_file() for clip in clips)
