"""On a GPU: every published network, uncompiled and compiled, against the CPU in float64, and a whole run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from dit.engine import run
from dit.engine.blocks import compile_blocks
from dit.interop.families import FAMILIES
from dit.interop.family import Family
from dit.interop.presets import CONFIGS
from dit.sampling.pipeline import Pipeline
from tests.engine import small
from tests.interop.tuning import NET, TINY
from tests.net.test_net_compile import call, network, results

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.timeout(600),
]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.preset)


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """float32 products are in float32: TF32 rounds to ten bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch._dynamo.reset()
    yield
    torch.set_float32_matmul_precision(before)


def placed(values: Any, dtype: torch.dtype) -> Any:
    """x, t and cond on the device. Only features take the dtype: levels, guidance and scales stay as exact as they
    are."""
    x, t, cond = values
    features = {
        key: value.dim() > 1 and value.shape[-1] > 3 for key, value in cond.items() if value.is_floating_point()
    }
    moved = {key: value.to(DEVICE, dtype if features.get(key) else value.dtype) for key, value in cond.items()}
    return x.to(DEVICE, dtype), t.to(DEVICE), moved


def apart(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """Distance of the output, and of all gradients together, over the length of what was wanted."""
    pairs = [(a.double().cpu(), b) for a, b in zip(found, wanted, strict=True)]
    lengths = [(float((a - b).norm() ** 2), float(b.norm() ** 2)) for a, b in pairs]
    sums = [lengths[0], tuple(map(sum, zip(*lengths[1:], strict=True)))]
    return [(far / whole) ** 0.5 for far, whole in sums]


@each_family
@pytest.mark.parametrize("way", ["uncompiled", "compiled", "compiled by blocks"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_a_published_network(family: Family, way: str, dtype: torch.dtype, near: float) -> None:
    """Output and gradients, with the attention kernels that `auto` chooses there."""
    net = network(family)
    given = call(family, net)
    wanted = results(net, net, given)
    there = copy.deepcopy(net).to(DEVICE, dtype)
    runs: Any = torch.compile(there) if way == "compiled" else there
    if way == "compiled by blocks":
        compile_blocks(there, "default")
    found = results(runs, there, placed(given, dtype))
    assert max(apart(found, wanted)) < near
    changed = (given[0].roll(1, 0), *given[1:])
    assert apart(results(runs, there, placed(changed, dtype)), wanted)[0] > 2 * near


@pytest.mark.parametrize("lora", [False, True], ids=["in full", "adapters"])
@pytest.mark.parametrize("compile_mode", ["null", "default"])
def test_a_run(lora: bool, compile_mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 training, stopped and resumed, is training without a stop; and it samples."""
    if lora:
        pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    accelerator = "gpu" if DEVICE == "cuda" else DEVICE
    asked = [
        *NET, *TINY, f"trainer.accelerator={accelerator}", "trainer.precision=bf16-mixed",
        f"trainer.compile_mode={compile_mode}", *["lora=default"] * lora,
    ]  # fmt: skip
    ends = []
    for name, stops in (("straight", [6]), ("broken", [3, 6])):
        for steps in stops:
            with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
                config = hydra.compose("train", [*asked, f"name={name}", f"trainer.max_steps={steps}"])
            run.train(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        ends.append(small.load(Path("runs") / name))
    straight, broken = ends
    assert straight["global_step"] == broken["global_step"] == 6
    for key, weights in straight["state_dict"].items():
        torch.testing.assert_close(broken["state_dict"][key], weights, rtol=1e-3, atol=1e-4)
    pixels = Pipeline.from_checkpoint("runs/broken", device=DEVICE, num_steps=2)(["a red circle"], [3]).pixels
    assert pixels.isfinite().all() and pixels.std() > 0
