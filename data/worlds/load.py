"""Worlds by the names of their YAMLs, for scripts and notebooks; commands get theirs through Hydra."""

from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from data.worlds.world import World

FOLDER = Path(__file__).resolve().parents[2] / "configs/data/dataset"


def names() -> list[str]:
    """All worlds of configs/data/dataset."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if World.__module__ in path.read_text())


def load(
    name: str, *, num_frames: int = 16, height: int = 64, width: int = 64, fps: float = 16.0, **changes: Any
) -> World:
    """A world of configs/data/dataset, seen so. changes: other arguments of `World`.

    Raises ValueError for a name that none has.
    """
    if name not in names():
        raise ValueError(f"there is no world {name}; there are {', '.join(names())}")
    sight = {"num_frames": num_frames, "height": height, "width": width, "fps": fps}
    config = OmegaConf.create({"data": {**sight, "dataset": OmegaConf.load(FOLDER / f"{name}.yaml")}})
    OmegaConf.resolve(config)
    arguments = cast("dict[str, Any]", OmegaConf.to_container(config.data.dataset))
    return World(**{key: value for key, value in arguments.items() if key != "_target_"} | changes)
