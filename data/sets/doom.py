"""Doom with the action of each frame, played at random: ViZDoom (Kempka et al. 2016, arXiv 1605.02097) with Freedoom.

vizdoom ships the engine, its scenarios, and Freedoom 2, whose pictures are free; the pictures of the game Doom itself
are not needed. The view is that of the player, without status bar and cross-hair.
"""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.processes import Guard
from data.sets.base import Made, Played, held_actions, long_enough, package, rng, split

BUTTONS = ("MOVE_FORWARD", "MOVE_BACKWARD", "MOVE_LEFT", "MOVE_RIGHT", "TURN_LEFT", "TURN_RIGHT", "ATTACK", "USE")
ACTIONS: tuple[tuple[tuple[str, ...], float], ...] = (  # buttons that are held together, and how often that is drawn
    ((), 0.02),
    (("MOVE_FORWARD",), 0.26),
    (("MOVE_FORWARD", "TURN_LEFT"), 0.14),
    (("MOVE_FORWARD", "TURN_RIGHT"), 0.14),
    (("TURN_LEFT",), 0.10),
    (("TURN_RIGHT",), 0.10),
    (("MOVE_LEFT",), 0.05),
    (("MOVE_RIGHT",), 0.05),
    (("MOVE_BACKWARD",), 0.04),
    (("ATTACK",), 0.07),
    (("USE",), 0.03),
)
SCENARIOS = ("deadly_corridor", "defend_the_center", "health_gathering", "my_way_home")
RATE = 35  # tics a second of the game
HELD = 2  # of them for each action, and each frame of a clip
LONGEST = 12  # frames that an action is held for at most
BEFORE = 100  # frames that are played at most before a clip begins
SEEDS = 2**31


class Doom:
    """Clips of the set: clip `index` is of scenario `index % len(scenarios)`.

    Args:
        seed: other ones play otherwise.
        scenarios: names of .cfg files as vizdoom writes them.
        num_frames: of each clip, 17.5 a second.
    """

    name = "doom"
    fps = RATE / HELD
    lossless = False  # ten times as large, and what is seen is rough enough
    captions_beside = False
    manifest = "manifest.jsonl"
    packages = ("vizdoom",)

    def __init__(self, seed: int, scenarios: Sequence[str] = SCENARIOS, num_frames: int = 64) -> None:
        if num_frames < 1 or not scenarios:
            raise ValueError(f"num_frames={num_frames} must be at least 1, and one scenario must be named")
        self.seed = seed
        self.scenarios = list(scenarios)
        self.num_frames = num_frames
        known = sorted(file.stem for file in Path(self._vizdoom.scenarios_path).glob("*.cfg"))
        for name in self.scenarios:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.5)
                meant = f"{near[0]} is meant?" if near else f"it has {', '.join(known)}"
                raise ValueError(f"scenarios: vizdoom has no {name}; {meant}")

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("seed", "scenarios", "num_frames")}  # not the games

    def settings(self) -> Mapping[str, Any]:
        return self.__getstate__()

    @cached_property
    def _vizdoom(self) -> Any:
        return package("vizdoom", "vizdoom")

    @cached_property
    def _games(self) -> dict[str, Any]:
        return {}

    @cached_property
    def _guard(self) -> Guard:
        return Guard()

    def _game(self, scenario: str) -> Any:
        """An engine with this scenario; it is kept, since starting one takes most of a second."""
        if scenario in self._games:
            return self._games[scenario]
        vizdoom = self._vizdoom
        game = vizdoom.DoomGame()
        game.load_config(os.path.join(vizdoom.scenarios_path, f"{scenario}.cfg"))
        game.set_doom_config_path(os.devnull)  # it would be written where we are
        game.set_available_buttons([getattr(vizdoom.Button, name) for name in BUTTONS])
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_render_hud(False)
        game.set_render_crosshair(False)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_episode_timeout(0)
        game.set_doom_skill(1)  # whoever plays at random does not live long
        with tempfile.TemporaryDirectory() as scratch, chdir(scratch):  # the engine leaves a folder where it begins
            game.init()
        self._guard.watch("vizdoom")  # or engines of a process that is killed would wait for it for ever
        self._games[scenario] = game
        return game

    def clip(self, index: int) -> Made:
        scenario, random = self.scenarios[index % len(self.scenarios)], rng(self.seed, index)
        game = self._game(scenario)

        def begin() -> Iterator[Played]:
            game.set_seed(int(random.integers(1, SEEDS)))
            game.new_episode()
            return self._played(game, random)

        shown = long_enough(begin, random, self.num_frames, BEFORE, f"scenarios: episodes of {scenario}")
        return self._made(scenario, index, [frame for frame, _ in shown], [action for _, action in shown])

    @staticmethod
    def _played(game: Any, random: np.random.Generator) -> Iterator[Played]:
        """Each frame with the action that is taken when it is seen, until the episode ends."""
        for action in held_actions(random, range(len(ACTIONS)), [weight for _, weight in ACTIONS], LONGEST):
            if game.is_episode_finished():
                return
            yield game.get_state().screen_buffer.copy(), action
            game.make_action([name in ACTIONS[action][0] for name in BUTTONS], HELD)

    def _made(self, scenario: str, index: int, frames: list[np.ndarray], actions: list[int]) -> Made:
        return Made(
            frames=np.stack(frames),
            caption=f"the game Doom in first person, scenario {scenario.replace('_', ' ')}, played at random",
            columns={
                "label": scenario,
                "split": split(index),
                "licence": "BSD-3-Clause",
                "source": f"Freedoom pictures, ViZDoom scenario {scenario}",
                "actions": actions,
            },
        )

    def about(self) -> str:
        rows = [f"| {number} | {' + '.join(names) or 'nothing'} |" for number, (names, _) in enumerate(ACTIONS)]
        return ABOUT.format(scenarios=", ".join(self.scenarios), frames=self.num_frames, actions="\n".join(rows))


ABOUT = """\
# Doom with Freedoom's pictures, played at random, with actions

Scenarios {scenarios}: {frames} frames a clip, 17.5 a second, 160x120 pixels, every pixel as the engine gives it,
without status bar and cross-hair. Each clip is of an episode of its own; no clip contains the end of one. Buttons are
drawn at random, forward most often, and held for 1 to 12 frames. Every tenth clip is of the split `test`.

## Actions
The column `actions` has one number a frame. `actions[i]` is what was done when frame `i` was seen, so its effect
shows in frame `i + 1`; the last one leads out of the clip. Numbers mean the same in all scenarios:

| number | buttons held |
| --- | --- |
{actions}

## Licence
What is seen are pictures of Freedoom. Its file, `freedoom2.wad`, which vizdoom ships, says of itself: "Freedoom is
freely redistributable under the terms of the modified BSD license." The maps of the scenarios are part of ViZDoom,
whose own code is under the MIT licence; of the maps it says nothing apart. The engine is ZDoom, parts of which may
not be sold; none of it is in the clips.
"""
