"""Spoilt clips of worlds, for docs/spoilt_clips.md: `python -m tests.evaluation.spoilt_objects [world ...]`.

A row is kept in runs/spoilt_objects as soon as it is done, so that the command goes on where it was stopped; a world's
tables are printed, and written there, when all of its rows are there. Rows that other code found are not taken.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.worlds.load import load
from data.worlds.state import Clip, State
from data.worlds.world import World
from dit.evaluation.harness.table import markdown
from dit.evaluation.objects.judge import CHECKS, MEASURES, Verdict
from dit.evaluation.suites.floors import FROZEN
from dit.evaluation.suites.object_clips import FOLLOWED, OTHER_KEYS, Pressed, followed, followed_estimates
from dit.evaluation.suites.promises import Promises
from dit.evaluation.verdicts import Report
from dit.evaluation.video.flow import FlowEstimator
from tests.evaluation.parts import part

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "runs" / "spoilt_objects"
CODE = ("dit/evaluation", "dit/evaluation/objects", "dit/evaluation/video", "data/worlds", "configs/data/dataset")
WORLDS = (
    "world_physics",
    "world_occlusion",
    "world_containers",
    "world_camera",
    "world_steered",
    "world_full",
    "world",
)
SPLITS = ("train", "heldout", "slower", "faster", "smaller", "larger", "longer")
OF_CAPTION = [name for name in MEASURES if name not in (*CHECKS, "all")]
OF_COURSE = list(FOLLOWED)
COUNT, FEWER, SCENES = 200, 50, 40  # clips of each split, and of each way of spoiling; steered scenes
GIVEN = 2  # frames behind which a clip is held against its course
Pixels = NDArray[np.uint8]
Spoil = Callable[[World, Clip], "Pixels | None"]  # None: this clip cannot be spoilt so
Change = Callable[[World, State], State]


def joined(world: World, clip: Clip, after: State, since: int | None = None) -> Pixels:
    """A clip up to a frame (the middle one), another state from it on."""
    since = len(clip.pixels) // 2 if since is None else since
    return np.concatenate([clip.pixels[:since], world.paint(after)[since:]])


def _frozen(world: World, clip: Clip) -> Pixels | None:
    moves = np.ptp(clip.state.positions, axis=0).max() > 0.1
    return np.repeat(clip.pixels[:1], len(clip.pixels), axis=0) if moves else None


def _noise(world: World, clip: Clip) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, clip.pixels.shape).astype(np.uint8)


def _reversed(world: World, clip: Clip) -> Pixels | None:
    straight = all(item.motion == "straight" for item in clip.state.spec.objects)
    return clip.pixels[::-1] if straight else None


def _slowed(world: World, clip: Clip) -> Pixels:
    positions = clip.state.positions
    return world.paint(replace(clip.state, positions=positions[:1] + 0.6 * (positions - positions[:1])))


def _gone(world: World, clip: Clip) -> Pixels:
    present = np.ones(clip.state.visibility.shape, np.bool_)
    present[:, -1] = False
    return world.paint(clip.state, present)


def _vanishes(world: World, clip: Clip) -> Pixels:
    present = np.ones(clip.state.visibility.shape, np.bool_)
    present[len(present) // 2 :, -1] = False
    return world.paint(clip.state, present)


def _flickers(world: World, clip: Clip) -> Pixels | None:
    present = np.ones(clip.state.visibility.shape, np.bool_)
    frame = len(present) // 4
    if clip.state.visibility[frame, -1] < 0.9:
        return None
    present[frame, -1] = False
    return world.paint(clip.state, present)


def _colour(world: World, state: State) -> State:
    used = set(state.colours.tolist())
    other = next(number for number in range(len(world.colours)) if number not in used)
    return replace(state, colours=np.array([*state.colours[:-1], other]))


def _shape(world: World, state: State) -> State:
    return replace(state, shapes=np.array([*state.shapes[:-1], (state.shapes[-1] + 2) % min(4, len(world.shapes))]))


def _size(world: World, state: State) -> State:
    return replace(state, radii=np.array([*state.radii[:-1], 1.4 * state.radii[-1]]))


def _throughout(change: Change) -> Spoil:
    return lambda world, clip: world.paint(change(world, clip.state))


def _halfway(change: Change) -> Spoil:
    return lambda world, clip: joined(world, clip, change(world, clip.state))


def _jumps(world: World, clip: Clip) -> Pixels | None:
    positions = clip.state.positions.copy()
    middle = len(positions) // 2
    x = positions[:, -1, 0]
    x[middle:] = (x[middle:] - x[middle] + (x[middle] + 0.5) % 1.0).clip(0.12, 0.88)
    if clip.state.spec.scenery != "plain":
        return None
    return joined(world, clip, replace(clip.state, positions=positions))


def _swapped(world: World, clip: Clip) -> Pixels | None:
    state = clip.state
    middle = len(state.positions) // 2
    if len(state.radii) < 2 or np.linalg.norm(state.positions[middle, 0] - state.positions[middle, 1]) < 0.4:
        return None
    if state.colours[0] == state.colours[1]:
        return None
    order = [1, 0, *range(2, len(state.radii))]
    return joined(world, clip, replace(state, positions=state.positions[:, order]))


def _one_more(world: World, clip: Clip) -> Pixels | None:
    """One like the first moves opposite to it, apart from all others."""
    state = clip.state
    if np.linalg.norm(1.0 - state.positions[:, :1] - state.positions, axis=-1).min() < 0.3:
        return None
    first = replace(
        state,
        positions=np.concatenate([state.positions, 1.0 - state.positions[:, :1]], axis=1),
        radii=np.append(state.radii, state.radii[0]),
        colours=np.append(state.colours, state.colours[0]),
        shapes=np.append(state.shapes, state.shapes[0]),
        textures=(*state.textures, state.textures[0]),
    )
    return world.paint(first)


def _hovers(world: World, clip: Clip) -> Pixels | None:
    """What falls stays where it was let go."""
    if not any(item.motion in ("fall", "drop") for item in clip.state.spec.objects):
        return None
    positions = clip.state.positions.copy()
    for number, item in enumerate(clip.state.spec.objects):
        if item.motion in ("fall", "drop"):
            positions[:, number] = positions[0, number]
    return world.paint(replace(clip.state, positions=positions))


def _hidden_frame(clip: Clip) -> int | None:
    hidden = np.flatnonzero(clip.state.visibility[:, -1] < 0.02)
    return int(hidden[0]) if len(hidden) and clip.state.visibility[-1, -1] > 0.9 else None


def _unseen(change: Change) -> Spoil:
    """A change while a wall hides the object."""

    def spoil(world: World, clip: Clip) -> Pixels | None:
        frame = _hidden_frame(clip)
        return None if frame is None else joined(world, clip, change(world, clip.state), frame)

    return spoil


def _lost(world: World, clip: Clip) -> Pixels | None:
    """It does not come out behind the wall."""
    frame = _hidden_frame(clip)
    if frame is None:
        return None
    present = np.ones(clip.state.visibility.shape, np.bool_)
    present[frame:, -1] = False
    return world.paint(clip.state, present)


def _ground(world: World, clip: Clip) -> Pixels | None:
    if len(world.lexicon.backgrounds) < 2 or clip.state.spec.background == "checked":
        return None
    return world.paint(replace(clip.state, spec=replace(clip.state.spec, background="checked")))


# How a clip is spoilt, and the checks that have to notice it.
SPOILT: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "frozen at the first frame": (_frozen, ("speed",)),
    "noise": (_noise, ("presence", "shape", "size", "permanence", "background")),
    "backwards": (_reversed, ("direction",)),
    "0.6 of the way": (_slowed, ("speed",)),
    "an object is not there": (_gone, ("presence", "count", "colour", "permanence")),
    "an object vanishes half-way": (_vanishes, ("permanence",)),
    "an object is not there in one frame": (_flickers, ("permanence",)),
    "one object more": (_one_more, ("count", "permanence")),
    "another colour": (_throughout(_colour), ("presence", "colour")),
    "another shape": (_throughout(_shape), ("shape",)),
    "1.4 times as large": (_throughout(_size), ("size",)),
    "colour changes half-way": (_halfway(_colour), ("colour", "identity")),
    "shape changes half-way": (_halfway(_shape), ("shape", "identity")),
    "grows half-way": (_halfway(_size), ("identity",)),
    "jumps half-way": (_jumps, ("permanence",)),
    "two objects swap half-way": (_swapped, ("identity",)),
    "what falls hovers": (_hovers, ("speed",)),
    "colour changes behind the wall": (_unseen(_colour), ("colour", "identity")),
    "shape changes behind the wall": (_unseen(_shape), ("shape", "identity")),
    "is lost behind the wall": (_lost, ("permanence",)),
    "another background": (_ground, ("background",)),
}


def video(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)))


def real(promises: Promises, clips: Sequence[Clip]) -> Report[Verdict]:
    """Of clips as they are."""
    said = [promises.of(clip.caption) for clip in clips]
    return Report.of(promises.reader.judge, [video(clip.pixels) for clip in clips], said, MEASURES)


def swapped(promises: Promises, clips: Sequence[Clip]) -> Report[Verdict]:
    """Of clips that are held against the caption of the next one; the last one is left out."""
    said = [promises.of(clip.caption) for clip in clips[1:]]
    return Report.of(promises.reader.judge, [video(clip.pixels) for clip in clips[:-1]], said, MEASURES)


def chosen(world: World, clips: Iterable[Clip], name: str, count: int) -> list[tuple[Clip, Pixels]]:
    """The first `count` of the clips that can be spoilt so, and what they are spoilt to."""
    found = ((clip, SPOILT[name][0](world, clip)) for clip in clips)
    return list(islice(((clip, pixels) for clip, pixels in found if pixels is not None), count))


def spoilt(promises: Promises, clips: Iterable[Clip], name: str, count: int) -> Report[Verdict] | None:
    """Of the first `count` of the clips that can be spoilt so; None where none can."""
    taken = chosen(promises.world, clips, name, count)
    if not taken:
        return None
    said = [promises.of(clip.caption) for clip, _ in taken]
    return Report.of(promises.reader.judge, [video(pixels) for _, pixels in taken], said, MEASURES)


def row(promises: Promises, clips: Iterable[tuple[Clip, Clip, Pixels]], estimate: FlowEstimator) -> dict[str, Any]:
    """Measure -> mean, of videos, each held against the caption of the first clip and the course of the second."""
    verdicts, courses = [], []
    for said, true, shown in clips:
        promise, seen = promises.of(said.caption), video(shown)
        scene = promises.reader.read(seen, promise)
        verdicts.append(promises.reader.hold(scene, promise))
        courses.append(followed(promises, true, scene, seen, GIVEN, estimate))
    found = {name: each.mean for name, each in followed_estimates(courses).items()}
    return {"clips": len(verdicts), **Report(tuple(verdicts), MEASURES).metrics(), **found}


def keys(promises: Promises) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of a steered world, what keys do in real clips, and in two that are spoilt."""
    asked = Pressed(promises, SCENES, GIVEN, 0, "action")
    for name in ("real", OTHER_KEYS, FROZEN):
        found = [
            asked.look(index, asked.real(index) if name == "real" else asked.spoilt(index)[name])
            for index in range(len(asked))
        ]
        yield name, {"clips": len(asked), **{key: each.value for key, each in asked.scores(found).items()}}


def rows(name: str, estimate: FlowEstimator, done: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a world that are not done."""
    for split in SPLITS:
        if f"real, {split}" in done:
            continue
        try:
            shown = load(name, split=split)
        except ValueError as error:  # as of straight ways that leave the frame in longer clips
            print(f"{name} has no split {split}: {error}", file=sys.stderr)
            continue
        every = (shown.clip(index) for index in range(COUNT))
        yield f"real, {split}", row(Promises(shown), ((each, each, each.pixels) for each in every), estimate)
    world = load(name)
    promises, clips = Promises(world), [world.clip(index) for index in range(5 * FEWER)]
    if "caption of another clip" not in done:
        pairs = zip(clips[1 : FEWER + 1], clips[:FEWER], strict=True)
        yield "caption of another clip", row(promises, ((said, said, own.pixels) for said, own in pairs), estimate)
    for kind in SPOILT:
        taken = [] if kind in done else chosen(world, clips, kind, FEWER)
        if taken:
            yield kind, row(promises, ((clip, clip, pixels) for clip, pixels in taken), estimate)
    if world.keys and f"keys: {FROZEN}" not in done:
        for kind, each in keys(promises):
            yield f"keys: {kind}", each


def tables(name: str, found: dict[str, dict[str, Any]]) -> str:
    """Shares that are right, and errors; of a steered world what keys do."""
    shown = {kind: each for kind, each in found.items() if not kind.startswith("keys")}
    names = (*CHECKS, "all")
    checks = [
        [kind, f"{each['clips']}", *(f"{100 * each[check]:.3g}" if check in each else "-" for check in names)]
        for kind, each in shown.items()
    ]
    heads = {error: error.removesuffix("_error").replace("_", " ") for error in (*OF_CAPTION, *OF_COURSE)}
    errors = [
        [kind, *(f"{each[error]:.3f}" if error in each else "-" for error in heads)] for kind, each in shown.items()
    ]
    made = [markdown([f"{name}, % right", "clips", *names], checks)]
    made.append(markdown([f"{name}, errors", *heads.values()], errors))
    pressed = {kind.removeprefix("keys: "): each for kind, each in found.items() if kind.startswith("keys")}
    if pressed:
        asked = [key for key in next(iter(pressed.values())) if key != "clips"]
        cells = [
            [kind, *(f"{each[key]:.3f}" if key in each else "-" for key in asked)] for kind, each in pressed.items()
        ]
        made.append(markdown([f"{name}, keys", *(key.removeprefix("response_") for key in asked)], cells))
    return "\n\n".join(made) + "\n"


def code() -> str:
    """A mark of what decides the rows."""
    files = sorted(file for folder in CODE for end in ("py", "yaml") for file in (ROOT / folder).glob(f"*.{end}"))
    found = hashlib.sha256()
    for file in (*files, ROOT / "dit/evaluation/suites/promises.py", Path(__file__)):
        found.update(file.read_bytes())
    return found.hexdigest()[:12]


def main(names: Sequence[str]) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    estimate = part("flow", "pyramid")("cpu")
    for name in names or WORLDS:
        file = KEPT / f"{name}-{code()}.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        done: dict[str, Any] = dict(json.loads(line) for line in lines)
        with file.open("a", encoding="utf-8") as opened:
            for kind, found in rows(name, estimate, done):
                done[kind] = found
                print(json.dumps([kind, found]), file=opened, flush=True)
        order = [f"real, {split}" for split in SPLITS] + ["caption of another clip", *SPOILT]
        found = {kind: done[kind] for kind in (*order, *(kind for kind in done if kind not in order)) if kind in done}
        (KEPT / f"{name}.md").write_text(tables(name, found), encoding="utf-8")
        print(tables(name, found), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
