"""When a callback acts."""

from enum import IntEnum


class Place(IntEnum):
    """The order in which callbacks are built, and called wherever Lightning calls them, as behind a step. A class says
    its own as `place`; those of one place keep the order of the config."""

    FIRST = 0
    """In front of all: gradients are not clipped yet."""

    UPDATE = 1
    """What belongs to an update: averages of the weights, the guard of the gradient, random numbers."""

    STEP = 2
    """What looks at a step that was made, and whatever does not say where it stands. It comes before saving, so that
    what it keeps is in the checkpoint of its step."""

    TASK = 3
    """No callback of its own: `AfterStep` makes it at some steps, as validation and previews."""

    SAVE = 4
    """`AfterStep`: saves, then makes what is due."""

    SHOW = 5
    """Behind all: the progress line, whose clock starts again here."""
