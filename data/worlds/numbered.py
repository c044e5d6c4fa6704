"""What worlds have in common: clips by number, made as they are asked for and never stored."""

from typing import Any

from data.card import share


def check_numbers(*, seed: int, num_clips: int, num_frames: int, height: int, width: int, fps: float) -> None:
    """Raises ValueError, in one line, for a number that no world has."""
    least = {"seed": 0, "num_clips": 1, "num_frames": 1, "height": 1, "width": 1}
    given = {"seed": seed, "num_clips": num_clips, "num_frames": num_frames, "height": height, "width": width}
    for name, value in given.items():
        if value < least[name]:
            raise ValueError(f"{name}={value} must be at least {least[name]}")
    if not fps > 0:
        raise ValueError(f"fps={fps} must be above 0")


def rights(world: type, num_clips: int, num_frames: int, fps: float) -> list[dict[str, Any]]:
    """For the data card: made by this code, so nobody else's."""
    return [share("generated", world.__module__, num_clips, num_clips * num_frames / fps / 3600)]
