"""Prompts are encoded once, before the first sample, by an encoder that the network never meets on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dit.sampling.pipeline import Pipeline
from dit.sampling.placement import Placement
from dit.sampling.request import Request
from dit.text import pretrained
from tests.sampling.fakes import FAKES, FakeNet, checkpoint
from tests.text import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(pretrained, "load_encoder", tiny.counted(pretrained.load_encoder, calls))
    return calls


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A checkpoint whose config names a published text encoder."""
    pytest.importorskip("transformers")
    folder = tiny.save(tmp_path / "model", tokenizer=tiny.unigram(), text_encoder=tiny.t5())
    text = yaml.safe_load((ROOT / "configs/text/t5.yaml").read_text()) | {"folder": str(folder)}
    made = checkpoint(tmp_path / "run", text=None)
    file = made / "checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    content["config"]["text"] = text
    torch.save(content, file)
    return made


def wanted(count: int) -> list[Request]:
    return [Request(f"prompt {i % 3}", "ugly", i) for i in range(count)]


def test_all_batches_are_encoded_at_once_and_nothing_is_left(run: Path, loads: list[Any]) -> None:
    pipeline = Pipeline.from_checkpoint(run, device="cpu", trusted=FAKES, batch_size=2, num_steps=2)
    text: Any = pipeline.text
    encoded: list[str] = []
    once = text._row
    text._row = lambda *asked: (encoded.append(asked[1]), once(*asked))[1]  # type: ignore[func-returns-value]
    held: list[int] = []
    pipeline.net.register_forward_pre_hook(lambda *_: held.append(len(text.models)))
    samples = list(pipeline.batches(wanted(6)))
    assert len(samples) == 3 and len(loads) == 1
    assert sorted(encoded) == ["prompt 0", "prompt 1", "prompt 2", "ugly"]
    assert held and not any(held), "the encoder is gone before the network computes"
    again = list(pipeline.batches(wanted(6)))
    assert len(loads) == 1 and all(torch.equal(a.latents, b.latents) for a, b in zip(samples, again, strict=True))
    both = Pipeline.from_checkpoint(run, device="cpu", trusted=FAKES, batch_size=2, num_steps=2, offload_text=False)
    at_once = list(both.batches(wanted(6)))
    assert both.text.models, "unless it is told to keep it"  # type: ignore[union-attr]
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(samples, at_once, strict=True))


def test_on_a_device_the_network_makes_room(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of what moves where, told by parts that only note it: this machine may have no such device."""
    pipeline = Pipeline.from_checkpoint(run, device="cpu", trusted=FAKES, num_steps=2)
    device, moves = torch.device("cuda", 0), []
    monkeypatch.setattr(Placement, "device", property(lambda self: device))
    for name in ("empty_cache", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    monkeypatch.setattr(FakeNet, "cpu", lambda self: moves.append("network to cpu"))
    monkeypatch.setattr(FakeNet, "to", lambda self, where: moves.append(f"network to {where}"))
    text: Any = pipeline.text
    monkeypatch.setattr(type(text), "to", lambda self, where: moves.append(f"encoder to {where}") or self)
    monkeypatch.setattr(type(text), "remember", lambda self, prompts: moves.append(f"{len(set(prompts))} prompts"))
    job = pipeline.prepare(wanted(6))
    moves.clear()
    pipeline._make_ready(job, [0])
    assert moves == ["network to cpu", "encoder to cuda:0", "4 prompts", "network to cuda:0"]

    def fail(self: Any, prompts: Any) -> None:
        raise ValueError("its weights are missing")

    moves.clear()
    monkeypatch.setattr(type(text), "remember", fail)
    with pytest.raises(ValueError, match="its weights are missing"):
        pipeline._make_ready(pipeline.prepare(wanted(2)), [0])
    assert moves[-1] == "network to cuda:0", "it comes back all the same"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_holds_one_of_the_two(run: Path) -> None:
    pipeline = Pipeline.from_checkpoint(run, device="cuda", trusted=FAKES, num_steps=2)
    text: Any = pipeline.text
    once, met = text._row, []
    text._row = lambda *args: (met.append(next(pipeline.net.parameters()).device.type), once(*args))[1]  # type: ignore[func-returns-value]
    pipeline.net.register_forward_pre_hook(lambda *_: met.append(bool(text.models)))
    pipeline(["a", "b"], [0, 1])
    assert met[:2] == ["cpu", "cpu"] and not any(met[3:])
