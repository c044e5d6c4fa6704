"""What a set of clips that anyone can make again is made of: clips by their number, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

TEST_EVERY = 10  # of so many clips the last is for testing, however many are made
REQUIREMENTS = "requirements-sets.txt"
ATTEMPTS = 50  # games that are begun for one clip
PATIENCE = 4  # of them before half as much is played before a clip


@dataclass(frozen=True)
class Made:
    """One clip.

    Attributes:
        frames: uint8 (F, H, W, 3); a single frame is an image.
        caption: what it shows.
        columns: further ones of its row in the manifest, `licence` and `source` among them; plain values.
        name: of its file, without the ending; None: by its number.
    """

    frames: NDArray[np.uint8]
    caption: str
    columns: Mapping[str, Any]
    name: str | None = None


class ClipSet(Protocol):
    """Clips by their number: clip `index` is the same bytes in any process, in any order.

    Attributes:
        name: of the set.
        fps: frames a second.
        lossless: whether files hold every pixel as it is.
        captions_beside: whether captions are text files beside the clips, as in anyone's folder, not in the list alone.
        packages: that the clips are made by, whose versions decide what they show.
        manifest: name of the list.
    """

    name: str
    fps: float
    lossless: bool
    captions_beside: bool
    packages: Sequence[str]
    manifest: str

    def settings(self) -> Mapping[str, Any]:
        """Plain values that decide what the clips show."""
        ...

    def clip(self, index: int) -> Made: ...

    def about(self) -> str:
        """Markdown for whoever finds the folder: what it is, how it is made, whose it is."""
        ...


def rng(seed: int, index: int) -> np.random.Generator:
    """Random numbers of clip `index` alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))


def split(index: int) -> str:
    """`test` for every `TEST_EVERY`-th clip, else `train`: a set may grow without a clip changing sides."""
    return "test" if index % TEST_EVERY == TEST_EVERY - 1 else "train"


def package(module: str, name: str) -> Any:
    """A module of an optional package. Raises ValueError, in one line, where it is not installed or does not load."""
    try:
        return import_module(module)
    except ImportError as error:
        why = f"is not installed or does not load ({' '.join(str(error).split())[:120]})"
        raise ValueError(
            f"this set is made by the package {name}, which {why}: pip install -r {REQUIREMENTS}"
        ) from None


def versions(packages: Sequence[str]) -> dict[str, str]:
    return {name: version(name) for name in packages}


Played = tuple[NDArray[np.uint8], int]  # a frame, and the action that is taken when it is seen


def long_enough(
    begin: Callable[[], Iterator[Played]], random: np.random.Generator, num_frames: int, before: int, what: str
) -> list[Played]:
    """`num_frames` frames in a row, behind up to `before` that are not shown, of the first game that lasts so long.

    begin: begins a game and plays it until it is over. what: "games: games of pong", for the message.

    Raises ValueError, in one line, where `ATTEMPTS` games are over too soon.
    """
    for attempt in range(ATTEMPTS):
        played = begin()
        longest = max(1, before >> attempt // PATIENCE)  # less where games are soon over
        for _ in zip(range(int(random.integers(longest))), played, strict=False):
            pass
        shown = [each for _, each in zip(range(num_frames), played, strict=False)]
        if len(shown) == num_frames:
            return shown
    key, _, games = what.partition(": ")
    raise ValueError(f"{key}: {ATTEMPTS} {games} in a row ended before {num_frames} frames were played; ask for fewer")


def held_actions(
    random: np.random.Generator, actions: Sequence[int], weights: Sequence[float], longest: int
) -> Iterator[int]:
    """An endless stream of actions, one a frame: each is drawn by its weight and held for 1 to `longest` frames.

    Players hold a button for a while; with an action drawn anew for each frame the player hardly moves.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    edges = np.cumsum(shares)
    while True:
        drawn = int(np.searchsorted(edges, random.random(), side="right"))
        for _ in range(int(random.integers(1, longest + 1))):
            yield actions[min(drawn, len(actions) - 1)]
