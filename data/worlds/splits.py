"""Splits by design: what is held out of training, and what lies outside of it."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from data.worlds.motion import MOTIONS

# What each split shows, for whoever lists them.
SPLITS = {
    "train": "combinations of colour, shape and direction that are not held out",
    "heldout": "those that are",
    "slower": "speeds below those of training",
    "faster": "speeds above them",
    "smaller": "sizes below those of training",
    "larger": "sizes above them",
    "longer": "clips of more frames than those of training",
}
BY_SPEED, BY_SIZE = ("slower", "faster"), ("smaller", "larger")  # below and above the range of training
_SALT = 19086  # of 20,000 tried, the one that holds out the words of configs/data/dataset/demo_world.yaml most evenly


def is_held_out(colour: str, shape: str, direction: str, fraction: float) -> bool:
    """Whether a combination is on the held-out side.

    A hash of the words alone decides, so the answer is the same in every world, and a larger fraction only adds
    combinations.
    """
    digest = blake2b(f"{_SALT} {colour} {shape} {direction}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2.0**64


def motion_directions(motion: str, directions: Sequence[str]) -> list[str]:
    """The directions that `motion` takes in a world with these `directions`; one that has no choice needs no word."""
    own = MOTIONS[motion].directions or directions
    return [word for word in own if word in directions or len(own) == 1]


def shown_words(
    split: str, kind: str, trained: Mapping[str, float], outside: Mapping[str, float], jitter: float
) -> list[str]:
    """The size or speed words (`kind`) that a split shows.

    trained, outside: word -> value, of training and outside its range. jitter: the share by which values vary.
    Raises ValueError for a word outside of training that is not, and where there is none to show.
    """
    if not 0.0 <= jitter < 1.0:
        raise ValueError(f"{kind}_jitter={jitter} must be at least 0 and below 1")
    least, most = min(trained.values()) * (1.0 - jitter), max(trained.values()) * (1.0 + jitter)
    below = [word for word, value in outside.items() if value * (1.0 + jitter) < least]
    above = [word for word, value in outside.items() if value * (1.0 - jitter) > most]
    for word, value in outside.items():
        if word in trained or word not in below + above:
            raise ValueError(
                f"outside_{kind}s: {word} ({value:g}) is within those of training ({least:g} to {most:g}); give values "
                f"below or above them, under other words"
            )
    lower, upper = BY_SIZE if kind == "size" else BY_SPEED
    if split not in (lower, upper):
        return list(trained)
    found = below if split == lower else above
    if not found:
        range_ = f"below {least:g}" if split == lower else f"above {most:g}"
        raise ValueError(f'split "{split}" shows {kind}s {range_}, of which outside_{kind}s has none: name one')
    return found
