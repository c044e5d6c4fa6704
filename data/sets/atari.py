"""Games of the Atari 2600 with the action of each frame, played at random by the Arcade Learning Environment.

ale-py (Bellemare et al. 2013, arXiv 1207.4708; GPL-2.0) ships the games. Actions are those of the whole console, the
same 18 for all games, each held for 4 of the console's 60 frames a second, as is usual (Mnih et al. 2015); what is
kept is the brighter of the last two, since the console shows some sprites in every second frame only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from data.sets.base import Made, Played, held_actions, long_enough, package, rng, split

ACTIONS = (
    *("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT"),
    *("UPFIRE", "RIGHTFIRE", "LEFTFIRE", "DOWNFIRE", "UPRIGHTFIRE", "UPLEFTFIRE", "DOWNRIGHTFIRE", "DOWNLEFTFIRE"),
)
FIRE = ACTIONS.index("FIRE")
GAMES = ("breakout", "enduro", "ms_pacman", "pong", "seaquest", "space_invaders")
RATE = 60  # frames a second of the console
HELD = 4  # of them for each action, and each frame of a clip
LONGEST = 8  # frames that an action is held for at most
BEFORE = 300  # frames that are played at most before a clip begins
SEEDS = 2**31  # that the emulator takes


class Atari:
    """Clips of the set: clip `index` is of game `index % len(games)`.

    Args:
        seed: other ones play otherwise.
        games: names of games as ale-py writes them.
        num_frames: of each clip, 15 a second.
    """

    name = "atari"
    fps = RATE / HELD
    lossless = True
    captions_beside = False
    manifest = "manifest.jsonl"
    packages = ("ale-py",)

    def __init__(self, seed: int, games: Sequence[str] = GAMES, num_frames: int = 64) -> None:
        if num_frames < 1 or not games:
            raise ValueError(f"num_frames={num_frames} must be at least 1, and one game must be named")
        self.seed = seed
        self.games = list(games)
        self.num_frames = num_frames
        known = self._ale.roms.get_all_rom_ids()
        for game in self.games:
            if game not in known:
                near = difflib.get_close_matches(game, known, 1, 0.5)
                meant = f"{near[0]} is meant?" if near else f"it has {', '.join(sorted(known))}"
                raise ValueError(f"games: ale-py has no {game}; {meant}")

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("seed", "games", "num_frames")}  # not the emulator

    def settings(self) -> Mapping[str, Any]:
        return self.__getstate__()

    @cached_property
    def _ale(self) -> Any:
        ale = package("ale_py", "ale-py")
        package("ale_py.roms", "ale-py")
        ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)
        return ale

    def clip(self, index: int) -> Made:
        game, random = self.games[index % len(self.games)], rng(self.seed, index)
        console = self._ale.ALEInterface()
        console.setInt("random_seed", int(random.integers(SEEDS)))
        console.setFloat("repeat_action_probability", 0.0)  # what is written beside a frame is what was done
        console.setBool("color_averaging", False)
        console.loadROM(self._ale.roms.get_rom_path(game))

        def begin() -> Iterator[Played]:
            console.reset_game()
            return self._played(console, random)

        shown = long_enough(begin, random, self.num_frames, BEFORE, f"games: games of {game}")
        return self._made(game, index, [frame for frame, _ in shown], [action for _, action in shown])

    @staticmethod
    def _played(console: Any, random: np.random.Generator) -> Iterator[Played]:
        """Each frame with the action that is taken when it is seen, until the game is over."""
        useful = sorted(action.value for action in console.getMinimalActionSet())
        if FIRE in useful:  # some games begin with it
            acted(console, FIRE)
        frame = console.getScreenRGB()
        for action in held_actions(random, useful, [1.0] * len(useful), LONGEST):
            yield frame, action
            for _ in range(HELD):
                before, frame = frame, acted(console, action)
            frame = np.maximum(before, frame)
            if console.game_over():
                return

    def _made(self, game: str, index: int, frames: list[np.ndarray], actions: list[int]) -> Made:
        title = game.replace("_", " ").title()
        return Made(
            frames=np.stack(frames),
            caption=f"the Atari 2600 game {title}, played at random",
            columns={
                "label": game,
                "split": split(index),
                "licence": "unknown",  # data/rights.py: refused unless it is allowed by this name
                "source": f"Atari 2600 game {game}, ROM of ale-py",
                "actions": actions,
            },
        )

    def about(self) -> str:
        listed = "\n".join(f"| {number} | {name} |" for number, name in enumerate(ACTIONS))
        return ABOUT.format(games=", ".join(self.games), frames=self.num_frames, seed=self.seed, actions=listed)


def acted(console: Any, action: int) -> np.ndarray:
    """The frame of the console behind an action."""
    console.act(action)
    frame: np.ndarray = console.getScreenRGB()
    return frame


ABOUT = """\
# Games of the Atari 2600, played at random, with actions

{games}: {frames} frames a clip, 15 a second, 160 pixels wide and 210 high (some games 250), every pixel as the
emulator gives it. Each clip is of a game of its own, cut out of its first half minute; no clip contains the end of a
game. Buttons are drawn at random among those that the game uses, and held for 1 to 8 frames. Every tenth clip is of
the split `test`.

## Actions
The column `actions` has one number a frame. `actions[i]` is what was done when frame `i` was seen, so its effect
shows in frame `i + 1`; the last one leads out of the clip. Numbers mean the same in all games:

| number | action |
| --- | --- |
{actions}

## Licence
**Unknown.** The games are commercial ones of the years 1977 to 1990. ale-py, whose own code is under GPL-2.0, ships
them without saying what their owners allow, and names no licence of any of them (of Tetris it says that its author
made it public). Clips are therefore marked `unknown`, which `data.licences` refuses unless it is named. To measure
methods on them is the custom of the field; whether they, or models of them, may be passed on is for each user to find
out.
"""
