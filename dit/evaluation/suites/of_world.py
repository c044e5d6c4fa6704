"""The worlds that a checkpoint was trained and validated on, and their truth, for suites that know it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.worlds.state import Clip, State
from data.worlds.world import World
from dit.evaluation.suites.heldout import check_unseen, may_be_seen
from dit.sampling.checkpoint import Checkpoint

ENDLESS = 2**31  # clips of a world: none depends on how many there are
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
            " and suite=world reads no more; suite=objects reads several in rich worlds"
        )
    check_unseen(train, world)
    return world


def unseen_world(checkpoint: Checkpoint, trusted: Sequence[str] = ()) -> World:
    """The world that the run was validated on. ValueError where it may show what training showed."""
    train, world = worlds(checkpoint, trusted)
    if may_be_seen(train, world):
        raise ValueError(
            f"{checkpoint.file} was validated on split {world.split} of a world that it was trained on; validate on"
            f" another one, as data.val.split=heldout, or on other scenes: data.val.seed={train.seed + 1}"
        )
    return world


def exact_flow(world: World, state: State) -> tuple[Tensor, Tensor]:
    """The true flow (F - 1, 2, H, W) of a state, pixels (x, y) from each frame to the next, and which pixels the next
    one shows, too, bool (F - 1, H, W)."""
    truth = world.truth(state)
    return torch.from_numpy(truth.flow), torch.from_numpy(~truth.occluded)


def of_objects(world: World, state: State) -> Tensor:
    """Which pixels of all frames but the last show an object in their middle, bool (F - 1, H, W)."""
    truth = world.truth(state)
    layers = [number for number, name in enumerate(truth.layers) if name.startswith("object")]
    return torch.from_numpy(np.isin(truth.depth[:-1], layers))


def pixels(clip: Clip) -> Tensor:
    """uint8 (3, F, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(clip.pixels.transpose(3, 0, 1, 2)))
