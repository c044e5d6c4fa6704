"""`python -m data.worlds`: how many clips one core makes in a second, for the worlds of configs/data/dataset."""

import time
from typing import Any

from data.worlds.load import load, names
from data.worlds.world import World

SIGHTS: dict[str, dict[str, Any]] = {
    "demo_world": {"num_frames": 8, "height": 32, "width": 32, "fps": 8.0}
}  # of all others: 16 frames of 64x64


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
    for name in names():
        world = load(name, **SIGHTS.get(name, {}))
        rate = clips_per_second(world, seconds=3.0)
        size = f"{world.num_frames}x{world.height}x{world.width}"
        print(f"{name} at {size}: {rate:,.0f} clips/s, {1e3 / rate:.2f} ms a clip")


if __name__ == "__main__":
    main()
