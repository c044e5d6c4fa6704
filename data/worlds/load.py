"""Worlds by the names of their YAMLs, for scripts and notebooks; commands get theirs through Hydra."""

from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from data.worlds.world import World

FOLDER = Path(__file__).resolve().parents[2] / "configs/data/dataset"
TARGET = f"{World.__module__}.{World.__qualname__}"


def names() -> list[str]:
    """All worlds of configs/data/dataset."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.yaml") if _read(path.stem)["_target_"] == TARGET)


def load(
    name: str, *, num_frames: int = 16, height: int = 64, width: int = 64, fps: float = 16.0, **changes: Any
) -> World:
    """A world of configs/data/dataset, seen so. changes: other arguments of `World`.

    Raises ValueError for a name that none has.
    """
    is_preset = not name.startswith("_") and (FOLDER / f"{name}.yaml").is_file()
    preset = _read(name) if is_preset else {}
    if preset.get("_target_") != TARGET:
        raise ValueError(f"there is no world {name}; there are {', '.join(names())}")
    sight = {"num_frames": num_frames, "height": height, "width": width, "fps": fps}
    config = OmegaConf.create({"data": {**sight, "dataset": preset}})
    OmegaConf.resolve(config)
    arguments = cast("dict[str, Any]", OmegaConf.to_container(config.data.dataset))
    return World(**{key: value for key, value in arguments.items() if key != "_target_"} | changes)


def _read(name: str) -> Any:
    """A YAML over the base that it names, as Hydra composes the two."""
    own: Any = OmegaConf.load(FOLDER / f"{name}.yaml")
    bases = [base for base in own.pop("defaults", []) if base != "_self_"]
    return OmegaConf.merge(*map(_read, bases), own)
