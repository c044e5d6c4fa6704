"""Clipping against torch's own, and a run that stops before a bad update."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dit.engine import resume
from dit.engine.callbacks.guard import GradientGuard, NonFinite
from dit.engine.ema import EMA
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
    assert float(guard.norms["net"]) == pytest.approx(norms_before.norms[-1], rel=1e-5)
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
        assert len(set(re.findall(r"id\d+", message))) > 4  # both micro-batches are suspects
    for key, value in record.weights[-1].items():
        assert torch.equal(value, small.weights(module)[key])
    assert len(record.weights) == 2 and not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_norms_that_clip_to_nothing_or_to_nan_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"gradient_clip_norm={value} must be a finite number above 0"):
        GradientGuard(value)


@pytest.mark.parametrize("where", ["weights", "moments", "average"])
def test_what_is_not_finite_is_never_the_last_checkpoint(tmp_path: Path, where: str) -> None:
    """An update that spoils them is found when they would be saved, though loss and gradient were finite."""

    class Spoil(small.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            if trainer.global_step != 6:
                return
            if where == "weights":
                pl_module.net.final.bias.data[1] = float("nan")
            elif where == "moments":
                next(iter(trainer.optimizers[0].state.values()))["exp_avg"][0] = float("inf")
            else:
                ema = next(callback for callback in trainer.callbacks if isinstance(callback, EMA))
                next(iter(ema.averages["power"].values()))[0] = float("nan")

    named = {"weights": "the weights", "moments": "the optimizer's moments", "average": "the averaged weights"}
    everyone = small.everyone(module := small.model(max_steps=9))
    trainer = small.training(9).trainer([*everyone[:-1], Spoil(), everyone[-1]], tmp_path)
    with pytest.raises(NonFinite, match=f"^{named[where]} are not finite after step 6$"):
        trainer.fit(module, datamodule=small.video_data())
    assert small.load(tmp_path)["global_step"] == 3
    names = {file.name for file in (tmp_path / "checkpoints").iterdir() if file.suffix != ".json"}
    assert names <= {"last.ckpt", "step-00000003.ckpt", "step-00000006.part"}


def test_an_update_that_spoils_the_weights_is_blamed_and_not_the_data(tmp_path: Path) -> None:
    class Spoil(small.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            if trainer.global_step == 4:
                pl_module.net.embed.weight.data.fill_(float("inf"))

    with pytest.raises(NonFinite, match="^the weights are not finite after step 4$"):
        small.train(small.model(max_steps=9), tmp_path, small.video_data(), after=[Spoil()])


def test_a_resumed_optimizer_has_the_rates_of_the_config_and_the_moments_of_the_checkpoint(tmp_path: Path) -> None:
    small.train(small.model(max_steps=3, lr=1e-2), tmp_path, small.video_data())
    before = small.load(tmp_path)["optimizer_states"][0]

    class Look(small.Callback):
        def on_train_batch_start(self, trainer: Any, *rest: Any) -> None:
            if not hasattr(self, "rates"):
                self.rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
                self.moments = next(iter(trainer.optimizers[0].state.values()))["exp_avg"].clone()

    look = Look()
    small.train(small.model(max_steps=4, lr=5e-3), tmp_path, small.video_data(), before=[look])
    assert look.rates == [5e-3, 5e-3] and torch.equal(look.moments, before["state"][0]["exp_avg"])
    assert small.load(tmp_path)["lr_schedulers"][0]["base_lrs"] == [5e-3, 5e-3]
    held = small.model(max_steps=5, lr=5e-3)
    held.held_lr_factor = 0.5
    again = Look()
    small.train(held, tmp_path, small.video_data(), before=[again])
    assert again.rates == [2.5e-3, 2.5e-3] and small.load(tmp_path)["lr_factor"] == 0.5


def test_divergence_is_said_beside_a_damaged_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"half")
    said = resume.about_divergence(tmp_path, {"optim": {"lr": 0.5}})
    assert "is damaged" in said and "optim.lr=0.25" in said
