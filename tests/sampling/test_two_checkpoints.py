"""Two runs, one for the high noise levels and one for the low ones, sampled as one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dit.diffusion.experts import ByLevel
from dit.entry import CONFIGS
from dit.sampling import record
from dit.sampling.guidance import ByLevel as GuidanceByLevel
from dit.sampling.guidance import ClassifierFree, NoGuidance
from dit.sampling.pipeline import Pipeline
from dit.sampling.schedule import Autoregressive, Linear, Pyramid
from dit.sampling.session import session
from dit.sampling.tasks import ImageToVideo
from tests.sampling.fakes import FAKES, checkpoint
from tests.sampling.test_pipeline import VIDEO

UNIFORM = {"_target_": "dit.diffusion.levels.Uniform"}


def between(low: float, high: float) -> dict[str, Any]:
    return {"levels": {"_target_": "dit.diffusion.levels.Between", "levels": UNIFORM, "low": low, "high": high}}


def change(run: Path, shift: float, key: str = "net.gain") -> None:
    """Adds to a weight of a run, averages included."""
    file = run / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    for weights in (content["state_dict"], *content["ema"].values()):
        weights[key] = weights[key] + shift
    torch.save(content, file)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """High and low, which meet at 0.7."""
    high = checkpoint(tmp_path / "high", **between(0.7, 1.0))
    low = checkpoint(tmp_path / "low", **between(0.0, 0.7))
    change(low, 0.3)
    return high, low


def pipeline(runs: tuple[Path, Path], **changes: Any) -> Pipeline:
    return Pipeline.from_checkpoint(runs[0], device="cpu", low_noise_ckpt=runs[1], trusted=FAKES, **changes)


def alone(run: Path, **changes: Any) -> Pipeline:
    return Pipeline.from_checkpoint(run, device="cpu", trusted=FAKES, **changes)


def test_each_level_has_its_own_network(runs: tuple[Path, Path]) -> None:
    made = pipeline(runs, schedule=Linear(), num_steps=4)
    net: Any = made.net
    assert isinstance(net, ByLevel) and net.boundary == 0.7
    samples = made("red", 3)
    assert [t[0, 0].item() for _, t, _ in net.high.asked] == [1.0, 0.75]
    assert [t[0, 0].item() for _, t, _ in net.low.asked] == [0.5, 0.25]
    for one in (alone(run, schedule=Linear(), num_steps=4) for run in runs):
        assert not torch.equal(one("red", 3).latents, samples.latents)
    twice = pipeline((runs[0], runs[0]), boundary=0.7, schedule=Linear(), num_steps=4)
    assert torch.equal(twice("red", 3).latents, alone(runs[0], schedule=Linear(), num_steps=4)("red", 3).latents)


def test_the_boundary_may_be_said(runs: tuple[Path, Path]) -> None:
    samples = [pipeline(runs, boundary=boundary)("red", 3).latents for boundary in (0.7, 0.3, None)]
    assert torch.equal(samples[0], samples[2]) and not torch.equal(samples[0], samples[1])


def test_given_frames_and_waiting_one_at_a_time(runs: tuple[Path, Path]) -> None:
    plain, turns = pipeline(runs), pipeline(runs, offload_experts=True)
    task = ImageToVideo(VIDEO[:, 0])
    assert torch.equal(plain("red", 3, task).latents, turns("red", 3, task).latents)
    net: Any = turns.net
    assert net.one_at_a_time and turns.device.type == "cpu" and not plain.net.one_at_a_time


def test_frames_on_both_sides_are_refused(tmp_path: Path) -> None:
    """Before a file is read or a step is made."""
    levels = between(0.7, 1.0)["levels"], between(0.0, 0.7)["levels"]
    frames = [{"levels": {"_target_": "dit.diffusion.levels.PerFrame", "levels": each}} for each in levels]
    runs = checkpoint(tmp_path / "high", **frames[0]), checkpoint(tmp_path / "low", **frames[1])
    made = pipeline(runs)
    with pytest.raises(ValueError, match="on both sides of the boundary 0.7 between two networks") as caught:
        made("red", 3, schedule=Autoregressive(None, 1))
    assert "\n" not in str(caught.value)
    assert torch.equal(made("red", 3, schedule=Pyramid(None, 1, 0)).latents, made("red", 3).latents)


def test_a_guidance_for_each(runs: tuple[Path, Path]) -> None:
    every = (0.0, 1.0)
    made = pipeline(
        runs, schedule=Linear(), guidance=GuidanceByLevel(ClassifierFree(3.0, 0.0, every), NoGuidance(), None)
    )
    made("red", 3)
    net: Any = made.net
    assert [len(x) for x, _, _ in net.high.asked] == [2, 2] and [len(x) for x, _, _ in net.low.asked] == [1, 1]
    with pytest.raises(ValueError, match="guidance.boundary=null is where two networks meet, and this model has one"):
        alone(runs[0], guidance=made.settings.guidance)


def ask(**changes: Any) -> dict[str, Any]:
    """The keys of configs/sample.yaml, as a command holds them, of a text-to-video sample on the CPU."""
    keys = yaml.safe_load((CONFIGS / "sample.yaml").read_text())
    plain = {key: value for key, value in keys.items() if key not in ("defaults", "hydra")}
    common = {"device": "cpu", "prompt": "red", "seed": 3, "guidance": None, "task": None, "trusted": FAKES}
    return plain | common | changes


def test_a_sample_is_made_again_from_both(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first = session(ask(ckpt=str(runs[0]), low_noise_ckpt=str(runs[1]), boundary=0.4))
    (facts,) = first.facts
    assert facts["boundary"] == 0.4 and facts["low_noise_ckpt"]["path"].endswith("low/checkpoints/last.ckpt")
    file = tmp_path / "x.json"
    file.write_text(json.dumps(facts))
    again = session(ask(again=str(file)))
    wanted, found = (next(each.pipeline.make(each.job, [0])).latents for each in (first, again))
    assert torch.equal(wanted, found) and again.facts[0]["low_noise_ckpt"] == facts["low_noise_ckpt"]
    plain = session(ask(ckpt=str(runs[0]))).facts[0]
    assert "low_noise_ckpt" not in plain and "boundary" not in plain
    file.write_text(json.dumps({**facts, "boundary": "low"}))
    with pytest.raises(ValueError, match="boundary='low' is no number"):
        record.read(str(file), FAKES)
    change(runs[1], 0.1)
    file.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="its content has changed since"):
        session(ask(again=str(file)))


def test_one_of_two_warns(runs: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    pipeline(runs)("red", 3)
    assert "noise levels" not in caplog.text
    alone(runs[1])("red", 3)
    assert "trained for noise levels 0 to 0.7 alone" in caplog.text and "low_noise_ckpt=" in caplog.text


def test_mistakes(runs: tuple[Path, Path], tmp_path: Path) -> None:
    high, low = runs
    plain = checkpoint(tmp_path / "plain", levels=UNIFORM)
    apart = checkpoint(tmp_path / "apart", **between(0.0, 0.5))
    eps = checkpoint(tmp_path / "eps", prediction={"_target_": "dit.diffusion.prediction.Flow"}, **between(0.0, 0.7))
    net = {"_target_": "tests.sampling.fakes.FakeNet", "in_channels": 3, "patch": [1, 2, 1], "num_classes": None}
    patched = checkpoint(tmp_path / "patched", net=net, **between(0.0, 0.7))
    told = checkpoint(tmp_path / "told", **between(0.0, 0.7))
    change(told, 0.1, "text.scale")
    assert isinstance(pipeline((plain, low)).net, ByLevel) and pipeline((high, plain)).net.boundary == 0.7
    for pair, changes, message in [
        ((low, high), {}, "ckpt= is the network of the high levels, low_noise_ckpt= that of the low ones"),
        ((high, apart), {}, "0.7 to 1 and .* for 0 to 0.5, which do not meet: say where to change"),
        ((plain, plain), {}, "were both trained for all noise levels: say where to change, for example boundary=0.875"),
        ((high, eps), {}, "has another prediction than .*: one sampler cannot serve both networks"),
        ((high, told), {}, r"has another text encoder than .* \(text.scale differs\).*recipe=frozen_text"),
        ((high, patched), {}, r"differ: patch is \(1, 1, 1\) and \(1, 2, 1\)"),
        ((high, low), {"boundary": 7.0}, "boundary=7.0 between two networks is a noise level, from 0 to 1"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            pipeline(pair, **changes)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="boundary=0.5 lies between two networks, and here is one"):
        alone(high, boundary=0.5)
