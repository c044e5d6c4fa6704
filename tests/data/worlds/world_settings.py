"""Worlds for the tests of this folder: two as plain arguments, and those of configs/data/dataset."""

from typing import Any

from data.worlds.load import load
from data.worlds.world import World

PRESETS = ("physics", "occlusion", "containers", "camera", "steered", "full")

SIMPLE: dict[str, Any] = {
    "seed": 0,
    "num_clips": 500,
    "num_frames": 8,
    "height": 32,
    "width": 32,
    "fps": 8.0,
    "shapes": ["circle", "square", "triangle", "diamond", "star"],
    "colours": {"red": (230, 25, 25), "green": (25, 200, 25), "blue": (40, 60, 255), "orange": (250, 130, 10)},
    "directions": ["left", "right", "up", "down"],
    "sizes": {"plain": 0.14},
    "speeds": {"plain": 0.5},
    "speed_jitter": 0.0,
    "motions": {"straight": 1.0},
    "num_objects": {1: 1.0},
    "gravity": 0.0,
    "background": (16, 16, 24),
    "split": "train",
    "heldout_fraction": 0.2,
}
RICH: dict[str, Any] = SIMPLE | {
    "num_frames": 16,
    "height": 48,
    "width": 64,
    "fps": 16.0,
    "directions": ["left", "right", "up", "down", "up and left", "up and right", "down and left", "down and right"],
    "sizes": {"small": 0.08, "plain": 0.1, "large": 0.13},
    "speeds": {"slowly": 0.25, "plain": 0.35, "quickly": 0.45},
    "motions": {"straight": 0.3, "bounce": 0.2, "fall": 0.1, "drop": 0.2, "throw": 0.2},
    "num_objects": {1: 0.4, 2: 0.4, 3: 0.2},
    "gravity": 1.5,
}


def simple(**changes: Any) -> World:
    return World(**(SIMPLE | changes))


def rich(**changes: Any) -> World:
    return World(**(RICH | changes))


_PRESETS: dict[str, World] = {}


def preset(name: str, **changes: Any) -> World:
    """`world_<name>` at 16 frames of 64x64, 16 a second, unless changed; built once for all that ask for the same."""
    key = f"{name} {changes}"
    if key not in _PRESETS:
        _PRESETS[key] = load(f"world_{name}", **changes)
    return _PRESETS[key]
