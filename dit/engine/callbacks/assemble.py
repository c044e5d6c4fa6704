"""Builds the callbacks of a run from its config, gives each what it needs, and orders them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dit.config.build import build
from dit.config.kinds import TARGET, resolve
from dit.engine.callbacks.after_step import Task
from dit.engine.callbacks.place import Place


def assemble(nodes: Mapping[str, Any], run: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Builds `nodes`. They come in the order in which they act: by the `place` of their class, within one place as the
    config lists them.

    Args:
        nodes: name -> config node with a `_target_`; null: it is left out. The positional arguments of a `_partial_`
            one are what it needs, each by its name: something of the run, another one by its name in the config, or
            `tasks`, all of `Place.TASK`.
        run: name -> gives something of the run; called at most once, and only if it is needed.

    Raises:
        ValueError: something is needed that is not there, or two need each other; whatever a constructor raises, or a
            task that could never be made.
    """
    present = {name: node for name, node in nodes.items() if node is not None}
    order = sorted(present, key=lambda name: place(resolve(str(present[name][TARGET]))))
    tasks = [name for name in order if place(resolve(str(present[name][TARGET]))) is Place.TASK]
    made: dict[str, Any] = {}

    def make(name: str, asking: tuple[str, ...]) -> Any:
        if name in made:
            return made[name]
        if name in asking:
            raise ValueError(f"callbacks {' and '.join(sorted(set(asking)))} need each other")
        if name not in present:
            if name not in run:
                there = ", ".join([*run, *order, "tasks"])
                raise ValueError(f"callbacks.{asking[-1]} needs {name}, which is not there; there are {there}")
            made[name] = run[name]()
            return made[name]
        built = build(present[name])
        if isinstance(built, partial):
            asking = (*asking, name)
            needs = needs_of(built)
            built = built(*([make(each, asking) for each in tasks] if n == "tasks" else make(n, asking) for n in needs))
        if isinstance(built, Task):
            built.check()
        made[name] = built
        return built

    return {name: make(name, ()) for name in order}


def needs_of(unfinished: partial[Any]) -> list[str]:
    """The positional arguments that a partial still waits for."""
    parameters = inspect.signature(unfinished.func).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]


def place(thing: Any) -> Place:
    """Where a class or an object of it stands; `Place.STEP` where it does not say."""
    return getattr(thing, "place", Place.STEP)
