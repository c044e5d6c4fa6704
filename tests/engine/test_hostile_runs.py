"""Run directories of strangers: what a run takes out of its own config.yaml when it goes on is data, too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from dit.config.build import build
from dit.engine import history, initial, published, resume, rundir
from dit.engine.run import train
from dit.foreign import Refused
from dit.media.files import atomic
from dit.runfiles import CONFIG, DETAILS, HISTORY, METRICS, SAMPLES, check_links
from dit.sampling.request import REQUEST, take_folder
from scripts import ablate
from tests.engine.runs import changed, config, found, leave_checkpoint
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


# -- links: what is written into the run would land where they lead

BASE = config("trainer.max_steps=100", "lr_schedule=constant")
FILES = (
    *(HISTORY, history.LOG, METRICS, DETAILS, CONFIG, rundir.PART, initial.REPORT, "metrics.damaged.csv"),
    *("data_card.json", "wandb_id", "checkpoints/due.part", "checkpoints/step-00000060.part", "checkpoints/last.part"),
    *(".metrics.csv.4711.part", "samples/step-00000060/.a.mp4.4711.part", "a/file/of/their/own.txt"),
)
FOLDERS = (
    *("checkpoints", "ema", SAMPLES, rundir.ASIDE, "tensorboard", "wandb", "samples/step-00000060", "ema/step-1.ckpt"),
    "checkpoints/step-00000090.ckpt",
)


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, beside a file and a folder of ours that its links may lead to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/file.txt").write_text("precious\n")
    leave_checkpoint(Path("runs/mine"), BASE, 30)
    return Path("runs/mine")


def ours() -> dict[str, str]:
    return {str(each): each.read_text() for each in Path("ours").rglob("*") if each.is_file()}


def link(run: Path, name: str, goal: Path) -> None:
    place = run / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(goal)


@pytest.mark.parametrize(
    ("name", "goal"),
    [(name, goal) for name in FILES for goal in ("file.txt", "gone.txt")] + [(name, "") for name in FOLDERS],
)
def test_a_run_with_a_link_out_of_it_does_not_go_on(theirs: Path, name: str, goal: str) -> None:
    link(theirs, name, Path("ours", goal).absolute())
    with watched() as seen, pytest.raises(ValueError) as caught:
        found(theirs, BASE)
    said = str(caught.value)
    assert (
        not seen and "\n" not in said and said.startswith(f"{theirs / name} is a link that leads out of {theirs}, to")
    )
    assert f"{Path('ours', goal).absolute()}, " in said and "put what it leads to in its place" in said


@pytest.mark.parametrize("name", [HISTORY, history.LOG, METRICS, rundir.LOCK])
def test_training_writes_through_no_link(theirs: Path, name: str) -> None:
    """The whole command: a run that is gone on with, and one that holds nothing but the link."""
    link(theirs, name, Path("ours/file.txt").absolute())
    (Path("runs/new")).mkdir()
    link(Path("runs/new"), name if name == rundir.LOCK else rundir.PART, Path("ours/file.txt").absolute())
    for run in ("mine", "new"):
        asked = changed(config("trainer.max_steps=31", "trainer.accelerator=cpu", "preview=none"), "name", run)
        with pytest.raises(ValueError, match=rf"^runs/{run}/\S+ is a link"):
            train(asked)
    assert ours() == {"ours/file.txt": "precious\n"}


def test_links_that_may_be(theirs: Path, tmp_path: Path) -> None:
    """Of the user's own: runs/ and the run on other disks, links within the run, and to weights that are only read."""
    leave_checkpoint(theirs, BASE, 60)
    shutil.move("runs/mine", "ours/run")
    shutil.move("runs", "ours/runs")
    Path("runs").symlink_to("ours/runs")
    Path("runs/mine").symlink_to(tmp_path / "ours/run")
    link(theirs, "checkpoints/last.ckpt", Path("step-00000060.ckpt"))
    link(theirs, "samples", tmp_path / "ours/run/set_aside")
    link(theirs, "notes", tmp_path / "runs/mine/gone")
    shutil.move("ours/run/checkpoints/step-00000030.ckpt", "ours/kept.ckpt")
    link(theirs, "checkpoints/step-00000030.ckpt", tmp_path / "ours/kept.ckpt")
    link(theirs, "wandb/run-1/logs/debug-core.log", tmp_path / "ours/file.txt")  # which wandb itself makes
    before = Path("ours/kept.ckpt").read_bytes()
    asked = {**BASE, "resume_from": 30}
    for _ in range(2):
        start = found(theirs, asked)
        assert start.step == 30
        resume.take(theirs, start, asked)
    assert Path("ours/kept.ckpt").read_bytes() == before and Path("ours/file.txt").read_text() == "precious\n"


def test_samples_go_through_no_link(theirs: Path) -> None:
    """What sample.py and evaluate.py write beside a stranger's run, and where they go on."""
    assert take_folder(None, str(theirs), [{"seed": 1}]) == theirs / "samples/001"
    assert take_folder(None, str(theirs), [{"seed": 1}], mark="a") == theirs / "samples/002"
    link(theirs, "samples/002/found.jsonl", Path("ours/file.txt").absolute())
    for out in (None, str(theirs / "samples/002")):
        with pytest.raises(ValueError, match=r"found.jsonl is a link that leads out of"):
            take_folder(out, str(theirs), [{"seed": 1}], mark="a")
    for place in ("samples", "evaluation"):
        link(theirs, place, Path("ours").absolute())
        with pytest.raises(ValueError, match=rf"{place} is a link that leads out of {theirs}"):
            take_folder(None, str(theirs), [{"seed": 1}], under=place)
    assert ours() == {"ours/file.txt": "precious\n"} and not (theirs / "samples" / REQUEST).exists()


@pytest.mark.parametrize("part", ["logs", "logs/rope3d-seed.0.txt", "multirun.yaml"])
def test_an_ablation_goes_through_no_link(theirs: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("runs/cells")
    link(folder, part, Path("ours/file.txt").absolute())
    (folder / "plan.json").write_text("{}")
    monkeypatch.setattr(ablate, "planned", lambda *_: SimpleNamespace(folder=folder))
    monkeypatch.setattr(ablate, "described", lambda plan: [])
    with pytest.raises(ValueError, match=rf"^runs/cells/{part} is a link that leads out of runs/cells, to"):
        ablate.main(["experiment=demo", "vary=net/position=rope3d,sincos", "seeds=2", "budget=2e13", "name=cells"])
    assert ours() == {"ours/file.txt": "precious\n"} and not (folder / rundir.LOCK).exists()


def test_a_file_that_is_written_whole_goes_through_no_link(theirs: Path) -> None:
    """As the page of a report beside a stranger's run: the name that it has until it is whole can be guessed."""
    link(theirs, f".report.html.{os.getpid()}.part", Path("ours/file.txt").absolute())
    with atomic(theirs / "report.html") as part:
        part.write_text("a page")
    assert (theirs / "report.html").read_text() == "a page" and ours() == {"ours/file.txt": "precious\n"}


def test_a_link_that_leads_back_in(theirs: Path) -> None:
    link(theirs, "round", Path("..") / ".." / "runs" / "mine" / "checkpoints")
    link(theirs, "self", Path("."))
    link(theirs, "loop", Path("loop"))
    check_links(theirs)
    link(theirs, "samples", Path("../mine-too"))
    with pytest.raises(ValueError, match=r"samples is a link that leads out of runs/mine, to ../mine-too,"):
        check_links(theirs)
