"""Which keys of `cond` a part of the network reads. Every part that is handed `cond` declares them as `reads`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor


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


def required(cond: Mapping[str, Tensor], key: str, instead: str = "") -> Tensor:
    """cond[key], or a ValueError that says what is there, and ends with `instead`."""
    if key not in cond:
        there = ", ".join(sorted(cond)) or "nothing"
        raise ValueError(f"this network needs cond[{key!r}], and got only: {there}{instead}")
    return cond[key]
