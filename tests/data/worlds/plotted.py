"""For each kind of the impossible a small world in which it can happen."""

from __future__ import annotations

from functools import cache
from typing import Any

from data.worlds.plots import Impossible
from data.worlds.world import World
from tests.data.worlds.world_settings import simple

LONGER: dict[str, Any] = {"num_frames": 16, "fps": 16.0, "num_clips": 100}


@cache
def world_of(kind: str) -> World:
    if kind == "through":
        return simple(**LONGER, motions={"bounce": 1.0}, num_objects={2: 1.0})
    if kind == "wall":
        return simple(**LONGER, motions={"bounce": 1.0}, sceneries={"box": 1.0}, sizes={"plain": 0.09})
    if kind.endswith("_hidden"):
        return simple(**LONGER, sceneries={"wall": 1.0}, sizes={"plain": 0.07}, shapes=["circle", "square"])
    return simple(num_clips=100)


def fours(kind: str, seed: int) -> Impossible:
    world = world_of(kind)
    return Impossible(world, kind, seed, range(2, world.num_frames - 1))
