"""The EMA callback over real training runs, against an independent recomputation in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dit.checkpoint.averages import load_snapshots, of_width, power_exponent
from dit.engine.callbacks.metrics import Metrics
from dit.engine.callbacks.validation import Validation
from dit.engine.ema import EMA
from dit.engine.profiles import ConstantDecay, PowerProfile
from dit.engine.writers import Writers
from tests.engine.small import Record, average, fit, model, tasks, video_data, weights


@pytest.mark.parametrize("accumulate", [1, 2])
def test_equals_float64_recomputation_over_a_run(tmp_path: Path, accumulate: int) -> None:
    module, record, ema = model(max_steps=12), Record(), average()
    frozen = module.text.requires_grad_(False)
    fit(module, [record, ema], tmp_path, accumulate=accumulate)
    assert ema.updates == len(record.weights) == 12  # once for each optimizer step, not for each micro-batch
    gamma = power_exponent(0.15)
    for key in record.weights[0]:
        history = torch.stack([w[key].double() for w in record.weights])
        i = torch.arange(1, 13, dtype=torch.float64)
        share = (i ** (gamma + 1) - (i - 1) ** (gamma + 1)) / 12 ** (gamma + 1)
        wanted = torch.einsum("s,s...->...", share, history)
        torch.testing.assert_close(ema.averages["power"][key].double(), wanted, rtol=1e-5, atol=1e-6)
        slow = history[0]
        for step in range(2, 13):
            decay = min(0.9, (step - 1) / (step + 9))
            slow = decay * slow + (1 - decay) * history[step - 1]
        torch.testing.assert_close(ema.averages["fast"][key].double(), slow, rtol=1e-5, atol=1e-6)
        assert (wanted - history[-1]).abs().max() > 1e-4  # the average is not simply the last weights
    assert not [key for key in ema.averages["fast"] if key.startswith("text.")] and list(frozen.parameters())


def test_bfloat16_weights_move_in_the_average() -> None:
    """At decay 0.9999 a bfloat16 average would stand still: each step is below its resolution."""
    net = nn.Linear(4, 4).bfloat16()
    ema = EMA({"long": ConstantDecay(0.9999)}, use="long", snapshot_every=None)
    ema.updates = 200_000  # far behind the warm-up
    ema.averages = {"long": {name: p.detach().float().clone() for name, p in net.named_parameters()}}
    before = net.weight.detach().float().clone()
    with torch.no_grad():
        net.weight += 1.0
    for _ in range(1000):
        ema.update(net)
    moved = ema.averages["long"]["weight"] - before
    wanted = (1 - 0.9999**1000) * (net.weight.detach().float() - before)
    torch.testing.assert_close(moved, wanted, rtol=1e-3, atol=1e-5)
    with ema.swapped(net):
        assert net.weight.dtype == torch.bfloat16
        torch.testing.assert_close(net.weight.float(), (before + moved).bfloat16().float())


class Fails(RuntimeError):
    pass


def test_an_exception_in_validation_leaves_the_raw_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, record, ema = model(max_steps=3), Record(), average()
    seen: list[dict[str, torch.Tensor]] = []

    def failing(*arguments: Any) -> Any:
        seen.append(weights(module))
        raise Fails

    monkeypatch.setattr(module, "validation_step", failing)
    metrics = Metrics(Writers([]), None, every=100)  # type: ignore[arg-type]
    with pytest.raises(Fails):
        validation = Validation(ema, metrics, every=2, level_buckets=2, error_levels=2, raw=False)
        fit(module, [record, ema, tasks(validation)], tmp_path)
    assert len(seen) == 1 and len(record.weights) == 2
    for key, raw in record.weights[-1].items():
        assert torch.equal(weights(module)[key], raw)
        torch.testing.assert_close(seen[0][key], ema.averages["fast"][key])
    assert any(not torch.equal(seen[0][key], raw) for key, raw in record.weights[-1].items())
    assert module.training


def test_nothing_is_lent_before_the_first_update() -> None:
    module, ema = model(), average()
    ema.on_train_start(None, module)  # type: ignore[arg-type]
    with torch.no_grad():
        module.net.final.weight.fill_(3.0)  # type: ignore[union-attr,operator]
    with ema.swapped(module) as which:
        assert which == "raw"
        assert (module.net.final.weight == 3).all()  # type: ignore[union-attr]
    ema.update(module)
    with ema.swapped(module) as which:
        assert which == "ema:fast"
        with pytest.raises(RuntimeError, match="already"), ema.swapped(module):
            pass
        with pytest.raises(RuntimeError, match="must not be saved"):
            ema.on_save_checkpoint(None, module, {})  # type: ignore[arg-type]


def test_snapshots_are_left_and_read_back(tmp_path: Path) -> None:
    module = model(max_steps=6)
    profiles = {"a": PowerProfile(0.1), "b": ConstantDecay(0.9)}
    ema = EMA(profiles, use="a", snapshot_every=3)
    fit(module, [ema], tmp_path, video_data())
    snapshots = load_snapshots(tmp_path)
    assert [(s.step, s.sigma_rel) for s in snapshots] == [(3, 0.1), (6, 0.1)]  # power profiles only
    for key, value in snapshots[-1].weights.items():
        assert torch.equal(value, ema.averages["a"][key])
    with pytest.raises(FileNotFoundError, match="snapshot_every"):
        load_snapshots(tmp_path / "nowhere")


def test_a_width_that_was_not_tracked_is_rebuilt_as_if_it_had_been(tmp_path: Path) -> None:
    """`weights=ema@0.07` of a run with a snapshot at each step, beside what an average of that width would have been:
    equal in floats."""
    widths = {"narrow": 0.05, "wide": 0.1}
    ema, record = EMA({name: PowerProfile(width) for name, width in widths.items()}, "narrow", 1), Record()
    fit(model(max_steps=12), [record, ema], tmp_path, video_data())
    nodes = {
        name: {"_target_": "dit.engine.profiles.PowerProfile", "sigma_rel": width} for name, width in widths.items()
    }
    config, file = {"ema": {"profiles": nodes}}, tmp_path / "checkpoints" / "last.ckpt"
    for width in (0.03, 0.07, 0.2):
        profile, rebuilt = PowerProfile(width), of_width(width, 12, ema.averages, config, file)
        assert any((value - ema.averages["narrow"][key]).abs().max() > 1e-4 for key, value in rebuilt.items())
        for key, value in rebuilt.items():
            tracked = record.weights[0][key].double()
            for step, raw in enumerate(record.weights, 1):
                tracked = torch.lerp(tracked, raw[key].double(), 1 - profile.decay(step))
            torch.testing.assert_close(value.double(), tracked, rtol=1e-5, atol=1e-6)
    assert of_width(0.1, 12, ema.averages, config, file) is ema.averages["wide"]
    with pytest.raises(ValueError, match=r"width 0.2 cannot be rebuilt from 2 of widths 0.05, 0.1: .* 54 % off"):
        of_width(0.2, 12, ema.averages, config, tmp_path / "elsewhere.ckpt")  # without the snapshots


def test_a_snapshot_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ema").write_text("a file where the folder goes")
    ema = EMA({"a": PowerProfile(0.1)}, use="a", snapshot_every=1)
    with pytest.raises(ValueError, match=r"step-00000001-a.ckpt cannot be written: File exists\. See to that"):
        fit(model(max_steps=1), [ema], tmp_path, video_data())


def test_use_must_name_a_profile() -> None:
    for every in (0, 1.5):
        with pytest.raises(ValueError, match=f"ema.snapshot_every={every} must be a whole number"):
            EMA({"fast": ConstantDecay(0.9)}, use="fast", snapshot_every=every)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ema.use=slow is not one of ema.profiles: fast"):
        EMA({"fast": ConstantDecay(0.9)}, use="slow", snapshot_every=None)
