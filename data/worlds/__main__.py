"""`python -m data.worlds`: how many clips one core makes in a second, for the worlds of configs/data/dataset."""

import time
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from data.worlds.world import World

SIGHTS = {
    "demo_world": {"num_frames": 8, "height": 32, "width": 32, "fps": 8.0},
    "world": {"num_frames": 16, "height": 64, "width": 64, "fps": 16.0},
}


def load(path: Path, sight: dict[str, float]) -> World:
    """The world of a YAML, seen with the given `num_frames`, `height`, `width` and `fps`."""
    config = OmegaConf.create({"data": {**sight, "dataset": OmegaConf.load(path)}})
    OmegaConf.resolve(config)
    arguments = cast("dict[str, Any]", OmegaConf.to_container(config.data.dataset))
    return World(**{key: value for key, value in arguments.items() if key != "_target_"})


def clips_per_second(world: World, seconds: float) -> float:
    """How many items one core makes in a second of its own time: drawing, moving, painting and tensors included."""
    world[0]
    begin, done = time.process_time(), 0
    while time.process_time() < begin + seconds:
        world[done % len(world)]
        done += 1
    return done / (time.process_time() - begin)


def main() -> None:
    """Prints one line a world."""
    for name, sight in SIGHTS.items():
        rate = clips_per_second(load(Path("configs/data/dataset") / f"{name}.yaml", sight), seconds=3.0)
        size = f"{sight['num_frames']:g}x{sight['height']:g}x{sight['width']:g}"
        print(f"{name} at {size}: {rate:,.0f} clips/s, {1e3 / rate:.2f} ms a clip")


if __name__ == "__main__":
    main()
