"""Numbers as one reads them."""

from __future__ import annotations

import math

from dit.statistics import Estimate

PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
CLOSE = 1e-9
SCALED = ("share", "tokens", "FLOP", "s", "step")  # units in which a number is written in a way of its own


def number(value: float, digits: int = 4) -> str:
    """`0.0809`, `12,345`, `1.3e-05`: so many digits that mean something, whole numbers in full."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1e-4 <= abs(value) < 1e6:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{places}f}"
    return f"{value:.{digits - 1}e}"


def short(value: float) -> str:
    """`2.05 M`, `24.9 T`."""
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def span(seconds: float) -> str:
    """A time in the two largest units that are in it: `7 min 19 s`."""
    whole = round(seconds)
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.2g} s" if seconds < 1 else f"{whole} s"


def quantity(value: float, unit: str) -> str:
    """A value with its unit; a share in per cent."""
    match unit:
        case "share":
            return f"{100 * value:.1f} %"
        case "tokens":
            return short(value)
        case "FLOP":
            return f"{short(value)}FLOP"
        case "s":
            return span(value)
        case "step":
            return f"{value:,.0f}"
        case _:
            return number(value)


def interval(each: Estimate, unit: str) -> str:
    """What stands behind the mean: `± 0.0012`, `[93, 99]`; nothing where there is no interval, or where all agree."""
    if each.low is None or each.high is None or each.high - each.low <= CLOSE * abs(each.mean):
        return ""
    if unit == "share":
        return f"[{100 * max(0.0, each.low):.0f}, {100 * min(1.0, each.high):.0f}]"
    half = (each.high - each.low) / 2
    if abs((each.high + each.low) / 2 - each.mean) > 0.02 * half:
        return f"[{quantity(each.low, unit)}, {quantity(each.high, unit)}]"
    return f"± {quantity(half, unit) if unit in SCALED else number(half, 2)}"
