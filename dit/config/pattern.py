"""Patterns of blocks: `F`, `ST`, `D20P40`. A letter is a kind of block, a number behind it says how often it comes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import chain, cycle, groupby, islice, repeat


def runs(pattern: str) -> list[tuple[str, int]]:
    """Letters and how often each comes, in order. Raises ValueError for anything but letters and numbers from 1 on."""
    found = re.findall(r"([^\W\d_])([1-9][0-9]*)?", pattern)
    if not found or "".join(map("".join, found)) != pattern:
        raise ValueError(f"pattern={pattern!r} must be letters, each with a number from 1 on behind it or none: D20P40")
    return [(letter, int(count or 1)) for letter, count in found]


def spelled(pattern: str, depth: int, letters: Collection[str]) -> Iterator[str]:
    """The letter of each of `depth` blocks: the pattern over and over. One that counts must end with the last block.

    Raises ValueError for a letter that is none of `letters`, and for counts of which `depth` is no multiple.
    """
    parts = runs(pattern)
    unknown = sorted({letter for letter, _ in parts} - set(letters))
    if unknown:
        raise ValueError(
            f"pattern={pattern!r} must be of block templates {', '.join(letters)}; unknown: {', '.join(unknown)}"
        )
    total = sum(count for _, count in parts)
    if any(each.isdigit() for each in pattern) and depth % total:
        raise ValueError(f"pattern={pattern!r} is {total} blocks, and depth={depth} is no multiple of that")
    return islice(chain.from_iterable(repeat(*run) for run in cycle(parts)), depth)


def short(pattern: str) -> str:
    """The one spelling, with counts, of all patterns that say the same. Raises ValueError as `runs`."""
    merged = groupby(runs(pattern), key=lambda run: run[0])
    totals = [(letter, sum(count for _, count in group)) for letter, group in merged]
    return "".join(f"{letter}{count}" if count > 1 else letter for letter, count in totals)
