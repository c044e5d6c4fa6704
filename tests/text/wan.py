"""Wan's text encoder in miniature, as a config names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs/text"


def node(folder: Path | str | None, name: str = "wan", **changes: Any) -> dict[str, Any]:
    said = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    said["parts"]["tokens"] |= {"length": 128, **changes}
    return said | {"folder": None if folder is None else str(folder)}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
