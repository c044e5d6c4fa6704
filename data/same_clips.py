"""Whether clips are those that a checkpoint was trained on, so that their order can be continued."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)


def check_same_clips(saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises ValueError where they are not. Other validation clips are a warning.

    saved, here: states of the data (`module.VideoData.state_dict`), a checkpoint's and that of this run.
    """
    for name in ("num_clips", "seed"):
        if saved[name] != here[name]:
            raise ValueError(
                f"this run trains on {name}={here[name]}, its checkpoint on {name}={saved[name]}: the order of clips"
                " cannot be continued; restore the data, start a run under another name, or go on with these:"
                f" resume_changes=[data{',seed' if name == 'seed' else ''}]"
            )
    before, now = saved.get("fingerprints", {}), here["fingerprints"]  # older checkpoints have none
    if "train" in before and before["train"] != now.get("train"):
        raise ValueError(
            f"these {here['num_clips']} clips are not the checkpoint's: a path or caption differs, or their order;"
            " restore the data, start a run under another name, or go on with these: resume_changes=[data]"
        )
    if "val" in before and before["val"] != now.get("val"):
        log.warning("the validation clips are others than before: val/* cannot be compared across this step")
