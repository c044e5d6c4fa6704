"""Fills in what a config leaves to a published pipeline (`experiment=finetune`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from dit.config.of_init import filled, is_open
from dit.config.renamed import current
from dit.engine.rundir import CONFIG
from dit.foreign import Refused, check, read_yaml, shown
from dit.interop.published import open_pipeline
from dit.sampling.checkpoint import KINDS

# What no folder says, so that this project says it: a run keeps what it began with.
OURS = ("levels", "signals")


def completed(config: dict[str, Any], run: Path) -> dict[str, Any]:
    """The config with the parts of the published model that `init_from` names, where it leaves places for them.

    Raises FileNotFoundError or ValueError, in one line, for a folder that is no such model.
    """
    expert = config.get("init_expert")
    if config["init_from"] is None and expert is not None:
        raise ValueError(f"init_expert={expert} chooses among the networks of init_from=DIR, which is not given")
    if not is_open(config) or config["init_from"] is None:
        return config
    model = open_pipeline(config["init_from"], "init_from").for_expert(expert)
    _check(model, str(config["init_from"]))
    before = current(read_yaml(run / CONFIG)) if (run / CONFIG).is_file() else {}
    begun = _begun(model, before)
    _check(begun, str(run / CONFIG))
    found = cast(dict[str, Any], filled(config, {**model, **begun}))
    if found["text"] is None:  # nothing is encoded, and nothing kept
        found["text_cache"] = None
    return found


def _begun(model: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the keys `OURS` that a run was begun with; of its signals, those that the model has and that are
    read from no folder, which may have moved."""
    found = {key: before[key] for key in OURS if key in before}
    if isinstance(found.get("signals"), Mapping):
        kept = found["signals"]
        found["signals"] = {
            name: node if "folder" in node else kept.get(name, node) for name, node in model["signals"].items()
        }
    return found


def _check(parts: Mapping[str, Any], source: str) -> None:
    """Raises Refused, naming `source`, for parts out of files that name other things than classes of their places.

    They are built as the user's own, and a folder or a run directory may be anyone's.
    """
    try:
        for key, kind in KINDS.items():
            node: Any = parts
            for name in key.split("."):
                node = node.get(name) if isinstance(node, Mapping) else None
            if key == "signals" and node is not None:
                if not isinstance(node, Mapping):
                    raise Refused(f"signals is {shown(node)}, which is no mapping")
                for name, each in node.items():
                    check(each, kind, f"signals.{name}")
            elif node is not None:
                check(node, kind, key)
    except Refused as error:
        raise Refused(f"{source}: {error}") from None
