"""Sets that anyone can make again: whole whatever happens on the way, and what their clips show."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.decode import Decord, Ladder, PyAV, TorchCodec
from data.manifest import read_manifest
from data.sets import atari, doom, moving_mnist
from data.sets.atari import Atari
from data.sets.base import ClipSet, Made, held_actions, rng, split
from data.sets.doom import Doom
from data.sets.make import make
from data.sets.moving_mnist import MovingMNIST
from dit.entry import ROOT
from tests.data.fake_set import COMMAND, Numbers, contents, write

WHY = "not installed: pip install -r requirements-sets.txt"


def made(folder: Path, count: int, clips: ClipSet | None = None, **more: Any) -> list[int]:
    return list(make(clips or Numbers(), folder, count, more.pop("write", write), COMMAND, **more))


# ---- making --------------------------------------------------------------------------------------------------------


def test_a_set_is_a_list_with_its_clips_and_how_it_was_made(tmp_path: Path) -> None:
    assert made(tmp_path / "set", 12) == [*range(13)]
    found = contents(tmp_path / "set")
    assert len(found) == 12 + 3 and COMMAND in found["README.md"].decode()
    rows = [json.loads(line) for line in found["manifest.jsonl"].splitlines()]
    assert [row["split"] for row in rows] == ["train"] * 9 + ["test"] + ["train"] * 2
    assert rows[3]["frames"] == 2 and rows[3]["duration"] == 0.25 and rows[3]["actions"] == [3, 1]
    clips = read_manifest(None, tmp_path / "set" / "manifest.jsonl", ["actions"])
    assert clips[11].captions == ("clip 11",) and clips[11].columns["actions"] == [11.0, 1.0]
    assert made(tmp_path / "set", 12) == [12] and contents(tmp_path / "set") == found
    assert made(tmp_path / "set", 5) == [12] and contents(tmp_path / "set") == found  # fewer are there, too


@pytest.mark.parametrize("seed", range(6))
def test_whatever_stops_it_the_same_set_comes_of_it(seed: int, tmp_path: Path) -> None:
    """It breaks off before, in and behind files; half lines and clips that have gone are made again; a set may grow."""
    made(tmp_path / "whole", 30)
    dice, folder = random.Random(seed), tmp_path / "set"
    for _ in range(6):
        calls = dice.randint(1, 6)

        def breaking(file: Path, clip: Made, clips: ClipSet, left: list[int] = [calls]) -> None:  # noqa: B006
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            write(file, clip, clips)

        with pytest.raises(KeyboardInterrupt):
            made(folder, 30, write=breaking)
        part = folder / "manifest.jsonl.part"
        assert not (folder / "manifest.jsonl").exists(), "a list is never of half a set"
        lines = part.read_bytes()
        if dice.random() < 0.5:
            part.write_bytes(lines[: dice.randint(0, len(lines))])
        elif files := sorted(folder.glob("clips/*/*")):
            dice.choice(files).unlink()
    if dice.random() < 0.5:
        made(folder, 20)
        assert len(contents(folder)) == 20 + 3
    made(folder, 30)
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_process_that_is_killed_leaves_what_the_next_goes_on_with(tmp_path: Path) -> None:
    made(tmp_path / "whole", 9)
    command = [sys.executable, "-m", "tests.data.fake_set", str(tmp_path / "set"), "9"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(6)] == [f"{number}\n" for number in range(6)]
        with pytest.raises(ValueError, match="is being made by another process"):
            made(tmp_path / "set", 9)
        process.kill()
    assert made(tmp_path / "set", 9) == [5, 6, 7, 8, 9]
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_several_processes_make_the_same_files(tmp_path: Path) -> None:
    assert made(tmp_path / "many", 11, jobs=2) == [*range(12)] and made(tmp_path / "one", 11)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_what_would_mix_two_sets_is_one_line_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "set", 3)
    before = contents(tmp_path / "set")
    with pytest.raises(ValueError, match="made with seed=0, and seed=1 would make other clips; name a new folder"):
        made(tmp_path / "set", 5, Numbers(seed=1))
    monkeypatch.setattr(Numbers, "name", "others")
    with pytest.raises(ValueError, match="made with set=numbers, and set=others"):
        made(tmp_path / "set", 5)
    monkeypatch.undo()
    monkeypatch.setattr("data.sets.make.versions", lambda packages: dict.fromkeys(packages, "0.1"))
    with pytest.raises(ValueError, match=r"made with numpy=.*, and numpy=0.1 would make other clips"):
        made(tmp_path / "set", 5)
    monkeypatch.undo()
    assert contents(tmp_path / "set") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "set.jpg").touch()
    for there in (tmp_path / "mine", tmp_path / "mine" / "set.jpg"):
        with pytest.raises(ValueError, match="is there and not empty; name a new folder"):
            made(there, 3)
    (tmp_path / "set" / "set.json").write_text("{")
    with pytest.raises(ValueError, match=r"set.json is damaged"):
        made(tmp_path / "set", 5)


# ---- what clips show -----------------------------------------------------------------------------------------------


def test_actions_are_held_for_a_while_and_drawn_by_their_weights() -> None:
    stream = held_actions(rng(0, 0), [3, 5, 7], [1.0, 0.0, 3.0], 4)
    drawn = np.array([next(stream) for _ in range(20_000)])
    assert set(drawn) == {3, 7} and (drawn == 7).mean() == pytest.approx(0.75, abs=0.02)
    changes = np.diff(np.flatnonzero(np.diff(drawn) != 0))
    assert changes.min() >= 1 and (drawn[1:] == drawn[:-1]).mean() > 0.6


@pytest.mark.parametrize("index", range(20))
def test_digits_go_straight_and_bounce_off_the_edges(index: int) -> None:
    places = np.array(moving_mnist.path(rng(0, index), 200))
    free = moving_mnist.SIZE - moving_mnist.DIGIT
    assert places.min() == 0 and places.max() == free
    steps = np.diff(places, axis=0)
    inside = ((places[1:] > 4) & (places[1:] < free - 4)).all(1)
    speeds = np.hypot(*steps[inside].T)
    assert speeds.min() > 3.6 - 1.5 and speeds.max() < 3.6 + 1.5  # places are whole pixels
    assert np.mean(speeds) == pytest.approx(3.6, abs=0.5)


def test_moving_mnist_shows_its_digits() -> None:
    pytest.importorskip("sklearn.datasets", reason=WHY)
    clips, again = MovingMNIST(0), MovingMNIST(0)
    pictures, digits = clips._digits
    assert pictures.shape == (1797, 28, 28) and (pictures[:, :4] == 0).all() and pictures.max() == 255
    assert np.bincount(digits).min() > 100
    for index in (7, 4):
        clip = clips.clip(index)
        assert clip.frames.shape == (20, 64, 64, 3) and (clip.frames == clip.frames[..., :1]).all()
        np.testing.assert_array_equal(clip.frames, again.clip(index).frames)
        one, two = clip.columns["label"].split()
        assert one <= two and clip.caption == f"the handwritten digits {one} and {two} move and bounce"
    assert not np.array_equal(clips.clip(1).frames, MovingMNIST(1).clip(1).frames)
    assert MovingMNIST(0, num_digits=1).clip(0).caption.startswith("the handwritten digit ")


def test_digits_of_test_clips_are_in_no_other_clip() -> None:
    pytest.importorskip("sklearn.datasets", reason=WHY)
    grey = np.where(np.arange(1000) < 1000 - moving_mnist.HELD_OUT, 100, 200).astype(np.uint8)
    clips = MovingMNIST(0)
    clips.__dict__["_digits"] = grey[:, None, None].repeat(28, 1).repeat(28, 2), np.zeros(1000, np.int64)
    for index in range(40):
        levels = set(np.unique(clips.clip(index).frames))
        assert levels == {0, 200 if split(index) == "test" else 100}, index
    assert [split(index) for index in range(8, 11)] == ["train", "test", "train"]


class Console:
    """An emulator whose screen is the number of the last action, with every second frame black as of a flickering
    sprite; its game ends after some actions."""

    def __init__(self, lasts: int) -> None:
        self.seen, self.acts, self.lasts = 0, 0, lasts

    def getMinimalActionSet(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(value=action) for action in (2, 3, 4)]

    def getScreenRGB(self) -> np.ndarray:
        return np.full((2, 2, 3), self.seen * (self.acts % 2 == 0), np.uint8)

    def act(self, action: int) -> None:
        self.seen, self.acts = int(action), self.acts + 1

    def game_over(self) -> bool:
        return self.acts >= self.lasts * atari.HELD


def alternating(played: Iterator[tuple[np.ndarray, int]]) -> tuple[list[int], list[int]]:
    shown = list(played)
    return [int(frame.max()) for frame, _ in shown], [action for _, action in shown]


def test_an_action_shows_in_the_frame_behind_its_own() -> None:
    frames, actions = alternating(Atari._played(Console(30), rng(0, 0)))
    assert len(frames) == 30 and frames == [0, *actions[:-1]] and set(actions) == {2, 3, 4}


@pytest.fixture(scope="module")
def games() -> list[ClipSet]:
    """Of each kind that is installed a small set."""
    found: list[ClipSet] = []
    kinds: list[Callable[[], ClipSet]] = [
        lambda: Atari(0, ["pong", "breakout"], 6),
        lambda: Doom(0, doom.SCENARIOS[:2], 6),
    ]
    for kind in kinds:
        try:
            found.append(kind())
        except ValueError as error:
            assert "is not installed" in str(error)
    return found


def test_a_game_is_played_alike_whatever_was_played_before(games: list[ClipSet]) -> None:
    if not games:
        pytest.skip(f"ale-py and vizdoom are {WHY}")
    for clips in games:
        first = {index: clips.clip(index) for index in (0, 1, 2, 3)}
        for index in (3, 1, 2, 0):
            again = clips.clip(index)
            np.testing.assert_array_equal(again.frames, first[index].frames)
            assert again.columns == first[index].columns
        for index, clip in first.items():
            assert clip.frames.dtype == np.uint8 and len(clip.frames) == len(clip.columns["actions"]) == 6
            assert clip.columns["label"] in clip.caption.lower().replace(" ", "_")
            assert clip.columns["split"] == split(index)
        assert not np.array_equal(first[0].frames, first[2].frames)
        assert len({frame.tobytes() for clip in first.values() for frame in clip.frames}) > 12, "something moves"


def test_licences_are_said_as_they_are(games: list[ClipSet]) -> None:
    if not games:
        pytest.skip(f"ale-py and vizdoom are {WHY}")
    said = {clips.name: clips.clip(0).columns["licence"] for clips in games}
    assert said.items() <= {"atari": "unknown", "doom": "BSD-3-Clause"}.items()
    for clips in games:
        assert "## Licence" in clips.about() and "`actions[i]`" in clips.about()


@pytest.mark.parametrize(("module", "make_it", "said"), [
    ("ale_py", lambda: Atari(0, ["brekout"]), "games: ale-py has no brekout; breakout is meant?"),
    ("vizdoom", lambda: Doom(0, ["my_way_hom"]), "scenarios: vizdoom has no my_way_hom; my_way_home is meant?"),
])  # fmt: skip
def test_a_game_that_there_is_not_is_one_line(module: str, make_it: Any, said: str) -> None:
    pytest.importorskip(module, reason=WHY)
    with pytest.raises(ValueError) as error:
        make_it()
    assert str(error.value) == said


def test_lossless_files_hold_every_pixel_for_every_decoder(tmp_path: Path) -> None:
    import torch

    from dit.media.video import write_video

    pixels = torch.randint(0, 256, (3, 7, 21, 18), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name in ("one", "two"):
        write_video(tmp_path / f"{name}.mp4", pixels, 17.5, {"licence": "generated"}, lossless=True, reproducible=True)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    decoders = [each for each in (Decord(), TorchCodec(), PyAV()) if each.missing() is None]
    for decoder in decoders:
        frames = Ladder(decoders=[decoder]).frames(tmp_path / "one.mp4", range(7))
        np.testing.assert_array_equal(frames, pixels.permute(1, 2, 3, 0).numpy(), err_msg=decoder.name)
