"""A checkpoint of a tiny demo, which tests of suites measure: random weights, four frames."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dit.evaluation.harness.subject import Sampler, Subject

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TINY = (
    "experiment=demo", "net.depth=1", "net.width=24", "net.heads=2", "text.heads=2", "data.num_frames=8",
    "sampling.num_steps=1",
)  # fmt: skip


@cache
def _content(*overrides: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = hydra.compose("train", overrides=["name=mine", *TINY, *overrides])
    config: Any = OmegaConf.to_container(composed, resolve=True)
    torch.manual_seed(0)
    weights = {}
    for name in ("net", "text"):
        part = instantiate(config[name], _convert_="all")
        weights |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    return {"state_dict": weights, "ema": {}, "config": config, "global_step": 7}


def make_run(folder: Path, *overrides: str, **entries: Any) -> Path:
    """A run directory with such a checkpoint. entries: of the file, in place of its own."""
    file = folder / "checkpoints" / "last.ckpt"
    file.parent.mkdir(parents=True)
    torch.save({**_content(*overrides), **entries}, file)
    (folder / "config.yaml").write_text("name: mine\n")
    return folder


def sampler(**changes: Any) -> Sampler:
    """As configs/evaluate.yaml has it, on the CPU and with raw weights."""
    own = {
        "weights": "raw", "device": "cpu", "batch_size": 2, "schedule": None, "solver": None, "guidance": None,
        "num_steps": 1, "trusted": (), "folders": {},
    }  # fmt: skip
    return Sampler(**{**own, **changes})


def subject(run: Path, **changes: Any) -> Subject:
    return Subject(run, run.name, sampler(**changes))
