"""From which checkpoint a run goes on, if any, and whether the config that is given now may go on from it."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dit.checkpoint import archive, entries
from dit.checkpoint.files import FOLDER, FROZEN, LAST, numbered, run_of, step_name
from dit.checkpoint.opened import find
from dit.config.flat import lies_in
from dit.config.renamed import current
from dit.engine import rundir
from dit.engine.callbacks.checkpoint import point
from dit.engine.lr_schedule import LRSchedule
from dit.engine.rundir import CHANGEABLE, OtherRun
from dit.runfiles import check_links

log = logging.getLogger(__name__)
JUMP = 0.02  # share of the peak rate: a larger jump of the learning rate is refused unless the command allows it
BATCH, TOKENS, ACCUMULATE = "data.batch_size", "data.shapes.tokens", "trainer.accumulate"
OF_STEP = (BATCH, TOKENS, ACCUMULATE)  # with the ranks they make what is in a step
UNITS = {BATCH: "clips", TOKENS: "tokens"}
RATES = (None, "keep", "schedule")  # what resume_lr can be


class Data(Protocol):
    """What resuming asks of the data."""

    accepts_other_clips: bool

    def check(self, state_dict: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        checkpoint: what it goes on from; None: it begins at step 0.
        step: optimizer steps done.
        goes_back: whether files of later steps are to be set aside.
        held_lr_factor: a factor on the peak rate that replaces the schedule; None: the schedule goes on.
        lr_factor: the factor at which the checkpoint stopped; None where it does not say.
        changes: settings that are not the checkpoint's, as asked for: (key, before, now).
        notes: what else to say.
        seen: inode and time of `last.ckpt`, by which `take` notices that another process has trained meanwhile.
    """

    checkpoint: Path | None = None
    step: int = 0
    goes_back: bool = False
    held_lr_factor: float | None = None
    lr_factor: float | None = None
    changes: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    seen: tuple[int, int] | None = None


def find_start(
    run: Path,
    config: Mapping[str, Any],
    world_size: int,
    schedule: LRSchedule,
    data: Data,
    defaults: Mapping[str, Any] | None = None,
) -> Start:
    """Finds the checkpoint that a run of `config` in `run` goes on from, and checks it. Writes nothing.

    defaults: key -> its value in configs that have none, since they are older than the key.

    Raises:
        OtherRun: something that decides what is learned differs, and `resume_changes` does not name it.
        FileNotFoundError, ValueError: the checkpoint is not there or damaged, or something else keeps the run from
            going on as it was; one line that says what can be done.
    """
    if config["resume_lr"] not in RATES:
        raise ValueError(f"resume_lr={config['resume_lr']} must be keep, schedule, or null")
    check_links(run)
    written = rundir.config_of(run)
    if written is not None:
        written = _completed(written, defaults)
    seen = _seen(run)
    file, note = _choose(run, config, written)
    notes = [note] if note else []
    if file is None:
        if written is not None and rundir.differences(written, config):
            notes.append(f"{run} was begun with another config, and holds no checkpoint: this one takes it over")
        return Start(notes=tuple(notes), seen=seen)
    content = _read(file, run)
    step = int(entries.STEP.of(content))
    before = (entries.CONFIG.of(content) if entries.CONFIG.is_in(content) else None) or written or {}
    before = _completed(before, defaults) if before else {}
    changes = _compare(file, before, config) if before else []
    allowed = config["resume_changes"]
    notes += _clips(run, before, config, len(entries.RANDOM_STATES.of(content)), world_size, allowed)
    data.accepts_other_clips = any(lies_in(key, ("data", "seed")) and key not in OF_STEP for key in allowed)
    if (clips := entries.DATA.of(content)) is not None and not data.accepts_other_clips:
        data.check(clips)
    start = Start(
        checkpoint=file,
        step=step,
        goes_back=file != run / FOLDER / LAST or any(number > step for number, _ in numbered(run / FOLDER)),
        lr_factor=entries.lr_factor(content),
        changes=tuple(changes),
        notes=tuple(notes),
        seen=seen,
    )
    return _with_rate(start, config, schedule)


def _completed(config: Mapping[str, Any], defaults: Mapping[str, Any] | None) -> dict[str, Any]:
    config = current(config)
    return {**config, **{key: value for key, value in (defaults or {}).items() if not config.get(key)}}


def take(run: Path, start: Start, config: Mapping[str, Any]) -> None:
    """Changes the directory `run` so that it begins at `start`: `last.ckpt` becomes the checkpoint that it goes on
    from, files of later steps are set aside, and `config.yaml` becomes `config`.

    For the first rank, inside the lock, once all ranks have called `find_start`. Raises ValueError where another
    process has trained the run meanwhile.
    """
    if _seen(run) != start.seen:
        raise ValueError(f"{run} has gone on meanwhile, in another process; give the same command again")
    folder = run / FOLDER
    if start.checkpoint is None:
        aside = rundir.set_aside(run, 0)
    else:
        inside = folder.is_dir() and os.path.samefile(start.checkpoint.parent, folder)
        aside = None if inside else rundir.set_aside(run, start.step - 1)
        last, target = folder / LAST, start.checkpoint if inside else _copied_in(folder, start)
        if not (last.is_file() and os.path.samefile(last, target)):
            point(last, target)
        if inside and start.goes_back:
            aside = rundir.set_aside(run, start.step)
    if aside is not None:
        log.warning("what was there of later steps than %d now lies in %s", start.step, aside)
    rundir.write_config(run, config)


def about_longer(start: Start, config: Mapping[str, Any], schedule: LRSchedule, run: Path) -> str:
    """A line that says how a finished run can be trained longer."""
    longer = 2 * start.step
    now = schedule(start.step, longer)
    if start.lr_factor is None or abs(now - start.lr_factor) <= JUMP:
        return f"To go on: trainer.max_steps={longer}"
    rates = _rates(config, start.lr_factor, now, f"with trainer.max_steps={longer}")
    return f"To go on: {_after_decay(run)}. To go on in this run, where {rates}: {_other_ways(start)}"


def about_divergence(run: Path, config: Mapping[str, Any]) -> str:
    """A line that says how a diverged run can go on with half the learning rate."""
    rates = {key: value / 2 for key, value in config["optim"].items() if key in ("lr", "adamw_lr")}
    lower = [f"optim.{key}={rate:g}" for key, rate in rates.items()]
    last = run / FOLDER / LAST
    if not last.is_file():
        return f"No checkpoint was saved, so the name is free; with half the rate: {_again(lower)}"
    again = _again([*lower, "resume_changes=[optim]"])
    try:
        step = entries.STEP.of(archive.load(last))
    except archive.Damaged as error:  # that the run diverged is what must be said
        return f"The last checkpoint, {last}, is damaged ({error}); the command to go on with half the rate: {again}"
    return f"The last checkpoint, of step {step}, is whole; to go on from it with half the rate: {again}"


def _again(more: Sequence[str]) -> str:
    """The command line of this process with other overrides, to be typed."""
    keys = {each.partition("=")[0] for each in more}
    return shlex.join(["python", *(each for each in sys.argv if each.partition("=")[0] not in keys), *more])


def _seen(run: Path) -> tuple[int, int] | None:
    try:
        stat = (run / FOLDER / LAST).stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _choose(run: Path, config: Mapping[str, Any], written: Mapping[str, Any] | None) -> tuple[Path | None, str]:
    """The checkpoint file, and a note about the choice, "" for none."""
    asked = config["resume_from"]
    if asked is None:
        return _newest(run)
    # The same command again goes on, as ever: it has gone back already.
    last = run / FOLDER / LAST
    gone_back = written is not None and written.get("resume_from") == asked
    if written is not None and gone_back and last.is_file() and not rundir.differences(written, config):
        return last, f"{run} has gone back to resume_from={asked} already: it goes on from there"
    return _named(run, str(asked)), ""


def _named(run: Path, asked: str) -> Path:
    folder = run / FOLDER
    if asked.isascii() and asked.isdigit():
        file = dict(numbered(folder)).get(int(asked))
        if file is None:
            raise FileNotFoundError(f"resume_from={asked}: {run} has no checkpoint of that step; {_listed(folder)}")
        return file
    if (folder / asked).is_file():
        return folder / asked
    return find(asked)


def _newest(run: Path) -> tuple[Path | None, str]:
    """`last.ckpt`, or the newest whole checkpoint where that is missing."""
    folder, last = run / FOLDER, run / FOLDER / LAST
    if last.is_file():
        return last, ""
    if last.is_dir():
        raise ValueError(f"{last} is a folder, not a checkpoint: move it away; {_listed(folder)}")
    there = numbered(folder)
    if last.is_symlink():
        goal = os.readlink(last)
        said = f"{last} is a link to {goal}, which is not there (a link counts from its own folder)"
        if (folder / Path(goal).name).is_file():
            return folder / Path(goal).name, f"{said}; {Path(goal).name} beside it is taken"
        if not there:
            raise ValueError(f"{said}, nor is any other checkpoint: mend the link, or delete {run} to start anew")
    elif not there:
        return None, ""
    else:
        said = f"{last} is missing"
    whole = _newest_whole(folder)
    if whole is None:
        raise ValueError(f"{said}, and no other checkpoint of {run} is whole; choose another name=..., or delete it")
    return whole[1], f"{said}; going on from the newest whole checkpoint, {whole[1].name}"


def _newest_whole(folder: Path) -> tuple[int, Path] | None:
    return next((each for each in reversed(numbered(folder)) if archive.damage(each[1]) is None), None)


def _read(file: Path, run: Path) -> dict[str, Any]:
    try:
        content = archive.load(file)
    except archive.Damaged as error:
        whole = _newest_whole(run / FOLDER)
        if whole is None:
            instead = "no other checkpoint of the run is whole: choose another name=..., or delete it to start anew"
        else:
            instead = f"the newest whole one is {whole[1].name}: resume_from={whole[0]} goes on from it"
        raise ValueError(f"{file} cannot be read ({error}); {instead}") from None
    if not isinstance(content, dict) or not entries.STEP.is_in(content):
        raise ValueError(f"{file} is no checkpoint of a run: it has no {entries.STEP.name}")
    return content


def _compare(file: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What differs and may."""
    allowed: Sequence[str] = now["resume_changes"]
    for key in allowed:
        if not lies_in(key, CHANGEABLE):
            raise ValueError(
                f"resume_changes=[{key}] cannot be changed on the way; what can: {', '.join(CHANGEABLE)}, and keys of"
                " them. A new run can begin with these weights: init_from=..."
            )
    differing = rundir.differences(before, now)
    refused = [each for each in differing if not lies_in(each[0], allowed)]
    if not refused:
        if any(key == "optim._target_" for key, _, _ in differing):
            raise ValueError(
                f"{file} holds the moments of another optimizer; a new run can begin with its weights: init_from={file}"
            )
        return differing
    shown = "; ".join(f"{key} was {was}, now {is_now}" for key, was, is_now in refused[:3])
    more = f" (and {len(refused) - 3} more)" if len(refused) > 3 else ""
    ways = "Choose another name=..., or delete it to start anew"
    if all(lies_in(key, CHANGEABLE) and key != "optim._target_" for key, _, _ in refused):
        ways += f"; to change it on the way: resume_changes=[{','.join([*allowed, *(key for key, _, _ in refused)])}]"
    raise OtherRun(f"{run_of(file)} belongs to another config: {shown}{more}. {ways}")


def _clips(
    run: Path, before: Mapping[str, Any], now: Mapping[str, Any], old_ranks: int, ranks: int, allowed: Sequence[str]
) -> list[str]:
    """What to say of the clips that make a step; ValueError where it is another number of them, unasked."""
    if not old_ranks or not before:
        return []
    (was_key, was), (key, batch) = _batch_of(before), _batch_of(now)
    old, accumulate = (_at(config, ACCUMULATE) for config in (before, now))
    if None in (was, old, batch, accumulate) or (was_key, was, old_ranks, old) == (key, batch, ranks, accumulate):
        return []
    wanted, given = was * old_ranks * old, batch * ranks * accumulate
    unit, is_same = UNITS[was_key], was_key == key
    how = (
        f"{wanted} {unit} ({was_key}={was} x {old_ranks} ranks x {ACCUMULATE}={old})",
        f"{given} ({batch} x {ranks} x {accumulate})" if is_same else f"{given} {UNITS[key]} ({key}={batch})",
    )
    if is_same and wanted == given:
        return [
            f"a step still takes {how[0]}, now {batch} x {ranks} x {accumulate}: the same clips, new random numbers"
        ]
    if any(lies_in(each, allowed) for each in OF_STEP):
        return [f"a step took {how[0]}, now {how[1]}"]
    ways = []
    if wanted % (ranks * accumulate) == 0:
        more = "" if is_same or was_key == TOKENS else f" {TOKENS}=null"
        ways.append(f"{was_key}={wanted // (ranks * accumulate)}{more}")
    if is_same and wanted % (batch * ranks) == 0:
        ways.append(f"{ACCUMULATE}={wanted // (batch * ranks)}")
    keep = f"{' or '.join(ways)} keeps it; " if ways else ""
    raise ValueError(
        f"{run}: a step took {how[0]}, and would take {how[1]}: {keep}"
        f"resume_changes=[{key}] goes on with another number"
    )


def _batch_of(config: Mapping[str, Any]) -> tuple[str, Any]:
    """What says how much is in a batch, and its value: a budget of tokens counts before a number of clips."""
    tokens = _at(config, TOKENS)
    return (BATCH, _at(config, BATCH)) if tokens is None else (TOKENS, tokens)


def _with_rate(start: Start, config: Mapping[str, Any], schedule: LRSchedule) -> Start:
    """The start, with the learning rate decided. Raises ValueError where it would jump without being told to."""
    max_steps, mode, was = config["trainer"]["max_steps"], config["resume_lr"], start.lr_factor
    if was is None or start.step >= max_steps:
        return start
    if mode == "keep":
        if was == 0:
            raise ValueError(
                "resume_lr=keep would go on at a learning rate of 0, where the schedule has ended;"
                f" {_after_decay(run_of(start.checkpoint or Path()))}"
            )
        note = f"the learning rate is held at {100 * was:.3g} % of its peak (resume_lr=keep)"
        return _noted(start, note, held_lr_factor=was)
    now = schedule(start.step, max_steps)
    if abs(now - was) <= JUMP:
        return start
    rates = _rates(config, was, now, f"with trainer.max_steps={max_steps}")
    if mode == "schedule" or any(lies_in(key, ("lr_schedule",)) for key, _, _ in start.changes):
        return _noted(start, rates)
    raise ValueError(
        f"{rates}: it would jump, unasked. Usual: {_after_decay(run_of(start.checkpoint or Path()))}."
        f" To go on in this run: {_other_ways(start)}"
    )


def _noted(start: Start, note: str, held_lr_factor: float | None = None) -> Start:
    return Start(**{**vars(start), "notes": (*start.notes, note), "held_lr_factor": held_lr_factor})


def _rates(config: Mapping[str, Any], was: float, now: float, why: str) -> str:
    peak = config["optim"].get("lr", 1.0)
    return f"the learning rate was {peak * was:.3g}, and {why} it is {peak * now:.3g} (peak {peak:.3g})"


def _after_decay(run: Path) -> str:
    return f"a new run can begin with these weights and a schedule of its own: name=... init_from={run}"


def _other_ways(start: Start) -> str:
    keep = f"resume_lr=keep (holds {100 * start.lr_factor:.3g} % of the peak) or " if start.lr_factor else ""
    return f"{keep}resume_lr=schedule (takes the new rate at once)"


def _copied_in(folder: Path, start: Start) -> Path:
    """Copies the start's checkpoint, which lies elsewhere, and the frozen weights beside it into `folder`."""
    assert start.checkpoint is not None
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / step_name(start.step)
    for source, to in ((start.checkpoint.parent / FROZEN, folder / FROZEN), (start.checkpoint, target)):
        if source.is_file():
            part = to.with_suffix(".part")
            shutil.copyfile(source, part)
            os.replace(part, to)
    return target


def _listed(folder: Path) -> str:
    steps = [str(step) for step, _ in numbered(folder)]
    return f"there are checkpoints of steps {', '.join(steps)}" if steps else "there are none"


def _at(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where a config has none."""
    value: Any = config
    for key in path.split("."):
        value = (value or {}).get(key)
    return value
