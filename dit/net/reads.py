"""Which keys of `cond` a part of the network reads. Every part that is handed `cond` declares them as `reads`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Reads(NamedTuple):
    """required: keys without which the part raises. optional: keys that it reads where they are there."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def union(parts: Iterable[Any], *more: Reads) -> Reads:
    """What parts read together, and `more`; a key that one of them needs is needed."""
    declared: list[Reads] = [*(part.reads for part in parts), *more]
    required = dict.fromkeys(key for each in declared for key in each.required)
    optional = dict.fromkeys(key for each in declared for key in each.optional if key not in required)
    return Reads(tuple(required), tuple(optional))
