"""Runs whose text encoder is a published one: it is named and not kept, and captions are encoded once."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml

from dit import encoders
from dit.config.build import build
from dit.engine import captions, run, rundir
from dit.engine.fitting import check_channels
from dit.sampling.pipeline import Pipeline
from dit.text import pretrained
from dit.text.pretrained import Pretrained
from tests.engine.runs import config
from tests.engine.told import Told
from tests.text import tiny

pytest.importorskip("transformers")
TINY = (
    "net.depth=1", "net.width=32", "net.heads=2", "net.text_width=16", "net/text=cross", "net/pooled=none", "text=t5",
    "text.parts.tokens.length=24",
    "data.batch_size=2", "data.train.num_clips=7", "data.val.num_clips=3", "preview=none", "logger=none",
    "trainer.accelerator=cpu", "callbacks.validation.every=null", "callbacks.metrics.every=1", "caption_dropout=0.5",
    "callbacks.progress.seconds=1000", "callbacks.checkpoints.every=2", "lr_schedule=constant", "sampling.num_steps=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model"), tokenizer=tiny.unigram(), text_encoder=tiny.t5())


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(pretrained, "load_encoder", tiny.counted(encoders.load_encoder, calls))
    return calls


@pytest.mark.timeout(900)
def test_a_run_names_its_encoder_goes_on_and_is_sampled(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    run.train(config(*TINY, f"text.folder={folder}", "trainer.max_steps=2"))
    file = Path("runs/mine/checkpoints/last.ckpt")
    saved = torch.load(file, weights_only=True)
    assert not [key for key in saved["state_dict"] if key.startswith("text.")] and saved.get("frozen") is None
    assert not Path("runs/mine/checkpoints/frozen.pt").exists()
    mark = yaml.safe_load(Path("runs/mine/config.yaml").read_text())["text"]["fingerprint"]
    assert mark == saved["config"]["text"]["fingerprint"] == build(saved["config"]["text"]).identified()

    moved = shutil.copytree(folder, tmp_path / "moved")
    run.train(config(*TINY, f"text.folder={moved}", "trainer.max_steps=4", "text_cache=cache"))
    assert torch.load(file, weights_only=True)["global_step"] == 4
    sampled = Pipeline.from_checkpoint("runs/mine", device="cpu")(["a red circle", ""], [0, 1])
    assert sampled.pixels.isfinite().all()
    elsewhere = shutil.copytree(folder, tmp_path / "else, where")
    again = Pipeline.from_checkpoint("runs/mine", device="cpu", folders={"text": str(elsewhere)})
    assert again.text is not None and str(again.text.folder) == str(elsewhere)
    assert torch.equal(again(["a red circle", ""], [0, 1]).pixels, sampled.pixels)
    with pytest.raises(ValueError, match="folders.codec=x: .* reads no codec from a folder"):
        Pipeline.from_checkpoint("runs/mine", device="cpu", folders={"codec": "x"})

    other = tiny.t5()
    next(iter(other.parameters())).data += 1
    other.save_pretrained(moved / "text_encoder")
    with pytest.raises(rundir.OtherRun, match="text.fingerprint"):
        run.train(config(*TINY, f"text.folder={moved}", "trainer.max_steps=6"))
    with pytest.raises(ValueError, match="is not the text encoder that this was trained with"):
        Pipeline.from_checkpoint("runs/mine", device="cpu")


def test_captions_are_encoded_once_and_the_encoder_goes(folder: Path, tmp_path: Path, loads: list[Any]) -> None:
    node = {**config(*TINY)["text"], "folder": str(folder)}
    first, second = build(node), build(node)
    cpu, clips = torch.device("cpu"), [Told("a", "b", "a"), None, Told("c"), [1]]
    captions.encode_ahead(first, clips, (), cpu, 0, 1)
    assert not loads, "it keeps nothing on disk"
    for each in (first, second):
        each.keep_in(tmp_path)
    captions.encode_ahead(first, clips, (), cpu, 0, 2)
    assert len(loads) == 1 and not first.models
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    captions.encode_ahead(second, clips, (), cpu, 1, 2)
    second(["c", "", "b"])
    assert len(loads) == 1, "the other rank, and every step, reads what there is"


def test_what_does_not_fit_is_one_line_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for overrides, match in (
        (["net.text_width=8"], "net.text_width=8, but the text encoder 16; add net.text_width=16"),
        (["net/pooled=mlp"], "needs cond\\['pooled'\\], which no signal of this run makes"),
        (["text.folder=absent"], "text.folder=absent is not there"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=match) as said:
            run.build(config(*TINY, f"text.folder={folder}", *overrides))
        assert "\n" not in str(said.value)
    assert not Path("runs").exists()


def test_long_captions_are_counted_with_what_to_do(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder: Pretrained = build({**config(*TINY)["text"], "folder": str(folder)})
    captions.report_long(Told("short", tiny.LONG), encoder)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("1 of 2 captions are longer") and said.endswith("put what matters first: it reads 24 tokens")


@pytest.mark.parametrize("part", [None, "NoText"])
def test_a_network_without_text_has_no_width_to_agree_on(part: str | None) -> None:
    node = None if part is None else {"_target_": f"dit.net.text.{part}", "_partial_": True}
    net = {"in_channels": 3, "out_channels": 3, "text_width": 8, "text": node}
    codec, text = cast(Any, SimpleNamespace(channels=3)), cast(Any, SimpleNamespace(width=16))
    check_channels(net, codec, text)
    with pytest.raises(ValueError, match="add net.text_width=16"):
        check_channels({**net, "text": {"_target_": "dit.net.text.CrossText"}}, codec, text)
