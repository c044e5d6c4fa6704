"""Samples of held-out prompts, read from pixels while a run goes on."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from dit.engine import run
from dit.engine.callbacks.after_step import AfterStep, owed
from dit.engine.callbacks.sampled import Sampled
from dit.engine.callbacks.world import WorldMeasures
from dit.engine.writers import CSV, Writers
from dit.interop.presets import CONFIGS
from tests.engine import small

TINY = (
    "experiment=demo", "name=own", "net.depth=1", "net.width=24", "net.heads=2", "net.text_width=16", "text.width=16",
    "text.depth=1", "text.heads=2", "trainer.accelerator=cpu", "data.batch_size=2", "data.val.num_clips=2",
    "data.val_batch_size=2", "sampling.num_steps=2", "preview=none", "lr_schedule=constant",
    "callbacks.validation.every=null", "callbacks.checkpoints.every=2", "callbacks.metrics.every=1",
    "callbacks.world.every=2", "callbacks.world.num_clips=3", "trainer.max_steps=4",
)  # fmt: skip

CLASSES = ("net=dit_s_2", "net.in_channels=3", "net.out_channels=3", "net.patch=[2,8,8]", "text=none")  # for prompts


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(*overrides: str) -> dict[str, Any]:
    of_text = ("text.", "net.text_width") if "text=none" in overrides else ()
    tiny = [each for each in TINY if not each.startswith(of_text)]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        plain: Any = OmegaConf.to_container(hydra.compose("train", [*tiny, *overrides]), resolve=True)
    return plain  # type: ignore[no-any-return]


def task(*overrides: str) -> WorldMeasures:
    """That of a run."""
    everyone = run.callbacks(run.build(config(*overrides)))
    (after_step,) = (each for each in everyone if isinstance(each, AfterStep))
    (found,) = (each for each in after_step.tasks if isinstance(each, WorldMeasures))
    return found


def measured(run: Path) -> list[str]:
    """The steps with world measures."""
    return [row["step"] for row in small.table(run) if row.get("world/all")]


def test_a_spoilt_sample_lowers_the_measure(here: Path) -> None:
    """Real clips in the place of samples are right in all; each spoilt one takes its share away, and no other's."""
    measures, writer = task(), CSV()
    measures.metrics.writers = Writers([writer])
    measures.metrics.writers.start(here, {}, 0)
    world, requests = measures.data.val, measures.requests
    assert len(requests) == 3 and len({each.prompt for each in requests}) == 3
    films = [world.film(each.prompt, each.seed).pixels for each in requests]
    clips = [torch.from_numpy(film).permute(3, 0, 1, 2).float() / 127.5 - 1 for film in films]
    vanishing = clips[0].clone()
    vanishing[:, 4] = vanishing[:, 4, :1, :1]  # the ground alone
    trainer: Any = None
    for step, shown in ((2, clips), (4, [vanishing, *clips[1:]]), (6, [clips[1], clips[0], clips[2]])):
        found = [measures.look(trainer, step, index, clip, "ema") for index, clip in enumerate(shown)]
        assert measures.finish(trainer, step, found)
    writer.close()
    right, spoilt, other = ({**row} for row in small.table(here))
    words = ("colour", "shape", "size", "direction", "permanence", "all")
    assert {right[f"world/{word}"] for word in words} == {"1.0"} and float(right["world/speed_error"]) < 0.1
    assert float(spoilt["world/permanence"]) == float(spoilt["world/all"]) == pytest.approx(2 / 3)
    assert spoilt["world/colour"] == "1.0"
    assert float(other["world/all"]) <= 1 / 3


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("straight"))
        run.train(config())
        return (Path("runs") / "own").absolute()


def differences(one: Path, other: Path) -> list[str]:
    """Of the last checkpoints: weights, averages, optimizer, random states, place in the data."""
    a, b = small.load(one), small.load(other)
    return [where for key in small.EXACT for where in small.same(a[key], b[key], key)]


def test_the_run_is_the_same_with_and_without(here: Path, straight: Path) -> None:
    """Bit for bit, in all other columns too; and the measures are in the rows of their steps."""
    run.train(config("callbacks.world.every=null"))
    without = here / "runs/own"
    assert differences(straight, without) == []
    rows = small.table(straight)
    others = [{key: value for key, value in row.items() if "world/" not in key} for row in rows]
    assert others == small.table(without) and len(rows) == 4
    assert measured(straight) == ["2", "4"] and measured(without) == []


@pytest.mark.parametrize(("step", "question"), [(2, 1), (2, 4), (4, 2)], ids=["solver", "reader", "last step"])
def test_told_to_stop_in_it(
    here: Path, straight: Path, step: int, question: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops at once, saved with what it owes; the same command makes that first, and nothing is different."""
    real = Sampled._sample

    def told(self: Any, trainer: Any, module: Any, now: int, ask: Any) -> Any:
        (after_step,) = (each for each in trainer.callbacks if isinstance(each, AfterStep))
        questions = iter(range(100))

        def asked() -> None:
            if now == step and next(questions) == question:
                after_step.interrupts.received = signal.SIGTERM
            ask()

        return real(self, trainer, module, now, asked)

    with monkeypatch.context() as patch:
        patch.setattr(Sampled, "_sample", told)
        with pytest.raises(SystemExit):
            run.train(config())
    stopped = here / "runs/own"
    assert small.load(stopped)["global_step"] == step and owed(stopped, step) == ["world"]
    assert str(step) not in measured(stopped)
    run.train(config())
    assert small.table(stopped) == small.table(straight) and owed(stopped, 4) == []
    assert differences(stopped, straight) == []


def test_a_failure_is_a_warning(
    here: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Any, trainer: Any, step: int, *args: Any) -> Any:
        if step == 2:
            raise RuntimeError("out of memory\nand more lines")
        return real(self, trainer, step, *args)

    real = WorldMeasures.look
    monkeypatch.setattr(WorldMeasures, "look", broken)
    with caplog.at_level(logging.WARNING):
        run.train(config())
    said = [record.message for record in caplog.records if "world" in record.message]
    assert said == ["no world measures at step 2 (RuntimeError: out of memory); training goes on"]
    assert measured(here / "runs/own") == ["4"] and differences(here / "runs/own", straight) == []


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("data.val=null",), "validated on nothing, and only the truth of worlds"),
        (("data.val.split=train",), "prompts were trained on; validate with data.val.split=heldout"),
        (("conditioning=i2v",), "every training clip is given its first frame"),
        (("data=world_steered",), "steered by left, right, jump, push"),
        (CLASSES, "class 'a red triangle moves left' is not known"),
    ],
)
def test_clips_without_truth_have_no_measures(
    here: Path, overrides: tuple[str, ...], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, and the run goes on without."""
    with caplog.at_level(logging.WARNING):
        found = task(*overrides)
    said = [record.message for record in caplog.records if "world measures" in record.message]
    assert len(said) == 1 and said[0].startswith("world measures are off: ") and why in said[0]
    assert said[0].endswith("(callbacks.world.every=null says nothing)")
    assert not any(found.is_due(step, last=step == 4) for step in range(1, 5))


def test_rich_worlds_are_read_too(here: Path) -> None:
    """By the reader of several objects: real clips are right."""
    measures = task("data=world_physics", "data.num_frames=8", "data.height=32", "data.width=32")
    request = measures.requests[0]
    film = torch.from_numpy(measures.data.val.film(request.prompt, request.seed).pixels).permute(3, 0, 1, 2)
    verdict = measures.look(None, 2, 0, film.float() / 127.5 - 1, "ema")  # type: ignore[arg-type]
    assert verdict.presence and verdict.count and verdict.colour
    assert not measures.look(None, 2, 0, torch.zeros(3, 8, 32, 32), "ema").presence  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("callbacks.world.every=0", "callbacks.world.every=0 must be at least 1 step, or null for no world measures"),
        ("callbacks.world.num_clips=0", "callbacks.world.num_clips=0 must be at least 1"),
        ("callbacks.world.seed=-1", "callbacks.world.seed=-1 must be at least 0"),
    ],
)
def test_numbers_that_cannot_be_are_one_line(here: Path, override: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        task(override)
