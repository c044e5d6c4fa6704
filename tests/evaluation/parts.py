"""Parts of configs/ that measures are made of: networks of features, of flow, of LPIPS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dit.config.build import build

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def node(group: str, option: str, **changes: Any) -> dict[str, Any]:
    """What `configs/<group>/<option>.yaml` says, with some keys changed."""
    return yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text()) | changes


def part(group: str, option: str, **changes: Any) -> Any:
    """What is built of it; it still wants a device."""
    return build(node(group, option, **changes))
