"""The worlds that a checkpoint was trained and validated on, for suites that know their truth."""

from __future__ import annotations

from collections.abc import Sequence

from data.worlds.world import World
from dit.sampling.checkpoint import Checkpoint

WORLD = f"{World.__module__}.{World.__qualname__}"


def worlds(checkpoint: Checkpoint, trusted: Sequence[str] = ()) -> tuple[World, World]:
    """The worlds of training and of validation. ValueError where the data was none."""
    for split in ("val", "train"):
        node = checkpoint.value("data").get(split)
        target = str(node.get("_target_")) if isinstance(node, dict) else "nothing"
        if target != WORLD and not target.startswith(tuple(f"{package}." for package in trusted)):
            did = "validated" if split == "val" else "trained"
            raise ValueError(
                f"{checkpoint.file} was {did} on {target}; only worlds can be measured exactly, and suite=all does"
                " what else can be done"
            )
    world, train = (checkpoint.part("data", split, trusted=trusted) for split in ("val", "train"))
    if not (isinstance(world, World) and isinstance(train, World)):
        kinds = f"{type(train).__name__} and {type(world).__name__}"
        raise ValueError(f"{checkpoint.file} was made with {kinds}; only worlds can be measured exactly")
    return train, world


def heldout_world(checkpoint: Checkpoint, trusted: Sequence[str] = ()) -> World:
    """The world that the run was validated on, of one object in straight motion (`World.is_plain`). ValueError when it
    is none or another one, or when it shows what training showed."""
    train, world = worlds(checkpoint, trusted)
    if not world.is_plain:
        raise ValueError(
            f"{checkpoint.file} was validated on a world of more than objects in straight motion on an empty ground,"
            " and suite=world reads no more; suite=surprise and suite=fvd measure every world"
        )
    seen = {tuple(spec.objects) for spec in train.specs()} & {tuple(spec.objects) for spec in world.specs()}
    if seen:
        raise ValueError(f"{len(seen)} of the prompts were trained on; validate with data.val.split=heldout")
    return world
