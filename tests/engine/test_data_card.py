"""What a run is trained on stands in its directory, in its checkpoints, and beside its samples."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from dit.checkpoint import archive, entries
from dit.engine.run import train
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.pipeline import Pipeline
from dit.sampling.request import Request
from tests.data.videos import write_numbered
from tests.engine import runs

SMALL = [each for each in runs.STEADY if not each.startswith(("data.train", "data.val", "levels.std"))]
SHAPE = ["data.num_frames=4", "data.height=16", "data.width=16", "data.num_workers=0", "data.val_clips=0"]


def go(name: str, steps: int, *overrides: str) -> Path:
    given = ["net.patch=[2,8,8]", *SHAPE, f"trainer.max_steps={steps}", "data.batch_size=2", f"name={name}"]
    with hydra.initialize_config_dir(str(runs.CONFIGS), version_base="1.3"):
        composed = hydra.compose("train", ["experiment=real_clips", "optim=adamw", *SMALL, *given, *overrides])
    train(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    return Path("runs") / name


def cards(run: Path) -> list[str]:
    return entries.DATA_CARDS.of(archive.load(run / "checkpoints/last.ckpt"))


@pytest.mark.slow
def test_the_card_is_in_the_run_its_checkpoints_and_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        write_numbered(tmp_path / f"{name}.mp4", count=16, height=32, width=32)
    (tmp_path / "list.csv").write_text("path,caption,licence\na.mp4,x,MIT\nb.mp4,y,CC0-1.0\nc.mp4,z,\n")
    data = "data.manifest=list.csv"
    run = go("first", 2, data, "data.licences=[MIT,CC0-1.0]")
    content = json.loads((run / "data_card.json").read_text())
    assert [row["licence"] for row in content["train"]["rights"]] == ["CC0-1.0", "MIT"]
    assert content["train"]["left_out"] == {"licence": 1} and "CC0-1.0" in (run / "data_card.md").read_text()
    first = hashlib.sha256((run / "data_card.json").read_bytes()).hexdigest()
    assert cards(run) == [first] and first in (run / "data_card.md").read_text()
    assert "data.licences refuses 1 of 3 clips: 1 of unknown" in caplog.text

    assert Checkpoint.load(run).data_cards == (first,)
    pipeline = Pipeline.from_checkpoint(run, device="cpu", num_steps=1)
    (facts,) = pipeline.facts(pipeline.prepare([Request("x", "", 0)]))
    assert facts["checkpoint"]["data_cards"] == [first]

    go("first", 3, data, "data.licences=[MIT,CC0-1.0]")  # goes on with the same data
    assert cards(run) == [first]
    go("first", 4, data, "resume_changes=[data]")  # and with other
    second = hashlib.sha256((run / "data_card.json").read_bytes()).hexdigest()
    assert cards(run) == [first, second] and second != first
    kept = run / f"data_card-{first[:12]}.json"
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == first and kept.with_suffix(".md").is_file()

    other = go("other", 2, data, "data.licences=[MIT]", f"init_from={run}")
    assert cards(other)[:2] == [first, second] and len(cards(other)) == 3


def test_a_checkpoint_whose_cards_are_no_hashes_is_refused(tmp_path: Path) -> None:
    before = Path(__file__).parent / "before" / "step-3.ckpt"
    assert Checkpoint.load(before).data_cards == ()
    content = archive.load(before)
    entries.DATA_CARDS.put(content, [3])  # type: ignore[list-item]
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match="its data_cards are no hashes"):
        Checkpoint.load(tmp_path / "odd.ckpt")
