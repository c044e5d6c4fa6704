"""Checkpoints x suites: what is measured is written, what cannot be is a line, what was begun is gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dit.entry import explain
from dit.evaluation.harness import work as of_work
from dit.evaluation.harness.result import Result, Score, as_report
from dit.evaluation.harness.run import Outcome, evaluate
from dit.evaluation.harness.subject import Subject, subjects
from dit.evaluation.harness.table import brief, protocol, table
from dit.evaluation.harness.work import Findings, Work
from dit.evaluation.suites.base import Suite
from dit.evaluation.suites.floors import FROZEN, NOISE, OTHERS
from dit.evaluation.suites.world import WorldSuite
from dit.media.samples import SampleSet
from dit.sampling.ranks import Ranks
from dit.sampling.request import Request
from dit.scores import Measure
from tests.evaluation.checkpoints import make_run, sampler, subject

ALONE = Ranks(0, 1)


class Brightness(Suite):
    """Samples, and how bright they are."""

    title = "brightness"

    def __init__(self, count: int = 5) -> None:
        self.count = count
        self.looked: list[int] = []

    def check(self, subject: Subject) -> None:
        if subject.checkpoint.value("data", "val") is None:
            raise ValueError(f"{subject.checkpoint.file} was validated on nothing")

    def measure(self, subject: Subject, work: Work) -> Result:
        def look(index: int, clip: torch.Tensor) -> float:
            self.looked.append(index)
            return clip.mean().item()

        made = work.samples([Request("a red circle moves right", "", seed) for seed in range(self.count)], look)
        mean = sum(made.found) / len(made.found)
        kinds = {"bright": Measure("brightness"), "all": Measure("all right", "share", True)}
        rows = {
            "samples": {"bright": Score(mean, mean - 1, mean + 1), "all": Score(0.5)},
            "black": {"bright": Score(-1)},
        }
        return Result(made.folder, rows, kinds, {"clips": self.count, **made.settings}, said=["one line"])


class Fails(Suite):
    title = "what fails"

    def check(self, subject: Subject) -> None:
        return

    def measure(self, subject: Subject, work: Work) -> Result:
        raise RuntimeError("a bug of ours")


def run(ckpt: str | Path, out: Path | None = None, **suites: Suite) -> tuple[Outcome, list[str], list[str]]:
    said: list[str] = []
    warned: list[str] = []
    ask = {"ckpt": str(ckpt), "suite": suites, "out": None if out is None else str(out), **vars(sampler())}
    return evaluate(ask, ALONE, explain, said.append, warned.append), said, warned


def test_one_checkpoint_leaves_its_report_and_a_summary(tmp_path: Path) -> None:
    mine = make_run(tmp_path / "mine")
    outcome, said, warned = run(mine, bright=Brightness(3))
    assert outcome == Outcome(1, [mine / "evaluation.md", mine / "evaluation.json"], []) and not warned
    report = json.loads((mine / "samples" / "001" / "report.json").read_text())
    assert report["suite"] == "bright" and report["checkpoint"]["step"] == 7
    assert report["checkpoint"]["weights"] == "raw" and report["settings"]["num_steps"] == 1
    assert report["intervals"]["samples"]["bright"][0] == pytest.approx(report["metrics"]["samples"]["bright"] - 1)
    assert "all" not in report["intervals"]["samples"] and report["metrics"]["black"] == {"bright": -1}
    assert len(list((mine / "samples" / "001").glob("*.mp4"))) == 3
    summary = json.loads((mine / "evaluation.json").read_text())
    assert summary["suites"]["bright"][0]["metrics"] == report["metrics"] and summary["failed"] == []
    markdown = (mine / "evaluation.md").read_text()
    assert "## brightness" in markdown and "| samples" in markdown and "clips 3; " in markdown
    assert said[0] == "one line" and "| black" in said[-1] and "50.0" in said[-1]


def test_killed_it_goes_on_where_it_was_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed behind the first batch, with half a line written: what is there is not sampled again."""
    whole = make_run(tmp_path / "whole")
    run(whole, bright=Brightness())
    mine, suite, written = make_run(tmp_path / "mine"), Brightness(), 0
    write = SampleSet.write

    class Killed(BaseException):
        pass

    def dying(self: SampleSet, index: int, clip: torch.Tensor) -> Path:
        nonlocal written
        written += 1
        if written == 4:
            raise Killed
        return write(self, index, clip)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(SampleSet, "write", dying)
        run(mine, bright=suite)
    assert suite.looked == [0, 1, 2, 3]  # the fourth was looked at, and is not there
    found = mine / "samples" / "001" / "found.jsonl"
    with found.open("a") as opened:
        opened.write("[4, 0.")
    again = Brightness()
    run(mine, bright=again)
    assert again.looked == [2, 3, 4]  # batches of two: the one that was whole is left alone
    assert [entry.name for entry in (mine / "samples").iterdir()] == ["001"]
    reports = [json.loads((each / "samples" / "001" / "report.json").read_text()) for each in (whole, mine)]
    assert reports[0]["metrics"] == reports[1]["metrics"]
    videos = [{file.name: file.read_bytes() for file in (each / "samples/001").glob("*.mp4")} for each in (whole, mine)]
    assert videos[0].keys() == videos[1].keys() and len(videos[0]) == 5
    last = Brightness()
    run(mine, bright=last)
    assert last.looked == []
    found.unlink()  # samples that nobody has looked at are made once more
    run(mine, bright=last)
    assert last.looked == [0, 1, 2, 3, 4]


def test_what_decides_the_findings_has_a_folder_of_its_own(tmp_path: Path) -> None:
    mine = make_run(tmp_path / "mine")
    run(mine, bright=Brightness(1))
    run(mine, bright=Brightness(2))
    run(mine, other=Brightness(1))  # another suite with the same requests
    changed = Brightness(1)
    changed.version = 2  # type: ignore[misc]
    run(mine, bright=changed)
    assert len(changed.looked) == 1
    content = torch.load(mine / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**content, "global_step": 8}, mine / "checkpoints" / "last.ckpt")  # trained on
    run(mine, bright=Brightness(1))
    assert sorted(entry.name for entry in (mine / "samples").iterdir()) == ["001", "002", "003", "004", "005"]


def test_of_several_one_that_fails_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = make_run(tmp_path / "runs" / "good"), tmp_path / "runs" / "bad"
    (bad / "checkpoints").mkdir(parents=True)
    (bad / "checkpoints" / "last.ckpt").write_bytes(b"none")
    (bad / "config.yaml").write_text("name: bad\n")
    outcome, said, warned = run(tmp_path / "runs", bright=Brightness(1), fails=Fails())
    assert outcome.measured == 1 and outcome.failed == warned and len(warned) == 3
    assert warned[0].startswith("bad, bright: ") and "cannot be read as a checkpoint" in warned[0]
    assert warned[2] == "good, fails: RuntimeError, see its traceback above"
    assert "a bug of ours" in capsys.readouterr().err
    assert outcome.written == [good / "evaluation.md", good / "evaluation.json"]
    assert "Not measured" in (good / "evaluation.md").read_text()
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):  # alone it is the error of the command
        run(bad, bright=Brightness(1))
    nothing, _, _ = run(bad, bright=Brightness(1), other=Brightness(1))
    assert nothing.measured == 0 and nothing.written == [] and len(nothing.failed) == 2


def test_several_stand_in_one_table(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / "runs" / name)
    outcome, said, _ = run(f"[{tmp_path}/runs/a,{tmp_path}/runs/b]", bright=Brightness(1))
    assert outcome.written[0] == tmp_path / "runs" / "evaluation.md"
    lines = said[-1].splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:] == [
        "a: samples",
        "b: samples",
        "black",
    ]
    out = tmp_path / "out"
    run(f"{tmp_path}/runs/*", out, bright=Brightness(1), more=Brightness(2))
    assert (out / "a" / "bright" / "report.json").is_file() and (out / "b" / "more" / "report.json").is_file()
    assert (out / "evaluation.json").is_file()
    run(tmp_path / "runs" / "a", tmp_path / "alone", bright=Brightness(1))
    assert (tmp_path / "alone" / "report.json").is_file() and (tmp_path / "alone" / "evaluation.md").is_file()


def test_which_checkpoints_are_named(tmp_path: Path) -> None:
    for name in ("width.96", "width.384", "sub/one"):
        make_run(tmp_path / "runs" / name)
    own = sampler()
    runs = tmp_path / "runs"
    assert [each.name for each in subjects(str(runs), own)] == ["one", "width.96", "width.384"]
    assert [each.path for each in subjects(str(runs / "width.96"), own)] == [runs / "width.96"]
    assert [each.name for each in subjects(f"{runs}/width.*", own)] == ["width.96", "width.384"]
    assert [each.name for each in subjects(f"[{runs}/width.384, {runs}/sub/one]", own)] == ["width.384", "one"]
    file = runs / "width.96" / "checkpoints" / "last.ckpt"
    assert [each.name for each in subjects(f'["{file}"]', own)] == ["last.ckpt"]
    two = [each.name for each in subjects(f"{runs}/width.*/checkpoints/last.ckpt", own)]
    assert two == ["width.96/last.ckpt", "width.384/last.ckpt"]
    with pytest.raises(FileNotFoundError, match="matches nothing"):
        subjects(f"{tmp_path}/x*", own)
    with pytest.raises(FileNotFoundError, match="names no checkpoint"):
        subjects("[]", own)


def test_findings_survive_a_kill(tmp_path: Path) -> None:
    mine, ranks = subject(make_run(tmp_path / "mine")), []

    def find(numbers: Sequence[int]) -> Iterator[Any]:
        for number in numbers:
            ranks.append(number)
            if number == 3 and ranks.count(3) == 1:
                raise KeyboardInterrupt
            yield {"number": number}

    work = Work(mine, "each", 1, None, ALONE)
    with pytest.raises(KeyboardInterrupt):
        work.each({"levels": 2}, 5, 2, find)
    found = work.each({"levels": 2}, 5, 2, find)
    assert found.found == [{"number": number} for number in range(5)] and ranks == [0, 1, 2, 3, 2, 3, 4]
    assert found.folder == mine.path / "evaluation" / "001"
    assert work.each({"levels": 3}, 1, 2, find).folder == mine.path / "evaluation" / "002"


def test_ranks_share_the_work_and_read_all_of_it(tmp_path: Path) -> None:
    with Findings(tmp_path, Ranks(0, 2)) as first, Findings(tmp_path, Ranks(1, 2)) as second:
        first.add(0, "a")
        second.add(1, "b")
        assert 1 not in first
    assert of_work.read(tmp_path) == {0: "a", 1: "b"}
    with Findings(tmp_path, Ranks(0, 3)) as first:
        assert 1 in first  # also when it goes on with another number of ranks
    for damage in ("[0, \n", "3\n", "[1]\n"):
        (tmp_path / "found.jsonl").write_text(damage)
        with pytest.raises(ValueError, match=r"found.jsonl is damaged at '.*': delete it"):
            of_work.read(tmp_path)


def test_a_table_says_what_cannot_be_compared() -> None:
    def report(mean: float, steps: int) -> dict[str, Any]:
        rows = {"samples": {"x": Score(mean, 0.1, 0.9)}, "real": {"x": Score(1.0)}}
        node = {"_target_": "dit.sampling.solvers.Heun", "order": 2}
        settings = {"steps": steps, "solver": node, "device": f"gpu {steps}"}
        return as_report("s", "t", {}, Result(Path(), rows, {"x": Measure("x", "share", True)}, settings))

    alike = [("a", report(0.25, 5)), ("b", report(0.5, 5))]
    assert protocol(alike) == ["steps 5; solver Heun(order=2)"]
    assert table(alike).splitlines()[2] == "| a: samples | 25.0 [10, 90] |"
    assert len(table(alike).splitlines()) == 5
    other = protocol([("a", report(0.25, 5)), ("b", report(0.5, 6))])
    assert other[1] == "b was not measured as a, so the two cannot be compared: steps 6 in place of 5"
    assert table([("a", report(float("nan"), 5))]).splitlines()[2] == "| samples |     - |"
    assert brief({"a": [1, None]}) == "{a=[1, none]}"


def test_a_number_has_as_many_digits_as_its_interval_tells() -> None:
    def cell(value: float, low: float | None, high: float | None) -> str:
        row = {"samples": {"x": Score(value, low, high)}}
        made = as_report("s", "t", {}, Result(Path(), row, {"x": Measure("x", "px")}, {}))
        return table([("a", made)]).splitlines()[2].split("|")[2].strip()

    assert cell(0.0548312, 0.0204112, 0.0892512) == "0.055 [0.020, 0.089]"
    assert cell(123.456, 100.2, 146.7) == "123 [100, 147]" and cell(0.5, 0.5, 0.5) == "0.500 [0.500, 0.500]"
    assert cell(0.1234567, None, None) == "0.1235" and cell(-1e-6, -4e-4, 4e-4) == "0.00000 [-0.00040, 0.00040]"


def test_the_world_suite_measures_the_demo(tmp_path: Path) -> None:
    mine = make_run(tmp_path / "mine")
    outcome, said, _ = run(mine, world=WorldSuite(num_prompts=2, seed=1000, sheet_clips=2))
    made = json.loads((mine / "samples" / "001" / "report.json").read_text())
    found = made["metrics"]
    assert list(found) == ["samples (raw)", "real clips (ceiling)", OTHERS, FROZEN, NOISE]
    assert made["settings"]["split"] == "heldout" and found["real clips (ceiling)"]["all"] == 1.0
    assert found[FROZEN]["direction"] == 0.0 and found[FROZEN]["shape"] == 1.0
    assert found[OTHERS]["all"] == found[NOISE]["all"] == found[NOISE]["permanence"] == found[NOISE]["shape"] == 0.0
    assert [clip["seed"] for clip in made["clips"]["samples (raw)"]] == [1000, 1001]
    assert (mine / "samples" / "001" / "sheet.png").is_file() and "contact sheet: " in said[0]
    again, _, _ = run(mine, world=WorldSuite(num_prompts=2, seed=1000, sheet_clips=2))
    assert json.loads((mine / "samples" / "001" / "report.json").read_text()) == made
