"""Where the project and its configs are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


def options(group: str) -> list[str]:
    """What can be chosen of a group of configs. A file whose name begins with `_` is the base of others."""
    return sorted(file.stem for file in (CONFIGS / group).glob("[!_]*.yaml"))
