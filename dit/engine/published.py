"""Fills in what a config leaves to a published pipeline (`experiment=finetune`)."""

from __future__ import annotations

from typing import Any, cast

from dit.config.of_init import filled, is_open
from dit.interop.published import open_pipeline


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the parts of the published model that `init_from` names, where it leaves places for them."""
    if not is_open(config) or config["init_from"] is None:
        return config
    return cast(dict[str, Any], filled(config, open_pipeline(config["init_from"], "init_from").config))
