"""Random overrides of the demo in one process: each is taken, or refused in one line. `fuzz.py` runs whole commands."""

from __future__ import annotations

import copy
import random
import sys
from pathlib import Path
from typing import Any

import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from dit.config.build import build
from dit.entry.errors import explain
from dit.entry.literal import literal

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fuzz

COUNT = 40


def test_random_overrides_are_taken_or_refused_in_one_line() -> None:
    config, _ = fuzz.compose("train", "experiment=demo", *fuzz.SMALL)
    drawn = fuzz.overrides(config, {"space": ["velocity"]}, random.Random(7))
    outcomes: dict[bool, int] = {True: 0, False: 0}
    for override in (next(drawn) for _ in range(COUNT)):
        if override.startswith("space="):  # a group, which only a whole command composes
            continue
        try:
            _applied(config, override)
            outcomes[True] += 1
        except Exception as error:
            said = explain(error)
            assert said is not None and "\n" not in said, f"{override}: {type(error).__name__}: {error}"
            outcomes[False] += 1
    assert outcomes[True] > 2 and outcomes[False] > 10, outcomes


def _applied(config: dict[str, Any], override: str) -> None:
    node = OmegaConf.create(copy.deepcopy(config))
    with open_dict(node):
        node.experiment = None
    OmegaConf.set_struct(node, True)
    parsed = OverridesParser.create().parse_overrides(literal([override]))
    ConfigLoaderImpl._apply_overrides_to_config(parsed, node)
    plain: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    with torch.device("meta"):
        build(plain.get("net"), "net")
    for name in ("codec", "objective", "optim", "lr_schedule", "ema"):
        build(plain.get(name), name)
    build({key: plain.get(key) for key in ("solver", "schedule", "guidance", "preview", "trainer", "logger")})
