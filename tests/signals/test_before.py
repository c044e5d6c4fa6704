"""Runs from before configs had `signals`: they go on and sample as they did, told what their parts imply."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dit.engine import run
from dit.entry.literal import literal
from dit.interop.presets import CONFIGS
from dit.sampling.pipeline import Pipeline
from tests.engine import small

TINY = (
    "experiment=demo", "net.width=32", "net.heads=2", "net.depth=1", "net/position=timed_rope", "data.batch_size=2",
    "data.train.num_clips=4", "data.val.num_clips=2", "trainer.accelerator=cpu", "lr_schedule=constant",
    "preview=none", "name=old",
)  # fmt: skip


def config(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        made = compose("train", literal([*TINY, *overrides]))
    return OmegaConf.to_container(made, resolve=True)  # type: ignore[return-value]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "old"


def without_signals(folder: Path) -> None:
    """As the code from before wrote it."""
    file = folder / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    assert content["config"].pop("signals").keys() == {"text", "fps"}, "the demo's positions are in seconds"
    torch.save(content, file)
    plain = yaml.safe_load((folder / "config.yaml").read_text())
    del plain["signals"]
    (folder / "config.yaml").write_text(yaml.safe_dump(plain))


def test_a_run_without_signals_goes_on_and_samples_as_one_with_them(folder: Path) -> None:
    run.train(config("trainer.max_steps=2"))
    shutil.copytree(folder, folder.parent / "new")
    without_signals(folder)
    found = [
        Pipeline.from_checkpoint(each, device="cpu", num_steps=2)(["a red circle"], [0]).latents
        for each in (folder, folder.parent / "new")
    ]
    assert torch.equal(*found)

    with pytest.raises(ValueError, match="belongs to another config: signals.fps._target_ was .*FPS', now absent"):
        run.train(config("trainer.max_steps=3", "signals.fps=null"))
    run.train(config("trainer.max_steps=3"))
    run.train(config("trainer.max_steps=3", "name=new"))
    old, new = small.load(folder), small.load(folder.parent / "new")
    assert not small.same(*({key: each[key] for key in small.EXACT} for each in (old, new)))
    assert old["config"]["signals"] == new["config"]["signals"], "from now on it says so"


def test_an_encoder_that_encodes_for_nobody(folder: Path) -> None:
    """Is refused, but in runs from before: their config cannot change any more."""
    unread = config("trainer.max_steps=1", "net/pooled=none")
    with pytest.raises(ValueError, match="text=ByteEncoder encodes captions, and no part .*: text=none leaves it out"):
        run.train(unread)
    assert not folder.parent.exists()
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(unread))
    assert run.build(unread).module.text is not None
