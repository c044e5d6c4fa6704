"""`suite=phyworld` shows a run the first frames of its own clips, and holds what comes against their truth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dit.encoders import to_bytes
from dit.evaluation.harness.result import as_report
from dit.evaluation.harness.work import Work
from dit.evaluation.suites import phyworld
from dit.evaluation.suites.phyworld import PhyWorldSuite
from dit.sampling.ranks import Ranks
from tests.evaluation.checkpoints import make_run, subject

BALLS = (
    "data=phyworld", "conditioning=first_three", "data.height=16", "data.width=16", "data.train.scenario=collision",
)  # fmt: skip
SPLITS = ("in distribution", "out of distribution", "unseen radius", "unseen speed", "unseen radius and speed")


def test_a_tiny_run_is_measured_beside_floor_and_guesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = phyworld.Shot.judged
    seen: list[tuple[phyworld.Shot, torch.Tensor]] = []

    def kept(shot: phyworld.Shot, video: torch.Tensor) -> phyworld.Verdict:
        seen.append((shot, video))
        return judged(shot, video)

    monkeypatch.setattr(phyworld.Shot, "judged", kept)
    run = subject(make_run(tmp_path / "balls", *BALLS), batch_size=3)
    suite = PhyWorldSuite(num_clips=2, seed=5, sheet_clips=2)
    suite.check(run)
    result = suite.measure(run, Work(run, "phyworld", 1, None, Ranks(0, 1)))

    samples = [(shot, video) for shot, video in seen if video.dtype.is_floating_point]
    assert len(samples) == 8  # two of each split, each given its own frames
    for shot, video in samples:
        assert torch.equal(to_bytes(video[:, :3]), shot.pixels[:, :3]) and len(video[0]) == 8
        assert not torch.equal(to_bytes(video[:, 3:]), shot.pixels[:, 3:])
    rows = result.rows
    assert list(rows)[:5] == [f"samples (raw), {split}" for split in SPLITS]
    for split in SPLITS[:2]:
        floor, frozen = (rows[f"{name}, {split}"] for name in ("real clips (floor)", "frozen frames"))
        for name in ("clips of other scenes", "noise"):
            assert rows[f"{name}, {split}"]["sharp_velocity_error"].value > 0.05
        guess = rows[f"constant velocity, {split}"]
        assert floor["sharp_velocity_error"].value < 0.05 < frozen["sharp_velocity_error"].value
        assert guess["sharp_velocity_error"].value < 0.1  # until frame 8 no balls have met
        assert floor["found"].value == frozen["found"].value == 1.0
        assert {"momentum_error", "error_after"} & set(floor) == set()
    means = [rows[f"samples (raw), {split}"]["velocity_error"].value for split in SPLITS[2:]]
    assert rows["samples (raw), out of distribution"]["velocity_error"].value == pytest.approx(sum(means) / 3)
    first = result.clips["samples (raw)"][0]
    assert (result.folder / first["file"]).is_file() and first["split"] == "in_distribution" and first["seed"] == 5
    assert len(first["radii"]) == len(first["speeds"]) == 2
    report = as_report("phyworld", suite.title, run.about, result)
    assert json.loads(json.dumps(report, allow_nan=False))["settings"]["scenario"] == "collision"


def test_what_it_cannot_measure_is_said_in_a_line(tmp_path: Path) -> None:
    suite = PhyWorldSuite(num_clips=2, seed=5, sheet_clips=2)
    with pytest.raises(ValueError, match=r"trained on data.worlds.world.World; suite=phyworld is for data=phyworld"):
        suite.check(subject(make_run(tmp_path / "demo")))
    with pytest.raises(
        ValueError, match="was never shown given frames, and this suite gives 3; train with conditioning="
    ):
        suite.check(subject(make_run(tmp_path / "blind", *BALLS, "conditioning=none")))
    with pytest.raises(ValueError, match="makes clips of 4 frames, and a velocity needs at least 2 behind the 3 given"):
        suite.check(subject(make_run(tmp_path / "short", *BALLS, "data.num_frames=4")))
