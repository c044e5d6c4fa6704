"""Ranges of config values as types: `depth: Count`, `eps: Positive`. `kinds.fitted` holds values against them.

A constructor that names one of these is never built from a config with a value outside of it, whether the config comes
from the command line or a file. For type checkers and for whoever calls the constructor, they are the plain types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """Which numbers an argument takes. `least` is among them, `above` is not; numbers beyond `most` are not.

    infinite: whether `inf` is among them. nan never is.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    infinite: bool = False

    def __contains__(self, value: float) -> bool:
        return (
            (self.infinite or value not in (float("inf"), float("-inf")))
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        lowest = "" if self.least is None else f"at least {self.least:g}"
        lowest = lowest if self.above is None else f"above {self.above:g}"
        highest = "" if self.most is None else f"at most {self.most:g}"
        return " and ".join(each for each in (lowest, highest) if each) or "a finite number"


Natural = Annotated[int, Range(least=0)]
Count = Annotated[int, Range(least=1)]
Seed = Annotated[int, Range(least=0, most=2**63 - 1)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
