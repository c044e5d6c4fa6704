"""Class numbers from what a user writes: a number, or a name that the checkpoint knows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from dit.diffusion.cond import NO_CLASS

SHOWN = 8  # names that a message lists


def class_number(said: str | int | None, num_classes: int, names: Sequence[str]) -> int:
    """A class from its number or its name; None, "" and `num_classes` itself are `NO_CLASS`.

    names: of the classes, in the order of their numbers; a network may have room for more, or know no names.

    Raises:
        ValueError: there is no such class; in one line, with the nearest names.
    """
    if said is None or said == "":
        return NO_CLASS
    text = str(said).strip()
    if text in names:
        return list(names).index(text)
    if text.isdecimal() and int(text) <= num_classes:
        return NO_CLASS if int(text) == num_classes else int(text)
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.5) or list(names[:SHOWN])
    more = f", ... ({len(names)} in all)" if len(names) > len(near) else ""
    known = f", or names: {', '.join(near)}{more}" if names else ""
    raise ValueError(f"class {said!r} is not known: this network reads class numbers, 0 to {num_classes - 1}{known}")
