"""The recipe of docs/extending.md for a signal, by the page's own code and commands: two modules and one YAML take it
from the data to samples."""

from __future__ import annotations

import csv
import importlib
import json
import logging
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from dit.config.build import build
from dit.config.kinds import fitted
from dit.engine import run
from dit.entry.literal import literal
from dit.interop.presets import CONFIGS
from dit.recipes.base import Clips
from dit.recipes.denoising import Denoising
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.config import Config
from dit.sampling.pipeline import Pipeline
from dit.sampling.session import Session, session
from tests.test_configs import mismatch, nodes
from tests.test_extending import code, under

SECTION = "A signal"
LESS = (
    "trainer.max_steps=3", "data.batch_size=4", "logger=none", "preview=none", "net.width=48", "net.heads=4",
    "net.depth=1", "callbacks.metrics.every=1", "trainer.accelerator=cpu", "caption_dropout=0.5",
    "sampling.num_steps=2", "lr_schedule=constant",
)  # fmt: skip
TOLD: list[dict[str, Tensor]] = []


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files where it puts them, the YAML in a folder of the reader's own; notes what the network is told."""
    monkeypatch.chdir(tmp_path)
    for name, text in zip(("dit.signals.motion", "dit.net.strength"), code("python", SECTION), strict=True):
        module = ModuleType(name)
        exec(text, vars(module))
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, last = name.rpartition(".")
        monkeypatch.setattr(importlib.import_module(parent), last, module, raising=False)
    value = tmp_path / "own" / "signals" / "motion.yaml"
    value.parent.mkdir(parents=True)
    value.write_text(code("yaml", SECTION)[0])
    TOLD.clear()
    losses = Denoising.losses

    def noted(self: Denoising, nets: Any, clips: Clips, step: int) -> Any:
        TOLD.append(clips.cond)
        return losses(self, nets, clips, step)

    monkeypatch.setattr(Denoising, "losses", noted)
    return tmp_path


def commands(script: str) -> list[list[str]]:
    """Arguments of the page's commands."""
    return [shlex.split(line) for line in re.findall(rf"^python {script} (.*)$", under(SECTION), re.M)]


def train(folder: Path, *arguments: str) -> Checkpoint:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        made = compose("train", [*literal([*LESS, *arguments]), f"hydra.searchpath=[file://{folder}/own]"])
    plain: Any = OmegaConf.to_container(made, resolve=True)
    assert not [said for _, node in nodes(plain) if (said := mismatch(node))]
    run.train(fitted(plain))
    return Checkpoint.load(folder / "runs" / plain["name"])


def asked(*arguments: str) -> Session:
    """What a command of sample.py makes."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        made = compose("sample", literal([*arguments, "device=cpu"]))
    return session(build(fitted(OmegaConf.to_container(made, resolve=True), Config)))


def latents(made: Session) -> Tensor:
    return torch.cat([each.latents for each in made.pipeline.make(made.job, range(len(made.job.batches)))])


def test_the_page_touches_two_modules_and_one_yaml() -> None:
    assert len(code("python", SECTION)) == 2 and len(code("yaml", SECTION)) == 1


def test_a_computed_signal_from_training_to_samples(folder: Path) -> None:
    computed, _ = commands("train.py")
    file = train(folder, *computed, "data.train.num_clips=8", "data.val.num_clips=2")
    with (folder / "runs/moving/metrics.csv").open() as opened:
        assert all(float(row["train/loss"]) > 0 for row in csv.DictReader(opened))

    told = {key: torch.cat([cond[key] for cond in TOLD]) for key in ("motion", "pooled")}
    unsaid = told["motion"].isnan()
    assert len(unsaid) == 12 and 2 < unsaid.sum() < 10
    assert ((told["motion"] > 0) | unsaid).all() and (told["motion"][~unsaid] < 0.2).all()
    empty = [(row == told["pooled"][unsaid][0]).all().item() for row in told["pooled"]]
    first = TOLD[0]["motion"].isnan()  # the encoder learns, so "" of another step is encoded otherwise
    assert empty[:4] == (first if first.any() else torch.zeros(4).bool()).tolist(), "left out with the caption"

    assert file.config["signals"].keys() == {"text", "motion"}
    assert "net.vectors.motion.unsaid" in file.weights
    assert all("net.vectors.motion.unsaid" in averaged for averaged in file.ema.values())

    by_hand, by_table = commands("sample.py")
    (folder / "prompts.csv").write_text(
        "prompt,motion,seed\na red circle moves right,0.05,0\na red circle moves right,,0\n"
    )
    loud(file)
    alone, both = asked(*by_hand), asked(*by_table, "batch_size=2")
    assert alone.facts[0]["signals"] == {"motion": 0.05} and both.facts[1]["signals"] == {}
    said, unsaid_ = latents(both)
    torch.testing.assert_close(latents(alone)[0], said, atol=1e-3, rtol=0)  # of another batch: rounded otherwise
    other = latents(asked(*by_hand[:-1], "signals.motion=0.2"))[0]
    assert (said - other).abs().max() > 0.01 and (said - unsaid_).abs().max() > 0.01
    pipeline = Pipeline.from_checkpoint("runs/moving", device="cpu")
    torch.testing.assert_close(pipeline(["a red circle moves right"], [0], signals={"motion": 0.2}).latents[0], other)
    away = pipeline.condition(alone.job.batches[0], alone.job.canvas, away=True)
    assert away["motion"].isnan().all(), "guidance leads away from nothing"
    (folder / "sample.json").write_text(json.dumps(alone.facts[0]))
    assert torch.equal(latents(asked("again=sample.json"))[0], latents(alone)[0]), (
        "made again from what stands beside it"
    )
    for value, message in (("fast", "signals.motion=fast is no finite number"), ("nan", "no finite number")):
        with pytest.raises(ValueError, match=message):
            asked(*by_hand[:-1], f"signals.motion={value}")
    with pytest.raises(ValueError, match="signals.moton=3, but this network is told no moton; .* said: motion"):
        asked(*by_hand[:-1], "signals.moton=3")


def loud(file: Checkpoint) -> None:
    """Three steps have hardly opened the network's gates: random weights in the checkpoint's place."""
    content = torch.load(file.file, weights_only=True)
    torch.manual_seed(0)
    for weights in (content["state_dict"], *content["ema"].values()):
        for key, value in weights.items():
            if key.startswith("net.") and value.is_floating_point():
                torch.nn.init.normal_(value, std=0.3)
    torch.save(content, file.file)


def test_a_column_of_a_manifest_and_going_on(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, rated = commands("train.py")
    clips = folder / "clips"
    clips.mkdir()
    rng = np.random.default_rng(0)
    rows = ["path,caption,motion"]
    for index in range(6):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(clips / f"{index}.png")
        rows.append(f"{index}.png,clip {index},{'' if index == 5 else index / 10}")
    (clips / "list.csv").write_text("\n".join(rows) + "\n")
    real = [each.replace("DIR", str(clips)) for each in rated]
    less = ("data.num_workers=0", "data.num_frames=2", "data.height=16", "data.width=16", "data.val_clips=1")
    train(folder, *real, *less)
    motion = torch.cat([cond["motion"] for cond in TOLD])
    assert set(motion[~motion.isnan()].mul(10).round().int().tolist()) <= {0, 1, 2, 3, 4} and motion.isnan().any()

    before = len(TOLD)
    with caplog.at_level(logging.INFO):
        train(folder, *real, *less, "trainer.max_steps=4")
    assert len(TOLD) == before + 1, "it goes on behind step 3"

    with pytest.raises(ValueError, match=r"made from the column speed .*carries motion: data.columns=\[motion,speed\]"):
        train(folder, *real, *less, "signals.motion.column=speed", "name=other")
    with pytest.raises(ValueError, match="runs/rated belongs to another config: signals.motion.column was 'motion'"):
        train(folder, *real, *less, "signals.motion.column=null", "trainer.max_steps=5")
    assert not (folder / "runs" / "other").exists()


def test_a_network_that_does_not_read_it(folder: Path) -> None:
    config = yaml.safe_load(code("yaml", SECTION)[0])
    (folder / "own" / "signals" / "motion.yaml").write_text(
        "# @package _global_\n" + yaml.safe_dump({"signals": config["signals"]})
    )
    with pytest.raises(ValueError, match="signals.motion makes motion, which no part of this network reads .*=null"):
        train(folder, "experiment=demo", "signals=motion", "name=unread")
    (folder / "own" / "signals" / "motion.yaml").write_text(
        "# @package _global_\n" + yaml.safe_dump({"net": config["net"]})
    )
    with pytest.raises(ValueError, match=r"needs cond\['motion'\], which no signal of this run makes"):
        train(folder, "experiment=demo", "signals=motion", "name=missing")
