"""Every kernel against a plain float64 softmax, forward and backward."""

import copy
import pickle
import sys

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention
from torch.utils.checkpoint import checkpoint

from dit.net.kernels import auto
from dit.net.kernels.auto import Auto
from dit.net.kernels.base import KernelError
from dit.net.kernels.flex import Flex
from dit.net.kernels.masks import ByCoordinates, KeyPadding, Mask, Packed
from dit.net.kernels.sdpa import SDPA
from dit.net.kernels.xformers import XFormers

BATCH, HEADS, QUERIES, HEAD_DIM = 3, 2, 14, 16


def padding() -> KeyPadding:
    """Holes, padding at the end, and a sample without any key."""
    real = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0], [0] * 9], dtype=torch.bool)
    return KeyPadding(real)


def by_coordinates() -> ByCoordinates:
    """Two clips, in which groups, steps and padding hide keys; a query and a key of all groups of their clip."""
    query, key = (torch.arange(n) for n in (QUERIES, 9))
    numbers = [torch.stack([n % 2, n % 3, n // 4]) for n in (query, key)]
    numbers[0][1, 3] = numbers[1][1, 4] = ByCoordinates.ANY
    return ByCoordinates(numbers[0], numbers[1], padding().real)


# name -> (mask, number of keys)
CASES: dict[str, tuple[Mask | None, int]] = {
    "none": (None, 9),
    "padding": (padding(), 9),
    "padding_beside_video": (KeyPadding(padding().real | (torch.arange(9) > 6), never_empty=True), 9),
    "packed": (Packed.of((3, 10, 1)), QUERIES),
    "packed_alike": (Packed.of((3, 3, 4, 4)), QUERIES),
    "packed_cross": (Packed.of((3, 4, 7), (5, 0, 2)), 7),  # the second clip has no text
    "packed_padded": (Packed.of((3, 4, 7), (3, 3, 3), padding().real), 9),  # and here some have padding alone
    "packed_joint": (Packed(*[((2, 5, 1), (2, 2, 2))] * 2, torch.arange(QUERIES)[None] % 5 > 0, True), QUERIES),
    "by_coordinates": (by_coordinates(), 9),
}
each_case = pytest.mark.parametrize("case", CASES)


def inputs(num_keys: int, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """q, k, v that ask for gradients, and a gradient of the output."""
    generator = torch.Generator().manual_seed(num_keys)
    tokens = (QUERIES, num_keys, num_keys, QUERIES)
    drawn = [torch.randn(BATCH, HEADS, n, HEAD_DIM, generator=generator, dtype=torch.float64) for n in tokens]
    return [x.to(device, dtype).requires_grad_(i < 3) for i, x in enumerate(drawn)]


def results(attend, q: Tensor, k: Tensor, v: Tensor, grad: Tensor, mask: Mask | None) -> list[Tensor]:
    """Output, dq, dk, dv in float64 on the CPU."""
    out = attend(q, k, v, mask)
    assert out.shape == q.shape
    assert out.dtype == v.dtype
    return [x.detach().double().cpu() for x in (out, *torch.autograd.grad(out, (q, k, v), grad))]


def reference(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
    """The definition, by exponentials over the allowed keys; a row without keys is zero."""
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / HEAD_DIM**0.5
    allowed = torch.ones_like(scores) if mask is None else mask.dense(q.device).to(scores).expand_as(scores)
    weights = scores.exp() * allowed
    return torch.einsum("bhqk,bhkd->bhqd", weights / weights.sum(-1, keepdim=True).clamp_min(1e-30), v)


def distance(kernel, case: str, dtype: torch.dtype, device: str = "cpu", against: Mask | None = None) -> float:
    """Largest difference of output and gradients from the reference, which may be given another mask."""
    mask, num_keys = CASES[case]
    drawn = inputs(num_keys, dtype, device)
    exact = [x.detach().double().cpu().requires_grad_(i < 3) for i, x in enumerate(drawn)]
    found = results(kernel, *drawn, mask)
    expected = results(reference, *exact, mask if against is None else against)
    assert all(x.isfinite().all() for x in found)
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


@pytest.fixture
def xformers_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """xformers has no operator for the CPU; its own reference, which reads the real bias objects, stands in."""
    ops = pytest.importorskip("xformers.ops", reason="xformers is not installed")
    bias_utils = pytest.importorskip("xformers.attn_bias_utils", reason="this xformers has no reference attention")

    def stand_in(q: Tensor, k: Tensor, v: Tensor, attn_bias=None) -> Tensor:
        return bias_utils.ref_attention_bmhk(q, k, v, attn_bias=attn_bias).to(q.dtype)

    monkeypatch.setattr(ops, "memory_efficient_attention", stand_in)


@pytest.fixture(autouse=True)
def flex_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """From torch 2.11 on FlexAttention refuses gradients on the CPU, though its eager form computes them."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)


@each_case
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_sdpa_equals_the_definition(case: str, dtype: torch.dtype, limit: float) -> None:
    assert distance(SDPA(), case, dtype) < limit


@each_case
def test_flex_equals_the_definition(case: str) -> None:
    assert distance(Flex(), case, torch.float64) < 1e-5  # eager FlexAttention keeps its scores in float32


@each_case
def test_xformers_layout_and_masks_equal_the_definition(case: str, xformers_on_cpu: None) -> None:
    if case == "by_coordinates":
        with pytest.raises(KernelError, match="no form of masks by coordinates.*choose net/kernel=auto"):
            distance(XFormers(), case, torch.float32)
        return
    assert distance(XFormers(), case, torch.float32) < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernel", [SDPA(), Flex(), XFormers()], ids=lambda kernel: type(kernel).__name__)
@each_case
@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 6e-2), (torch.float32, 6e-3)])
def test_kernels_on_the_gpu_equal_the_definition(kernel, case: str, dtype: torch.dtype, limit: float) -> None:
    try:
        far = distance(kernel, case, dtype, "cuda")
    except KernelError as error:
        assert isinstance(kernel, XFormers)  # which is optional; the others are torch's own
        pytest.skip(str(error))
    assert far < limit


SPOILED: dict[str, Mask] = {
    "padding": KeyPadding(padding().real ^ (torch.arange(27).view(3, 9) == 1)),  # one key of one sample
    "packed": Packed.of((3, 9, 2)),
    "packed_alike": Packed.of((3, 3, 5, 3)),
    "packed_cross": Packed.of((3, 4, 7), (5, 1, 1)),
    "packed_padded": Packed.of((3, 4, 7), (3, 3, 3), padding().real ^ (torch.arange(27).view(3, 9) == 2)),
    "packed_joint": Packed(*[((2, 4, 2), (2, 2, 2))] * 2, torch.arange(QUERIES)[None] % 5 > 0, True),
}


@pytest.mark.parametrize("kernel", [SDPA(), Flex()], ids=lambda kernel: type(kernel).__name__)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_spoiled_number_is_noticed(kernel, number: int) -> None:
    """One key's clip, group or step is another."""
    right = by_coordinates()
    key = right.key.clone()
    key[number, 0] += 1 if number < 2 else 9
    wrong = ByCoordinates(right.query, key, right.real)
    assert distance(kernel, "by_coordinates", torch.float32, against=wrong) > 1e-2


@pytest.mark.parametrize("kernel", [SDPA(), Flex(), XFormers()], ids=lambda kernel: type(kernel).__name__)
@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_mask_is_noticed(kernel, case: str, xformers_on_cpu: None) -> None:
    assert distance(kernel, case, torch.float32, against=SPOILED[case]) > 1e-2


def test_q_and_k_of_another_dtype_are_computed_in_that_of_v() -> None:
    q, k, v, _ = inputs(9, torch.float32)
    for kernel in (SDPA(), Flex()):
        assert kernel(q, k, v.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kernel", [SDPA(), Flex(), Auto(candidates=[XFormers(), SDPA()])])
def test_kernels_survive_copies_pickles_and_checkpointing(kernel) -> None:
    mask, num_keys = CASES["padding"]
    q, k, v, grad = inputs(num_keys, torch.float32)
    expected = results(kernel, q, k, v, grad, mask)
    for twin in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        recomputed = results(lambda *a, twin=twin: checkpoint(twin, *a, use_reentrant=False), q, k, v, grad, mask)
        for a, b in zip(recomputed, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("case", ["none", "padding", "packed_cross"])
@pytest.mark.parametrize("kernel", [SDPA(), Auto(candidates=[SDPA()])], ids=["sdpa", "auto"])
def test_kernels_compile_into_one_graph(kernel, case: str) -> None:
    mask, num_keys = CASES[case]
    drawn = inputs(num_keys, torch.float32)
    expected = results(kernel, *drawn, mask)  # Auto has chosen before it is compiled
    torch._dynamo.reset()
    compiled = torch.compile(kernel, backend="aot_eager", fullgraph=True)
    for a, b in zip(results(compiled, *drawn, mask), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_mask_first_met_while_sampling_serves_training() -> None:
    q, k, v, grad = inputs(QUERIES, torch.float32)
    mask = Packed.of((4, 10))
    with torch.inference_mode():
        Flex()(q, k, v, mask)
    assert all(x.isfinite().all() for x in results(Flex(), q, k, v, grad, mask))


@pytest.mark.parametrize("kernel", [SDPA(), Flex(), XFormers()], ids=lambda kernel: type(kernel).__name__)
@pytest.mark.parametrize(
    "mask", [KeyPadding(torch.ones(3, 8, dtype=torch.bool)), Packed.of((3, 10), (4, 6)), Packed.of((3, 10), (4, 5))]
)
def test_a_mask_for_other_shapes_is_refused(kernel, mask: Mask) -> None:
    q, k, v, _ = inputs(9, torch.float32)
    with pytest.raises(ValueError, match="not for"):
        kernel(q, k, v, mask)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: KeyPadding(torch.ones(3, 8)), "bool"),
        (lambda: Packed.of((3, 2), (1,)), r"are of \[1, 2\] clips; each has a run of all"),
        (lambda: Packed.of((3, 0)), "at least 1 query"),
        (lambda: Packed.of((3, 4), (1, -1)), "0 keys"),
    ],
)
def test_masks_refuse_nonsense(build, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


# --- auto ---


@pytest.fixture(autouse=True)
def no_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_choices", {})


@pytest.mark.skipif(torch.cuda.is_available(), reason="xformers may well run here")
def test_named_xformers_that_cannot_run_is_a_one_line_error() -> None:
    q, k, v, _ = inputs(9, torch.float32)
    with pytest.raises(KernelError) as caught:
        XFormers()(q, k, v)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("kernel=xformers cannot run on cpu with float32, head_dim=16")
    assert "net/kernel=auto" in message


def test_flex_without_gradients_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Tensor) -> None:
        raise NotImplementedError("FlexAttention does not support backward on CPU. Please use another device.")

    monkeypatch.setattr(flex_attention, "_validate_device", refuses)
    q, k, v, _ = inputs(9, torch.float32)
    with pytest.raises(
        KernelError, match=r"^kernel=flex cannot run on cpu .*\(FlexAttention does not .*net/kernel=auto"
    ):
        Flex()(q, k, v)


def test_missing_xformers_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    q, k, v, _ = inputs(9, torch.float32)
    with pytest.raises(KernelError, match="it does not import"):
        XFormers()(q, k, v)
    assert type(auto.choose((XFormers(),), "cpu", torch.float32, HEAD_DIM, None)) is SDPA
