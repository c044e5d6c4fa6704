"""Runs of an ablation in processes: killed, interrupted and failing ones, and what an ablation comes to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dit.locks import lock
from scripts import ablate
from scripts.ablation import launching, local
from scripts.ablation.local import Local, environment, is_trained, todo
from scripts.ablation.plan import Plan
from tests.scripts.fake_training import STEPS, make_root, plan

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds for something that takes one


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-ins' root; the present folder is one to run in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return make_root(tmp_path / "root")


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)


def started(root: Path, at_once: int = 1) -> subprocess.Popen[str]:
    """The same in a process that can be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.scripts.fake_training", str(root), str(at_once)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def starts(label: str) -> list[str]:
    """The step at which each process of a run began."""
    return [line.split()[0] for line in Path("runs/compared", label, "starts").read_text().splitlines()]


def steps(label: str) -> list[str]:
    """Of the rows of its table."""
    return [line.split(",")[0] for line in Path("runs/compared", label, "metrics.csv").read_text().splitlines()[1:]]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_ablation_goes_on_and_loses_nothing(root: Path, number: signal.Signals) -> None:
    """The first run is finished, the second in the middle: it saves, and the same command goes on there."""
    Path("wait-wide-seed.0").touch()
    first = started(root)
    until(lambda: Path("waits-wide-seed.0").exists() and Path("waits-wide-seed.0").read_text() != "")
    trainer = int(Path("waits-wide-seed.0").read_text())
    first.send_signal(number)
    said, _ = first.communicate(timeout=PATIENCE)
    until(lambda: is_gone(trainer))
    assert first.returncode == (-9 if number == signal.SIGKILL else 130), said
    assert steps("base-seed.0") == ["1", "2", "3", "4"] and steps("wide-seed.0") == ["1", "2"]
    assert not Path("runs/compared/base-seed.1").exists()
    Path("wait-wide-seed.0").unlink()
    again = started(root)
    assert again.wait(PATIENCE) == 0
    assert starts("base-seed.0") == ["0"] and starts("wide-seed.0") == ["0", "2"]
    assert all(is_trained(cell) for cell in plan().cells)
    assert all(steps(cell.label) == ["1", "2", "3", "4"] for cell in plan().cells)


def test_a_failing_run_is_listed_and_ends_no_other(root: Path) -> None:
    Path("fail-base-seed.0").touch()
    said: list[str] = []
    failures = Local(2, root, said.append).run(plan().cells)
    assert [str(each) for each in failures] == [
        "base-seed.0 failed: it failed at step 3 (runs/compared/logs/base-seed.0.txt)"
    ]
    assert sum(is_trained(cell) for cell in plan().cells) == 3 and str(failures[0]) in said
    Path("fail-base-seed.0").unlink()
    assert not Local(2, root, said.append).run(plan().cells)
    assert starts("base-seed.0") == ["0", "3"] and starts("wide-seed.1") == ["0"]
    assert not [each for cell in plan().cells for each in todo(cell)]


def test_runs_at_once_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((6.0, "3"), (3.0, "1"), (0.5, "1")):
        monkeypatch.setattr(local, "cores", lambda cores=cores: cores)
        told = environment(1, 2, 0, 0, {})
        assert told["OMP_NUM_THREADS"] == told["MKL_NUM_THREADS"] == threads
    assert "OMP_NUM_THREADS" not in environment(0, 1, 0, 0, {})  # alone: torch's own choice
    kept = environment(0, 2, 0, 0, {"OMP_NUM_THREADS": "3"})
    assert kept["OMP_NUM_THREADS"] == "3" and "MKL_NUM_THREADS" not in kept
    of = [environment(place, 4, 2, 4, {})["CUDA_VISIBLE_DEVICES"] for place in range(4)]
    assert of == ["0,1", "2,3", "0,1", "2,3"]
    assert environment(1, 2, 1, 2, {"CUDA_VISIBLE_DEVICES": "5,7"})["CUDA_VISIBLE_DEVICES"] == "7"


def ablated(root: Path, monkeypatch: pytest.MonkeyPatch, made: Plan, *more: str) -> int:
    """scripts/ablate.py with the stand-ins and a plan that is made already."""
    monkeypatch.setattr(ablate, "ROOT", root)
    monkeypatch.setattr(ablate, "planned", lambda request, command: made)
    return ablate.main(["vary=net.width=8,16", "budget=1e9", *more])


def test_the_table_at_the_end(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(seeds=3, evaluate=True)
    assert ablated(root, monkeypatch, made, "jobs=2") == 0
    out = capsys.readouterr().out
    table = [line.split() for line in out.partition("val/x0_error, lower is better")[2].splitlines()[1:4]]
    assert table[0][:3] == ["variant", "runs", "mean"]
    assert table[1][:3] == ["base", "3", "0.2600"] and "baseline" in table[1]
    assert table[2][0] == "wide" and "better" in table[2] and "400FLOP" in "".join(table[2])
    assert "budget: 400 FLOPs a run; by metrics.csv the runs took +0.00 % to +0.00 % beside it" in out
    assert "did not take" not in out
    folder = Path("runs/compared")
    kept = json.loads((folder / "results.json").read_text())
    assert [each["values"]["val/x0_error"] for each in kept["runs"]][:2] == pytest.approx([0.25, 0.05])
    wide = kept["comparison"]["rows"]["val/x0_error"]["wide"]
    assert wide["verdict"] == "better" and wide["difference"]["mean"] == pytest.approx(-0.1998) and wide["p"] < 0.001
    assert wide["corrected"] == wide["p"]  # one comparison in its family
    shape = kept["comparison"]["rows"]["world/shape"]["wide"]
    assert shape["p"] == 0.25 and shape["verdict"] == "not told apart"  # three equal differences
    assert kept["failed"] == [] and kept["versions"]["commit"] == "0123456789abcdef"
    said = (folder / "results.md").read_text()
    assert "## val/x0_error, lower is better" in said and "name=compared/wide-seed.2 seed=2" in said
    page = (folder / "report.html").read_text()
    assert "<h2>Variants</h2>" in page and "val/x0_error, lower is better" in page
    assert (folder / "plan.json").is_file()


def test_what_is_missing_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest still gets its table, of the pairs that there are."""
    Path("fail-wide-seed.1").touch()
    assert ablated(root, monkeypatch, plan(seeds=3)) == 1
    said = capsys.readouterr()
    assert "error: 1 runs failed; the same command tries them again:" in said.err
    assert "wide-seed.1 failed: it failed at step 3" in said.err
    assert "note: wide-seed.1 is missing" in said.out and "not told apart" not in said.out.splitlines()[0]
    kept = json.loads(Path("runs/compared/results.json").read_text())
    row = kept["comparison"]["rows"]["val/x0_error"]
    assert row["base"]["mean"]["count"] == 3 and row["wide"]["difference"]["count"] == 2
    assert kept["failed"][0]["run"] == "wide-seed.1"


def test_a_run_that_missed_its_budget_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = plan()
    base, wide = made.variants
    dearer = replace(wide, flops=125.0)  # a step than it was
    assert ablated(root, monkeypatch, replace(made, variants=(base, dearer), each=500.0)) == 0
    out = capsys.readouterr().out
    assert "budget: 500 FLOPs a run; by metrics.csv the runs took -20.00 % to -20.00 % beside it" in out
    assert "wide-seed.0 did not take the 500 FLOPs that were planned: -20.0 %" in out and "base-seed.0 did" not in out


def test_one_at_a_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan()
    with lock(made.folder, "held"), pytest.raises(ValueError, match="runs/compared is being run by another process"):
        made.write()
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        ablated(root, monkeypatch, made)


def test_a_folder_of_something_else_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs/compared").mkdir(parents=True)
    Path("runs/compared/thesis.txt").write_text("do not lose")
    with pytest.raises(ValueError, match="runs/compared is there and no ablation"):
        ablated(root, monkeypatch, plan())
    assert [each.name for each in Path("runs/compared").iterdir()] == ["thesis.txt"]


def test_commands_for_a_launcher(root: Path) -> None:
    """A sweep over the seeds that are left, a variant each; Hydra names its jobs as the plan does."""
    made = plan(seeds=3, evaluate=True, launcher="submitit_slurm")
    sweep = ["train.py", "-m", "hydra/launcher=submitit_slurm", "hydra.sweep.dir=runs/compared", "experiment=demo"]
    assert [command for _, command in launching.trainings(made)] == [
        [*sweep, f"trainer.max_steps={STEPS}", "name=compared/base", "seed=0,1,2"],
        [*sweep, "net.width=16", f"trainer.max_steps={STEPS}", "name=compared/wide", "seed=0,1,2"],
    ]
    assert launching.evaluations(made) == []  # nothing is trained
    Local(1, root, lambda line: None).run(plan(seeds=2).cells)
    left = [command[-2:] for _, command in launching.trainings(made)]
    assert left == [["name=compared/base-seed.2", "seed=2"], ["name=compared/wide-seed.2", "seed=2"]]
    (of_all,) = launching.evaluations(made)
    folders = [f"runs/compared/{label}-seed.{seed}" for seed in (0, 1) for label in ("base", "wide")]
    assert of_all[1][-1] == f"ckpt=choice({','.join(folders)})"


LAUNCHER = """
import subprocess, sys
jobs = [each for each in sys.argv[1:] if each.startswith("seed=")][0][5:].split(",")
own = [each for each in sys.argv[1:] if not each.startswith(("-m", "seed=", "name=", "hydra"))]
name = [each for each in sys.argv[1:] if each.startswith("name=")][0]
codes = [
    subprocess.call([sys.executable, sys.argv[0].replace("train", "job"), *own, f"{name}-seed.{job}", f"seed={job}"])
    for job in jobs
]
sys.exit(max(codes))
"""


def test_a_launcher_submits_waits_and_lists_failures(root: Path) -> None:
    """With a stand-in for Hydra's sweep, which runs one job after another."""
    (root / "train.py").rename(root / "job.py")
    (root / "train.py").write_text(LAUNCHER)
    Path("fail-base-seed.1").touch()
    said: list[str] = []
    failures = launching.submit(plan(launcher="submitit_slurm"), root, said.append)
    assert said[0].startswith("2 jobs by submitit_slurm: base-seed.0, base-seed.1")
    assert [(each.cell.label, each.what) for each in failures] == [("base-seed.1", "failed")]
    assert str(failures[0]).endswith("it failed at step 3 (runs/compared/logs/submitted-train-base.txt)")
    assert sum(is_trained(cell) for cell in plan().cells) == 3


def test_a_launcher_without_its_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="launcher=submitit_slurm needs a plug-in .* requirements-slurm.txt"):
        launching.check("submitit_slurm")
    launching.check("joblib")  # whatever else Hydra finds
