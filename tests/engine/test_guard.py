"""Clipping against torch's own, and a run that stops before a bad update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dit.engine.callbacks.guard import GradientGuard, NonFinite
from tests.engine import small


class Norms(small.Callback):
    """Behind the guard: gradients as the optimizer sees them."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad.flatten().double() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat(grads).norm()))


@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_clips_and_measures(tmp_path: Path, max_norm: float | None) -> None:
    guard, norms = GradientGuard(max_norm), Norms()
    trainer = small.training(3).trainer([norms_before := Norms(), guard, norms], tmp_path)
    trainer.fit(small.model(max_steps=3), datamodule=small.video_data())
    assert guard.norm is not None and float(guard.norm) == pytest.approx(norms_before.norms[-1], rel=1e-5)
    assert min(norms_before.norms) > 0.05
    wanted = norms_before.norms if max_norm is None else [0.05] * 3
    assert norms.norms == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_stops_before_a_bad_update(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At step 3, second micro-batch: weights, average and checkpoint stay as they were after step 2."""
    module, record = small.model(max_steps=6), small.Record()
    calls = 0
    step = module.training_step

    def spoiled(batch: Any, batch_idx: int) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6 and where == "loss":
            batch.pixels[1] = float("nan")
        loss = step(batch, batch_idx)
        if calls == 6 and where == "gradient":
            module.net.final.weight.register_hook(lambda grad: grad * float("inf"))  # type: ignore[union-attr]
            loss = loss + 0 * module.net.final.weight.sum()  # type: ignore[union-attr]
        return loss

    monkeypatch.setattr(module, "training_step", spoiled)
    with pytest.raises(NonFinite) as caught:
        small.train(module, tmp_path, small.video_data(), after=[record], accumulate=2)
    message = str(caught.value)
    assert f"the {where} is not finite at step 3" in message and "\n" not in message
    stream = [id for batch in record.ids for id in batch]
    assert len(stream) == 20  # five micro-batches ended well
    if where == "loss":
        assert message.count("id") == 1 + "optim.lr, or set trainer.gradient_clip_norm".count("id")
        assert "sample id" in message
    else:
        assert message.count("id") >= 8  # both micro-batches are suspects
    for key, value in record.weights[-1].items():
        assert torch.equal(value, small.weights(module)[key])
    assert len(record.weights) == 2 and not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_norms_that_clip_to_nothing_or_to_nan_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"gradient_clip_norm={value} must be a finite number above 0"):
        GradientGuard(value)
