"""What an ablation is asked for: settings, and the axes whose product are its variants."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob

from dit.entry import options
from dit.entry.literal import CHOICE, NAMES, TEXTS, literal
from scripts import arguments

VARY, VARIANT = "vary", "variant."
LOCAL, AUTO, NONE = "local", "auto", "none"
BUDGETS = ("flops", "tokens", "steps")
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
# What every run of an ablation is given by it.
GIVEN = {
    "seed": "seeds=3 first_seed=0 say which seeds",
    "name": "name= is that of the whole ablation",
    "trainer.max_steps": "it follows from the budget; budget_each=600 budget_in=steps says it in steps",
    "show": "show=true is said once, for the whole ablation",
}


@dataclass(frozen=True)
class Asked:
    """`name=value` on the command line."""

    name: str | None = None  # results and runs lie in runs/NAME; null: of the experiment and of what varies
    seeds: int = 3  # runs of each variant, with seeds that follow one another; at least 2
    first_seed: int = 0  # the seed of the first run of each variant
    budget: float | None = None  # of the whole ablation, shared out equally among its runs
    budget_each: float | None = None  # or of each run: then more seeds and variants can be added later
    budget_in: str = "flops"  # flops, tokens or steps
    baseline: str | None = None  # the variant that others are held against; null: the first one
    metrics: str | None = None  # columns of metrics.csv, or measures; the first decides; null: val/x0_error (val/psnr)
    evaluate: str = "auto"  # arguments of scripts/evaluate.py for each run; auto: where suite=world can; none
    jobs: int = 1  # runs at once on this machine, which share its cores and GPUs
    launcher: str = "local"  # or a launcher of Hydra's, such as submitit_slurm (requirements-slurm.txt)
    show: bool = False  # true: say what would be done, and do nothing


@dataclass(frozen=True)
class Variant:
    """label: in tables and in the names of runs. overrides: of train.py, beside those of all."""

    label: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """One command. overrides: of train.py, for all variants. launch: those of Hydra's launcher."""

    asked: Asked
    variants: tuple[Variant, ...]
    overrides: tuple[str, ...]
    launch: tuple[str, ...]
    name: str

    @property
    def seeds(self) -> range:
        return range(self.asked.first_seed, self.asked.first_seed + self.asked.seeds)

    @property
    def baseline(self) -> str:
        return self.asked.baseline or self.variants[0].label


def parsed(typed: Sequence[str], example: str) -> Request:
    """Arguments of the command line. Raises ValueError, in one line, for what cannot be meant."""
    axes = [each.partition("=")[2] for each in typed if each.startswith(f"{VARY}=")]
    named = [each.removeprefix(VARIANT) for each in typed if each.startswith(VARIANT)]
    others = [each for each in typed if not each.startswith((f"{VARY}=", VARIANT))]
    given, overrides = arguments.parse(Asked, others, example)
    asked = Asked(**given)
    launch = [each for each in overrides if each.startswith("hydra.")]
    overrides = [each for each in overrides if each not in launch]
    check(asked, overrides, launch)
    variants, keys = variants_of(axes, named)
    known = [variant.label for variant in variants]
    if asked.baseline is not None and asked.baseline not in known:
        raise ValueError(f"baseline={asked.baseline} is no variant; there are {', '.join(known)}")
    name = default_name(overrides, keys) if asked.name is None else asked.name
    return Request(asked, tuple(variants), tuple(overrides), tuple(launch), name)


def check(asked: Asked, overrides: Sequence[str], launch: Sequence[str]) -> None:
    """Raises ValueError for settings that cannot be."""
    if asked.seeds < 2:
        raise ValueError(
            f"seeds={asked.seeds} gives no interval, so that no difference can be told from chance: at least 2, and 3"
            " are the least of use"
        )
    if asked.first_seed < 0:
        raise ValueError(f"first_seed={asked.first_seed} must be at least 0")
    if asked.jobs < 1:
        raise ValueError(f"jobs={asked.jobs} must be at least 1")
    if asked.budget_in not in BUDGETS:
        raise ValueError(f"budget_in={asked.budget_in} is none of {', '.join(BUDGETS)}")
    if (asked.budget is None) == (asked.budget_each is None):
        said = "neither is" if asked.budget is None else "both are"
        raise ValueError(
            f"give either budget=2e13, of the whole ablation, or budget_each=3e12, of each run ({said} given; in"
            f" {', '.join(BUDGETS)}: budget_in=)"
        )
    amount = asked.budget if asked.budget is not None else asked.budget_each
    if amount is None or not 0 < amount < float("inf"):
        raise ValueError(f"the budget is {amount}, and must be above 0")
    if launch and asked.launcher == LOCAL:
        raise ValueError(f"{launch[0]} is for a launcher, and none is named: launcher=submitit_slurm")
    if asked.jobs > 1 and asked.launcher != LOCAL:
        raise ValueError(f"jobs={asked.jobs} is for this machine; launcher={asked.launcher} has settings of its own")
    for each in overrides:
        key = each.partition("=")[0].lstrip("+~")
        if key in GIVEN:
            raise ValueError(f"{each} is not for a run alone: {GIVEN[key]}")


def variants_of(axes: Sequence[str], named: Sequence[str]) -> tuple[list[Variant], list[str]]:
    """All variants, and in short what varies.

    axes: `net.depth=2,4 net/position=rope3d,sincos`, any number in each. named: `wide=net.width=256 net.heads=8`; they
    are one axis together.
    """
    split = [each for axis in axes for each in words(axis)]
    values = [axis_of(each) for each in split]
    keys = [short(key) for key, _ in values]
    sides = [
        [(f"{name}.{label(value)}", (f"{key}={value}",)) for value in of_axis]
        for name, (key, of_axis) in zip(keys, values, strict=True)
    ]
    if named:
        sides.append([named_variant(each) for each in named])
        keys.append("")
        if len(named) < 2 and not axes:
            name, _, given = named[0].partition("=")
            raise ValueError(
                f"{VARIANT}{name}={given!r} is the only variant; another one, such as {VARIANT}base='', is needed to"
                " compare it with"
            )
    if not sides:
        raise ValueError("nothing varies: vary='net/position=rope3d,sincos', or variant.NAME='net.width=256 ...' twice")
    found = [
        Variant("-".join(name for name, _ in each), tuple(text for _, texts in each for text in texts))
        for each in product(*sides)
    ]
    labels = [each.label for each in found]
    for each in labels:
        if labels.count(each) > 1:
            raise ValueError(f"two variants are called {each}: give names of your own, {VARIANT}NAME='...'")
    return found, [key for key in keys if key]


def words(text: str) -> list[str]:
    """Overrides at their spaces, but for those in quotes or brackets, which stay: they are Hydra's. Free texts, which
    train.py takes without quotes, lose those around them. ValueError for a quote or bracket that is not closed."""
    found, open_, quote, word = [], 0, "", ""
    for sign in text:
        if quote or sign in "\"'":
            quote = "" if sign == quote else quote or sign
        elif sign in "([{":
            open_ += 1
        elif sign in ")]}":
            open_ -= 1
        elif sign.isspace() and not open_:
            found.append(word)
            word = ""
            continue
        word += sign
    if quote or open_:
        raise ValueError(f"{text!r} has a quote or a bracket that is not closed")
    return [_bare(each) for each in [*found, word] if each]


def _bare(override: str) -> str:
    key, _, value = override.partition("=")
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return f"{key}={value[1:-1]}" if quoted and key.lstrip("+~") in TEXTS | NAMES else override


def axis_of(text: str) -> tuple[str, list[str]]:
    """`net/position=rope3d,sincos` as its key and each value, as train.py takes them."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"vary={text} names no values: key=first,second")
    if (bare := key.lstrip("+~")) in GIVEN:
        raise ValueError(f"vary={text}: {bare} cannot vary: {GIVEN[bare]}")
    values = values_of(text, bare, value)
    if len(values) < 2:
        raise ValueError(f"vary={text} has one value, {value or 'nothing'}; give at least two: {key}=first,second")
    twice = [each for each in values if values.count(each) > 1]
    if twice:
        raise ValueError(f"vary={text} has {twice[0]} twice; equal variants need names: {VARIANT}a='' {VARIANT}b=''")
    return key, values


def values_of(text: str, key: str, value: str) -> list[str]:
    """The values of one axis, as train.py takes each. Paths and names are split at their commas; those that hold some
    are given as `choice("a, b", c)`. All else is in Hydra's grammar, whose HydraException passes."""
    free = key in TEXTS | NAMES
    if free and not CHOICE.fullmatch(value):
        return [each.strip() for each in value.split(",")]
    (override,) = OverridesParser.create().parse_overrides(literal([text, "-m"])[:1])
    swept: Any = override.value()
    if isinstance(swept, Glob):
        return list(swept.filter(options(key)))
    if free:
        return [str(getattr(each, "text", each)) for each in swept.list]
    return list(map(str, override.sweep_string_iterator())) if override.is_sweep_override() else [value]


def named_variant(text: str) -> tuple[str, tuple[str, ...]]:
    """`wide=net.width=256 net.heads=8`: a name and its overrides."""
    name, equals, given = text.partition("=")
    if not equals or not NAME.fullmatch(name):
        raise ValueError(f"{VARIANT}{text} is not {VARIANT}NAME='key=value ...', with a name of letters and digits")
    overrides = tuple(words(given))
    for each in overrides:
        key, equals, _ = each.partition("=")
        if not equals and not key.startswith("~"):
            raise ValueError(f"{VARIANT}{name}: {each!r} is not key=value")
        if key.lstrip("+~") in GIVEN:
            raise ValueError(f"{VARIANT}{name}: {each} is not for one variant alone: {GIVEN[key.lstrip('+~')]}")
    return name, overrides


def short(key: str) -> str:
    """`position` of `net/position`, as the runs of a sweep have it in their names."""
    return re.split(r"[./@]", key)[-1].lstrip("+~")


def label(value: str) -> str:
    """A value as it can stand in the name of a folder."""
    return re.sub(r"[^\w.+-]+", "_", value).strip("_") or "empty"


def default_name(overrides: Sequence[str], keys: Sequence[str]) -> str:
    experiment = next((each.partition("=")[2] for each in overrides if each.startswith("experiment=")), "")
    return "-".join(filter(None, [label(experiment) if experiment else "", *(keys or ["variants"])]))


def evaluation(asked: str, is_world: bool) -> tuple[str, ...] | None:
    """Arguments of scripts/evaluate.py for each run; None: runs are not evaluated."""
    if asked == AUTO:
        return () if is_world else None
    if asked == NONE:
        return None
    given = tuple(words(asked))
    for each in given:
        if "=" not in each:
            raise ValueError(f"evaluate={asked}: {each!r} is not key=value; for example evaluate='num_prompts=32'")
        if each.partition("=")[0] in ("ckpt", "out"):
            raise ValueError(f"evaluate={asked}: {each} is each run's own")
    return given
