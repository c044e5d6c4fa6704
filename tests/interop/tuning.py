"""A miniature of Wan on pixels, and training from its weights in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dit.engine import run
from scripts import convert_weights
from tests.engine import small
from tests.engine.runs import composed

# As configs/net/wan21_tiny.yaml with the changes of NET: pixels in and out, texts as wide as the byte encoder's.
WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 3,
    "out_channels": 3,
    "text_dim": 16,
    "freq_dim": 256,
    "ffn_dim": 40,
    "num_layers": 2,
}
NET = (
    "net=wan21_tiny", "net.in_channels=3", "net.out_channels=3", "net.width=32", "net.heads=2", "net.mlp.ratio=1.25",
    "net.text_width=16",
)  # fmt: skip
TINY = (
    "text.width=16", "text.depth=1", "text.heads=2", "text.buckets=8", "data=demo", "data.num_frames=3",
    "data.height=8", "data.width=8", "data.batch_size=2", "data.train.num_clips=5", "data.val.num_clips=2",
    "preview=none", "logger=none", "lr_schedule=constant", "lr_schedule.warmup_steps=1",
    "optim.lr=0.01", "callbacks.checkpoints.every=3",
    "callbacks.validation.every=null", "callbacks.metrics.every=1", "callbacks.progress.seconds=1000",
    "trainer.accelerator=cpu",
)  # fmt: skip
LORA = ("lora=default", "lora.rank=3", "lora.alpha=4", "lora.dropout=0.2")


def train(name: str, steps: int, *overrides: str) -> dict[str, Any]:
    """`train.py` in this process; returns the last checkpoint."""
    run.train(run_config(name, f"trainer.max_steps={steps}", *overrides))
    return small.load(Path("runs") / name)


def run_config(name: str, *overrides: str) -> dict[str, Any]:
    return composed(*NET, *TINY, f"name={name}", *overrides)


def convert(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["convert_weights.py", *map(str, arguments)])
    convert_weights.main()
