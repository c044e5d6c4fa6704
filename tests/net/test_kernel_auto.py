"""The kernel that `auto` chooses: the probe, the fallback, and where it may be asked first."""

import logging
import re
from dataclasses import dataclass

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from dit.entry import CONFIGS
from dit.net.kernels import auto
from dit.net.kernels.auto import Auto, probe
from dit.net.kernels.flex import Flex
from dit.net.kernels.masks import KeyPadding, Mask, Packed
from dit.net.kernels.sdpa import SDPA
from dit.net.kernels.xformers import XFormers
from tests.net.test_kernels import CASES, HEAD_DIM, inputs, results


@dataclass(frozen=True)
class Broken:
    """A kernel with one fault: `call` fails, `backward` has no gradient, `wrong` is a tenth too large."""

    fault: str

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None) -> Tensor:
        if self.fault == "call":
            raise NotImplementedError("no operator found\nfor a long list of reasons")
        out = SDPA()(q, k, v, mask)
        return out.detach() if self.fault == "backward" else out * 1.1

    def unfit(self, device_type: str, mask_type: type[Mask] | None) -> str | None:
        return None


@pytest.fixture(autouse=True)
def no_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_choices", {})


def chosen(*candidates, mask_type: type[Mask] | None = None) -> str:
    return type(auto.choose(tuple(candidates), "cpu", torch.float32, HEAD_DIM, mask_type)).__name__


@pytest.mark.parametrize("mask_type", auto.MASK_TYPES)
@pytest.mark.parametrize(
    ("fault", "why"),
    [("call", "no operator found$"), ("backward", "does not require grad"), ("wrong", "output is off by 1[0-9]\\.")],
)
def test_auto_falls_back_from_a_kernel_that_fails(fault: str, why: str, mask_type: type[Mask] | None) -> None:
    reason = probe(Broken(fault), "cpu", torch.float32, HEAD_DIM, mask_type)
    assert reason is not None
    assert "\n" not in reason
    assert re.search(why, reason), reason
    assert chosen(Broken(fault), mask_type=mask_type) == "SDPA"


def test_auto_takes_the_first_that_runs() -> None:
    class Works(SDPA):
        pass

    assert chosen(Broken("call"), Works(), SDPA()) == "Works"
    assert chosen(Flex()) == "SDPA"  # runs on the CPU, but is unfit for it
    assert probe(SDPA(), "cpu", torch.bfloat16, 64, Packed) is None


def test_the_config_of_auto_chooses_among_real_kernels() -> None:
    kernel = hydra.utils.instantiate(OmegaConf.load(CONFIGS / "net" / "kernel" / "auto.yaml"))
    q, k, v, _ = inputs(9, torch.float32)
    torch.testing.assert_close(kernel(q, k, v), SDPA()(q, k, v))
    assert [type(candidate) for candidate in kernel.candidates] == [XFormers, Flex, SDPA]


def test_auto_gives_the_right_result_under_inference_mode_and_autocast() -> None:
    kernel = Auto(candidates=[Broken("call")])
    mask, num_keys = CASES["packed"]
    q, k, v, _ = inputs(num_keys, torch.float32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        out = kernel(q, k, v, mask)
    torch.testing.assert_close(out.float(), SDPA()(q, k, v, mask), atol=2e-2, rtol=2e-2)


def test_auto_probes_with_real_numbers_under_fake_tensors() -> None:
    kernel = Auto(candidates=[SDPA()])
    with FakeTensorMode():
        q = torch.randn(1, 2, 8, HEAD_DIM)
        assert kernel(q, q, q).shape == q.shape
    assert [type(kernel) for kernel in auto._choices.values()] == [SDPA]


def test_auto_may_be_asked_first_by_a_checkpointed_block() -> None:
    """Checkpointing counts saved tensors, and the probe, which only the first run meets, saves some as well."""
    q, k, v, grad = inputs(9, torch.float32)
    kernel = Auto(candidates=[SDPA()])
    recomputed = results(lambda *tensors: checkpoint(kernel, *tensors, use_reentrant=False), q, k, v, grad, None)
    for a, b in zip(recomputed, results(SDPA(), q, k, v, grad, None), strict=True):
        torch.testing.assert_close(a, b)


def test_auto_may_be_asked_first_under_torch_func() -> None:
    """Its transforms allow no hooks around saved tensors."""
    q, k, v, _ = inputs(9, torch.float32)
    kernel = Auto(candidates=[SDPA()])
    found = torch.func.grad(lambda q: kernel(q, k, v).square().sum())(q)
    assert [type(chosen) for chosen in auto._choices.values()] == [SDPA]
    (wanted,) = torch.autograd.grad(SDPA()(q.requires_grad_(), k, v).square().sum(), q)
    torch.testing.assert_close(found, wanted)


def test_auto_cuts_a_compiled_graph_only_where_a_kernel_must_be_tried() -> None:
    """Nothing but SDPA fits: no question. xformers, where there is no mask, gives way to torch's own flash kernels."""
    real = hydra.utils.instantiate(OmegaConf.load(CONFIGS / "net" / "kernel" / "auto.yaml"))
    for case in ("none", "padding"):
        mask, num_keys = CASES[case]
        drawn = inputs(num_keys, torch.float32)
        torch._dynamo.reset()
        compiled = torch.compile(real, backend="aot_eager", fullgraph=True)
        for a, b in zip(results(compiled, *drawn, mask), results(SDPA(), *drawn, mask), strict=True):
            torch.testing.assert_close(a, b)
    assert auto._choices == {}

    def fits(_: Tensor) -> tuple[bool, bool]:
        return XFormers().unfit("cuda", None) is None, XFormers().unfit("cuda", KeyPadding) is None

    assert fits(drawn[0]) == (True, True)
    assert torch.compile(fits, backend="eager", fullgraph=True)(drawn[0]) == (False, True)


def test_auto_probes_and_logs_once_for_each_case(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    class Counting(SDPA):
        def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None) -> Tensor:
            calls.append(v.dtype)
            return super().__call__(q, k, v, mask)

    q, k, v, _ = inputs(9, torch.float32)
    with caplog.at_level(logging.INFO, logger=auto.__name__):
        for _ in range(3):
            for kernel in (
                Auto(candidates=[Broken("call"), Counting()]),
                Auto(candidates=[Broken("call"), Counting()]),
            ):
                kernel(q, k, v)
        assert len(caplog.messages) == 1  # two instances of one choice, as two layers have, share the answer
        assert caplog.messages[0].startswith("attention on cpu, float32, head_dim=16, no mask: Counting")
        assert "not Broken: NotImplementedError: no operator found" in caplog.messages[0]
        assert len(calls) == 1 + 6
        Auto(candidates=[Broken("call"), Counting()])(q.double(), k.double(), v.double())
        assert len(caplog.messages) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mask_type", auto.MASK_TYPES)
def test_auto_on_the_gpu_chooses_a_kernel_that_runs(mask_type: type[Mask] | None) -> None:
    kernel = auto.choose((XFormers(), Flex(), SDPA()), "cuda", torch.bfloat16, 64, mask_type)
    assert probe(kernel, "cuda", torch.bfloat16, 64, mask_type) is None
