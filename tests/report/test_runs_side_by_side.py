"""What is read of runs, which of them are one group, what differs, and the curves that come of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dit.report import curves, groups
from dit.report.assemble import Report, assemble
from dit.report.runs import find, read
from dit.report.sections import sections
from dit.runfiles import short_names
from dit.statistics import t_quantile
from tests.report.fake import STEPS, make_measures, make_previews, make_run


def report(*folders: Path, said: list[str] | None = None, **asked: Any) -> Report:
    return assemble(folders, videos=32, say=(said if said is not None else []).append, **asked)


def losses(offset: float, count: int = len(STEPS)) -> dict[str, Sequence[float]]:
    return {"val/loss": [offset + 1 / (place + 1) for place in range(count)]}


def test_a_sweep_is_all_its_runs_in_natural_order(tmp_path: Path) -> None:
    for name in ("width.384", "width.96", "deep/er/inside"):
        make_run(tmp_path / "sweep" / name)
    (tmp_path / "sweep" / "multirun.yaml").write_text("a: 1")
    (tmp_path / "sweep" / "figures").mkdir()
    said: list[str] = []
    found = find([tmp_path / "sweep", tmp_path / "sweep" / "width.96"], said.append)
    assert [run.name for run in found] == ["inside", "width.96", "width.384"] and not said
    assert short_names(found) == ["inside", "width.96", "width.384"]
    assert short_names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]


def test_what_is_no_run_is_one_line_and_the_rest_is_read(tmp_path: Path) -> None:
    good = make_run(tmp_path / "good", losses(0))
    broken = make_run(tmp_path / "broken")
    (broken / "config.yaml").write_text("a: [")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    said: list[str] = []
    made = report(tmp_path / "nowhere", tmp_path / "empty", tmp_path / "file", broken, good, said=said)
    assert [run.name for run in made.runs] == ["good"] and len(said) == 4 == len(made.notes)
    for line, word in zip(
        said, ("nowhere is not there", "holds no config.yaml", "is a file", "is not YAML"), strict=True
    ):
        assert word in line and "\n" not in line
    with pytest.raises(ValueError, match="nowhere is not there, so it is left out"):
        report(tmp_path / "nowhere")


def test_a_damaged_table_loses_its_damaged_lines_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"train/loss": [3, float("nan"), float("inf"), 1]})
    with (run / "metrics.csv").open("a") as file:
        file.write("50,what\n30,7.5,1,1\n60,1")
    said: list[str] = []
    (read_run,) = read([run], said.append)
    step, value = read_run.metrics["train/loss"]
    assert step.tolist() == [10, 20, 30, 40] and value[[0, 2, 3]].tolist() == [3, 7.5, 1], (
        "the last row of a step counts"
    )
    assert said == [f"{run / 'metrics.csv'}: 1 lines are no rows and left out"]
    (line,) = curves.curve("train/loss", [read_run], groups.grouped([read_run])).lines
    assert line.step.tolist() == [10, 30, 40], "what is not finite has no place in a curve"


def test_runs_that_differ_by_seeds_are_one_group(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"demo-theta.1-seed.{seed}", losses(seed), seed=seed) for seed in (0, 1, 2)]
    other = make_run(tmp_path / "demo-theta.2-seed.0", losses(9), net__position__theta=2, name="b", trainer__devices=2)
    made = report(*folders, other)
    assert [(group.label, group.runs) for group in made.groups] == [
        ("demo-theta.1", (0, 1, 2)),
        ("demo-theta.2-seed.0", (3,)),
    ]
    assert [(each.key, each.values) for each in made.differences] == [("net.position.theta", ["1", "2"])]


def test_a_group_is_named_by_no_part_of_a_seed(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"demo-theta.1-seed.{seed}", losses(seed), seed=seed) for seed in (1, 10, 11)]
    for some in (folders, folders[1:]):
        assert [group.label for group in report(*some).groups] == ["demo-theta.1"]


def test_a_run_that_repeats_a_seed_is_no_further_draw(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, losses(0), seed=seed) for name, seed in (("a", 0), ("b", 1), ("again", 0))]
    made = report(*folders)
    assert [group.runs for group in made.groups] == [(0, 1), (2,)]
    assert len(made.notes) == 1 and "again has the config and the seed (0)" in made.notes[0]


def test_of_another_class_the_class_alone_is_said(tmp_path: Path) -> None:
    rope = make_run(tmp_path / "rope", losses(0))
    sincos = {"_target_": "dit.net.position.sincos.SinCos3D", "base": 100}
    sincos_run = make_run(tmp_path / "sincos", losses(0), net__position=sincos, optim__lr=0.5)
    made = report(rope, sincos_run)
    assert [(each.key, each.values) for each in made.differences] == [
        ("net.position", ["RoPE3D", "SinCos3D"]),
        ("optim.lr", ["0.01", "0.5"]),
    ]


def test_the_mean_over_seeds_has_students_interval(tmp_path: Path) -> None:
    values = ([1.0, 2, 3, 4], [2.0, 3, 4, 9], [3.0, 4, 8, 8])
    folders = [make_run(tmp_path / f"s{i}", {"val/loss": each}, seed=i) for i, each in enumerate(values)]
    curve = next(each for each in report(*folders).curves if each.metric == "val/loss")
    mean, *single = curve.lines
    assert mean.run is None and [line.run for line in single] == [0, 1, 2]
    assert mean.value == pytest.approx([2, 3, 5, 7])
    spread = np.array(values).std(axis=0, ddof=1) * t_quantile(2) / np.sqrt(3)
    assert mean.low == pytest.approx(np.array([2, 3, 5, 7]) - spread)
    assert mean.high == pytest.approx(np.array([2, 3, 5, 7]) + spread)


def test_a_mean_ends_where_a_run_ends_and_another_mean_begins(tmp_path: Path) -> None:
    """The mean of two runs is no continuation of the mean of three, and a single run has no mean."""
    ends = ((10, 20), (10, 20, 30), (10, 20, 30, 40))
    folders = [make_run(tmp_path / f"s{i}", losses(i, len(steps)), steps, seed=i) for i, steps in enumerate(ends)]
    means = [line for line in report(*folders).curves[0].lines if line.run is None]
    assert [(line.step.tolist(), line.count[0] if line.count is not None else None) for line in means] == [
        ([10, 20], 3),
        ([30], 2),
    ]


def test_long_curves_are_means_of_rows_and_say_so(tmp_path: Path) -> None:
    steps = range(1, 2001)
    noisy = np.random.default_rng(0).normal(1, 0.1, 2000)
    run = make_run(tmp_path / "long", {"train/loss": noisy.tolist()}, steps)
    (curve,) = (each for each in report(run).curves if each.metric == "train/loss")
    assert curve.averaged == 4 and len(curve.lines[0].step) == 500
    assert curve.lines[0].value[0] == pytest.approx(noisy[:4].mean()) and curve.lines[0].step[0] == 2.5
    assert curve.lines[0].value.mean() == pytest.approx(noisy.mean())


def test_what_was_validated_before_the_first_row_of_costs_has_its_share_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    (run / "metrics.csv").write_text("step,val/loss,seen/tokens\n5,9,\n10,8,1000\n20,7,2000\n")
    (costs,) = curves.along(report(run).runs)
    assert [each.tolist() for each in costs["seen/tokens"]] == [[0, 10, 20], [0, 1000, 2000]]
    assert np.interp(5, *costs["seen/tokens"]) == 500


def test_a_metric_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    said: list[str] = []
    run = make_run(tmp_path / "a", losses(0) | {"train/loss": [1, 1, 1, 1]})
    made = report(run, said=said, metrics=["val/los", "train/loss"])
    assert made.opened == ["train/loss"] and [curve.metric for curve in made.curves] == ["train/loss", "val/loss"]
    assert said == ["no run has a metric val/los; did you mean val/loss?"] or said[0].startswith(
        "no run has a metric val/los; did you mean val/loss or "
    )


def test_the_state_of_a_run_is_its_last_word(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", losses(0))
    states = []
    for event in ({"event": "start", "command": "x"}, {"event": "failed", "why": "y"}, {"event": "start"}, "no event"):
        with (run / "history.jsonl").open("a") as file:
            file.write(json.dumps(event) + "\nnot json\n")
        states.append(read([run], print)[0].state)
    assert states == ["running", "failed", "running", "running"]


def test_measures_are_means_over_seeds_or_of_the_clips_of_one(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"s{i}", losses(i), seed=i) for i in range(2)]
    alone = make_run(tmp_path / "alone", losses(5), optim__lr=1)
    for folder, shape in zip([*folders, alone], (0.5, 0.75, 1.0), strict=True):
        make_measures(folder, shape)
    make_measures(alone, 0.9, "002")  # of the same step, later: this one counts
    (table,) = report(*folders, alone).measures
    assert not table.notes
    assert [(name, group) for name, group, _ in table.rows] == [("s", 0), ("alone", 1), ("real clips", None)]
    seeds, clips, real = (row["shape"] for _, _, row in table.rows)
    assert seeds.mean == 0.625 and seeds.count == 2 and seeds.high == pytest.approx(0.625 + 12.706 * 0.125, abs=1e-3)
    assert (clips.mean, clips.low, clips.high) == (0.9, 0.1, 0.9) and real.mean == 1.0


def test_what_was_measured_otherwise_is_said_to_be(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, losses(0), optim__lr=lr) for name, lr in (("a", 1), ("b", 2)))
    make_measures(a)
    make_measures(b, num_steps=50)
    notes = report(a, b).notes
    assert notes == ["b and a were not measured alike: num_steps differ"]


def test_each_suite_has_a_table_of_its_own(tmp_path: Path) -> None:
    """The latest of each; that of another suite does not take its place. Suites that sample nothing lie elsewhere."""
    a, b = (make_run(tmp_path / name, losses(0), optim__lr=lr) for name, lr in (("a", 1), ("b", 2)))
    for run in (a, b):
        make_measures(run, 0.5)
    for folder in (a / "samples" / "002", a / "evaluation" / "001"):
        content = json.loads((a / "samples" / "001" / "report.json").read_text())
        folder.mkdir(parents=True)
        suite = {"suite": folder.parent.name, "title": f"what {folder.parent.name} are", "clips": {}}
        (folder / "report.json").write_text(json.dumps({**content, **suite}))
    tables = report(a, b).measures
    assert [table.title for table in tables] == ["", "what samples are", "what evaluation are"]
    assert [[name for name, group, _ in table.rows if group is not None] for table in tables] == [
        ["a", "b"],
        ["a"],
        ["a"],
    ]
    html = sections(report(a, b))["measures"]
    assert html.count("<h3>") == 2 and "<h3>what evaluation are</h3>" in html


@pytest.mark.parametrize("content", ["{", "[]", '{"metrics": {}}', '{"metrics": {"a": 3}}', '{"metrics": 1}'])
def test_measures_that_are_none_are_one_line(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "a", losses(0))
    make_measures(run).write_text(content)
    said: list[str] = []
    made = report(run, said=said)
    assert made.measures == [] and len(said) == 1 and "holds no measures that can be read" in said[0]
    assert made.walls, "its videos are shown nevertheless"


def test_videos_stand_beside_those_of_their_prompt_and_seed(tmp_path: Path) -> None:
    a, b, c = (make_run(tmp_path / name, losses(0), optim__lr=lr) for name, lr in (("a", 1), ("b", 2), ("c", 3)))
    for step in (10, 20):
        make_previews(a, step)
    make_previews(b, 20, prompts=["a blue bar moves up", "a red circle moves right"])  # the same prompts, other seeds
    make_measures(b)
    samples, over_training = report(a, b, c).walls
    assert samples.columns == ["a", "b"], "a run without videos has no column"
    shown = {(prompt, seed): [cell and cell.clip.step for cell in row] for prompt, seed, row in samples.rows}
    assert shown[("a red circle moves right", "0")] == [20, None] and len(shown) == 6
    assert next(iter(shown)) == ("a red circle moves right", "100"), (
        "measured ones come first where as many runs have them"
    )
    assert over_training.title == "Over training: a" and over_training.columns == ["step 10", "step 20"]
    assert [[cell and cell.clip.step for cell in row] for *_, row in over_training.rows] == [[10, 20], [10, 20]]
    verdicts = {cell.clip.wrong for *_, row in samples.rows for cell in row if cell is not None}
    assert verdicts == {None, (), ("shape bar",)}


def test_a_video_that_is_none_is_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", losses(0))
    spoiled, good = make_previews(run, 10)
    spoiled.write_bytes(b"not a video")
    said: list[str] = []
    made = report(run, said=said)
    assert len(said) == 1 and f"{spoiled} is no video" in said[0]
    assert [cell.clip.file for *_, row in made.walls[0].rows for cell in row if cell] == [good]
