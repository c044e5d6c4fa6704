"""When a callback acts."""

from enum import IntEnum


class Place(IntEnum):
    """The order in which callbacks are built, and in which Lightning calls them at each hook. A class names its place
    in the attribute `place`. Those of one place keep the order of the config."""

    FIRST = 0
    """Before all others: gradients are not clipped yet."""

    UPDATE = 1
    """Part of an update: averages of the weights, the guard of the gradient, random states."""

    STEP = 2
    """Observes a finished step; also the place of a class that names none. It comes before saving, so that the
    checkpoint of the step holds what it keeps."""

    TASK = 3
    """No callback, but work at some steps that `AfterStep` does: validation, previews."""

    SAVE = 4
    """`AfterStep`: saves, then does the tasks that are due."""

    SHOW = 5
    """After all others: the progress line, which starts its clock for the next step here."""
