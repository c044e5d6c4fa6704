"""Callbacks out of the config: what they are given, the order in which they act, and one of a researcher's own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
import pytest
from lightning import Callback
from omegaconf import OmegaConf

from dit import entry
from dit.config.flat import lies_in
from dit.config.kinds import fitted
from dit.engine import run, rundir
from dit.engine.callbacks.after_step import AfterStep, Task
from dit.engine.callbacks.assemble import assemble
from dit.engine.callbacks.place import Place
from dit.engine.callbacks.validation import Validation
from dit.engine.config import Config

TINY = (
    "experiment=demo", "name=own", "net.depth=1", "net.width=32", "net.heads=2", "net.text_width=16", "text.width=16",
    "text.depth=1", "text.heads=2", "trainer.accelerator=cpu",
)  # fmt: skip


class Looks(Callback):
    """A researcher's: needs the metrics and the folder of the run."""

    def __init__(self, metrics: Any, folder: Path, *, every: int) -> None:
        self.metrics, self.folder, self.every = metrics, folder, every


class Before(Callback):
    """It acts before what it needs."""

    place = Place.FIRST

    def __init__(self, metrics: Any) -> None:
        self.metrics = metrics


class Odd(Task):
    def __init__(self, ema: Any, *, every: int | None) -> None:
        self.name, self.ema, self.every = "odd", ema, every


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("own_callbacks")
    for each in (Looks, Before, Odd):
        setattr(module, each.__name__, each)
    monkeypatch.setitem(sys.modules, "own_callbacks", module)


def config(tmp_path: Path, *overrides: str, own: str = "") -> dict[str, Any]:
    """The composed config, with `own` as a file of the group `callbacks` in a folder of the researcher's."""
    folder = tmp_path / "own" / "callbacks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.yaml").write_text(own)
    with hydra.initialize_config_dir(str(entry.CONFIGS), version_base="1.3"):
        given = [*TINY, f"hydra.searchpath=[file://{tmp_path}/own]", *overrides]
        plain: Any = OmegaConf.to_container(hydra.compose("train", given), resolve=True)
    return fitted(plain, Config)


def names(callbacks: list[Callback]) -> list[str]:
    return [type(each).__name__ for each in callbacks]


def test_the_order_is_that_of_the_places(tmp_path: Path) -> None:
    """Average, guard, random state, numbers; then save, validate and preview; then show. Whatever the YAML's order."""
    wanted = ["EMA", "GradientGuard", "Randomness", "Metrics", "AfterStep", "Progress"]
    plain = config(tmp_path)
    for nodes in (plain["callbacks"], dict(reversed(plain["callbacks"].items()))):
        everyone = run.callbacks(run.build({**plain, "callbacks": nodes}))
        assert set(names(everyone)) == set(wanted)
        places = [each.place if hasattr(each, "place") else Place.STEP for each in everyone]
        assert places == sorted(places)
        (after_step,) = (each for each in everyone if isinstance(each, AfterStep))
        assert [task.name for task in after_step.tasks] == ["validation", "preview"]
    assert names(run.callbacks(run.build(plain))) == wanted
    everyone = run.callbacks(run.build(config(tmp_path, "preview=none")))
    assert [task.name for task in everyone[-2].tasks] == ["validation"]  # type: ignore[attr-defined]


def test_a_researcher_adds_one_with_a_file(tmp_path: Path) -> None:
    own = """
looks: {_target_: own_callbacks.Looks, _partial_: true, every: 3}
before: {_target_: own_callbacks.Before, _partial_: true}
odd: {_target_: own_callbacks.Odd, _partial_: true, every: 7}
"""
    asked = config(
        tmp_path, "callbacks=[default,mine]", "callbacks.looks.every=5", "callbacks.metrics.every=2", own=own
    )
    everyone = run.callbacks(parts := run.build(asked))
    wanted = ["Before", "EMA", "GradientGuard", "Randomness", "Metrics", "Looks", "AfterStep", "Progress"]
    assert names(everyone) == wanted
    by_name = dict(zip(wanted, everyone, strict=True))
    assert by_name["Before"].metrics is by_name["Metrics"]  # type: ignore[attr-defined]
    looks: Any = by_name["Looks"]
    assert looks.metrics is by_name["Metrics"] and looks.folder == parts.run and looks.every == 5
    tasks = by_name["AfterStep"].tasks  # type: ignore[attr-defined]
    assert [task.name for task in tasks] == ["validation", "odd", "preview"]
    assert tasks[1].ema is by_name["EMA"] and tasks[0].metrics is by_name["Metrics"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    plain = config(tmp_path)
    for taken, said in {
        "metrics": r"callbacks.validation needs metrics, which is not there; there are module, data, .*ema, .*tasks",
        "guard": "callbacks.metrics needs guard, which is not there",
        "after_step": "callbacks.after_step is not there: without it nothing would be saved",
    }.items():
        nodes = {**plain["callbacks"], taken: None}  # `callbacks.metrics=null`
        with pytest.raises(ValueError, match=said):
            run.callbacks(run.build({**plain, "callbacks": nodes}))
    everyone = run.callbacks(run.build({**plain, "callbacks": {**plain["callbacks"], "progress": None}}))
    assert names(everyone)[-1] == "AfterStep"


@pytest.mark.parametrize("value", ["callbacks.metrics=3", "callbacks.guard=x", "+callbacks.mine=x"])
def test_a_value_that_is_no_callback_is_one_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(ValueError, match=r"callbacks\.\w+=.* is not a part with a _target_"):
        config(tmp_path, value)


def test_things_of_the_run_are_made_once_and_only_if_needed() -> None:
    made: list[str] = []

    def of_the_run(name: str) -> Any:
        made.append(name)
        return object()

    node = {"_target_": f"{__name__}.Both", "_partial_": True}
    found = assemble({"a": node, "b": node}, {name: lambda name=name: of_the_run(name) for name in ("x", "y")})  # type: ignore[misc]
    assert made == ["x"] and found["a"].x is found["b"].x


class Both:
    def __init__(self, x: Any) -> None:
        self.x = x


def test_two_that_need_each_other() -> None:
    nodes = {
        "x": {"_target_": f"{__name__}.NeedsY", "_partial_": True},
        "y": {"_target_": f"{__name__}.Both", "_partial_": True},
    }
    with pytest.raises(ValueError, match="callbacks x and y need each other"):
        assemble(nodes, {})


class NeedsY:
    def __init__(self, y: Any) -> None:
        self.y = y


def test_a_task_is_checked_before_the_first_step(tmp_path: Path) -> None:
    class Refuses(Validation):
        def check(self) -> None:
            raise ValueError("it could never be made")

    setattr(sys.modules["own_callbacks"], "Refuses", Refuses)  # noqa: B010
    asked = config(tmp_path, "callbacks.validation._target_=own_callbacks.Refuses")
    with pytest.raises(ValueError, match="it could never be made"):
        run.callbacks(run.build(asked))
    assert not Path("runs").exists()


def test_own_callbacks_are_compared_when_a_run_goes_on_and_those_of_the_house_are_not(tmp_path: Path) -> None:
    now = config(tmp_path)
    old = {name: now["callbacks"][name] for name in ("metrics", "validation", "checkpoints", "progress")}
    before = {**now, "callbacks": old}  # as runs were written before
    assert rundir.differences(before, now) == []
    own = "before: {_target_: own_callbacks.Before, _partial_: true}\n"
    more = config(tmp_path, "callbacks=[default,mine]", own=own)
    assert [key for key, _, _ in rundir.differences(now, more)] == [
        "callbacks.before._target_", "callbacks.before._partial_"
    ]  # fmt: skip
    assert lies_in("callbacks.before._target_", rundir.CHANGEABLE)
