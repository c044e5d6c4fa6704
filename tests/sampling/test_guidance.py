"""Guidance against two separate passes and the published formulas."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dit.diffusion.denoiser import Denoiser
from dit.diffusion.path import Cosine, Linear
from dit.diffusion.prediction import X0, V
from dit.sampling.guidance import AsTrained, ByLevel, ClassifierFree, NoGuidance, SkipLayer, join


class CountingNet:
    """A network whose output depends on x, t and, through the mask, on its text; it counts calls and samples."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.calls.append(len(x))
        told = (cond["text"] * cond["text_mask"][..., None]).sum((1, 2)) / cond["text_mask"].sum(1)
        return torch.sin(x + told[:, None, None, None, None]) * (1 + 0.1 * t[:, None, :, None, None])


def setup(seed: int = 0) -> tuple[CountingNet, Denoiser, dict[str, Tensor], dict[str, Tensor], Tensor]:
    g = torch.Generator().manual_seed(seed)
    net = CountingNet()
    cond = {"text": torch.randn(2, 7, 3, generator=g), "text_mask": torch.arange(7) < torch.tensor([[7], [4]])}
    uncond = {"text": torch.randn(2, 2, 3, generator=g), "text_mask": torch.ones(2, 2, dtype=torch.bool)}
    return net, Denoiser(net, Cosine(), V()), cond, uncond, torch.randn(2, 3, 4, 5, 6, generator=g)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.3])
@pytest.mark.parametrize("frames", [1, 4])
def test_equals_two_passes(scale: float, frames: int) -> None:
    net, denoiser, cond, uncond, x = setup()
    t = torch.rand(2, frames, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    guided = ClassifierFree(scale, 0.0, (0.0, 1.0))(denoiser, cond, uncond)(x, t)
    assert net.calls == [4], "both halves go through the network in one call"
    told, without = denoiser(x, t, cond), denoiser(x, t, uncond)
    for got, a, b in zip(guided, told, without, strict=True):
        torch.testing.assert_close(got, (1 - scale) * b + scale * a)


def test_interval_and_scale_one_cost_one_pass() -> None:
    for scale, level, calls in [(3.0, 0.5, [4]), (3.0, 0.9, [2]), (3.0, 0.1, [2]), (1.0, 0.5, [2])]:
        net, denoiser, cond, uncond, x = setup()
        t = torch.tensor([[0.0, level, level, level]]).expand(2, 4)
        guided = ClassifierFree(scale, 0.0, (0.2, 0.8))(denoiser, cond, uncond)(x, t)
        assert net.calls == calls
        same = torch.equal(guided.x0, denoiser(x, t, cond).x0)
        assert same == (calls == [2])


def test_no_guidance_is_the_conditioned_network() -> None:
    net, denoiser, cond, uncond, x = setup()
    t = torch.full((2, 1), 0.4)
    assert torch.equal(NoGuidance()(denoiser, cond, uncond)(x, t).eps, denoiser(x, t, cond).eps)


def test_full_rescale_restores_the_conditioned_contrast() -> None:
    _, denoiser, cond, uncond, x = setup()
    t = torch.full((2, 1), 0.6)
    told = denoiser(x, t, cond).x0
    stds = {
        rescale: ClassifierFree(6.0, rescale, (0.0, 1.0))(denoiser, cond, uncond)(x, t)
        .x0.flatten(1)
        .std(1, correction=0)
        for rescale in (0.0, 0.5, 1.0)
    }
    wanted = told.flatten(1).std(1, correction=0)
    torch.testing.assert_close(stds[1.0], wanted)
    torch.testing.assert_close(stds[0.5], (stds[0.0] + wanted) / 2)
    assert bool((stds[0.0] > 1.2 * wanted).all()), "without rescale the contrast grows, or this test shows nothing"


@pytest.mark.parametrize("prediction", [V(), X0(1e-6)])
def test_rescaled_estimate_still_explains_x(prediction: V) -> None:
    """alpha x0 + sigma eps = x and velocity = alpha' x0 + sigma' eps survive the rescale, finite at level 0 too."""
    net, _, cond, uncond, x = setup()
    path, x, cond, uncond = Linear(), x.double(), *({k: v.double() for k, v in c.items()} for c in (cond, uncond))
    t = torch.tensor([[0.0, 0.3, 0.3, 0.3]], dtype=torch.float64).expand(2, 4)
    denoiser = Denoiser(net, path, prediction)
    guided = ClassifierFree(4.0, 0.7, (0.0, 1.0))(denoiser, cond, uncond)(x, t)
    assert all(bool(part.isfinite().all()) for part in guided)
    level = path.expand(t)
    rebuilt = path.alpha(level) * guided.x0 + path.sigma(level) * guided.eps
    torch.testing.assert_close(rebuilt[:, :, 1:], x[:, :, 1:])
    torch.testing.assert_close(guided.velocity[:, :, 1:], (guided.eps - guided.x0)[:, :, 1:])


def test_given_frames_do_not_count_in_the_contrast() -> None:
    _, denoiser, cond, uncond, x = setup()
    t = torch.tensor([[0.0, 0.3, 0.3, 0.3]]).expand(2, 4)
    loud = x.clone()
    loud[:, :, 0] *= 100
    a, b = (ClassifierFree(4.0, 1.0, (0.0, 1.0))(denoiser, cond, uncond)(v, t).x0[:, :, 1:] for v in (x, loud))
    torch.testing.assert_close(a, b)


class Blocks(CountingNet):
    """A network of three additions, any of which can be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out: frozenset[int] = frozenset()

    def __call__(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return super().__call__(x, t, cond) + sum(2.0**i for i in range(3) if i not in self.left_out)

    @contextmanager
    def skipping(self, blocks: Collection[int]) -> Iterator[None]:
        self.left_out = frozenset(blocks)
        yield
        self.left_out = frozenset()


def test_skip_layer_adds_what_the_blocks_do() -> None:
    _, denoiser, cond, uncond, x = setup()
    net = Blocks()
    denoiser = replace(denoiser, net=net)
    t = torch.full((x.shape[0], 1), 0.5, dtype=x.dtype)
    base = ClassifierFree(3.0, 0.0, (0.0, 1.0))
    found = SkipLayer(base, (0, 2), 0.5, (0.0, 1.0))(denoiser, cond, uncond)(x, t)
    wanted = base(denoiser, cond, uncond)(x, t)
    whole = denoiser(x, t, cond)
    with net.skipping([0, 2]):
        without = denoiser(x, t, cond)
    for name in ("x0", "eps", "velocity"):
        expected = getattr(wanted, name) + 0.5 * (getattr(whole, name) - getattr(without, name))
        torch.testing.assert_close(getattr(found, name), expected)
    assert not torch.allclose(found.x0, wanted.x0)
    outside = SkipLayer(base, (0,), 0.5, (0.6, 1.0))(denoiser, cond, uncond)(x, t)
    assert torch.equal(outside.x0, wanted.x0)


def test_join_pads_the_shorter_text_under_the_mask() -> None:
    _, _, cond, uncond, _ = setup()
    for a, b in [(cond, uncond), (uncond, cond)]:
        both = join(a, b)
        assert both["text"].shape == (4, 7, 3) and both["text_mask"].dtype == torch.bool
        assert both["text_mask"].sum(1).tolist() == [*a["text_mask"].sum(1).tolist(), *b["text_mask"].sum(1).tolist()]
        assert torch.equal(both["text"][2:, : b["text"].shape[1]], b["text"])


@pytest.mark.parametrize("rescale, interval", [(0.0, (0.0, 1.0)), (0.7, (0.0, 0.5))])
def test_one_pass_after_the_other_is_the_same(rescale: float, interval: tuple[float, float]) -> None:
    net, denoiser, cond, uncond, x = setup()
    t = torch.tensor([[0.3, 0.3, 0.7, 0.7], [0.4, 0.4, 0.4, 0.4]])
    joined, apart = (ClassifierFree(4.0, rescale, interval, together) for together in (True, False))
    wanted = joined(denoiser, cond, uncond)(x, t)
    net.calls.clear()
    torch.testing.assert_close(apart(denoiser, cond, uncond)(x, t), wanted)
    assert net.calls == [2, 2], "and no text is padded"
    assert (
        AsTrained(None, None, None, False).change(joined) == apart
        and AsTrained(None, None, None).change(joined) == joined
    )


def test_guidance_by_level() -> None:
    """As WanPipeline's guidance_scale and guidance_scale_2: from the boundary on the first."""
    net, denoiser, cond, uncond, x = setup()
    every = (0.0, 1.0)
    high, low = ClassifierFree(4.0, 0.0, every), ClassifierFree(3.0, 0.0, every)
    guided = ByLevel(high, low, 0.9)(denoiser, cond, uncond)
    for level, chosen, other in ((0.9, high, low), (0.95, high, low), (0.89, low, high)):
        t = torch.tensor([[0.0, level, level, level]]).expand(2, 4)  # a given frame does not count
        assert torch.equal(guided(x, t).x0, chosen(denoiser, cond, uncond)(x, t).x0)
        assert not torch.equal(guided(x, t).x0, other(denoiser, cond, uncond)(x, t).x0)
    assert (
        ByLevel(high, NoGuidance(), 0.9).reads_negative and not ByLevel(NoGuidance(), NoGuidance(), 0.9).reads_negative
    )
    with pytest.raises(ValueError, match="guidance.boundary=null is where two networks meet, and this model has one"):
        ByLevel(high, low, None)(denoiser, cond, uncond)
    net.boundary = 0.5  # type: ignore[attr-defined]
    t = torch.full((2, 1), 0.6)
    assert torch.equal(ByLevel(high, low, None)(denoiser, cond, uncond)(x, t).x0, high(denoiser, cond, uncond)(x, t).x0)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"rescale=1.2 is outside \[0, 1\]; nearest: 1.0"):
        ClassifierFree(2.0, 1.2, (0.0, 1.0))
    with pytest.raises(ValueError, match="interval"):
        ClassifierFree(2.0, 0.0, (0.8, 0.2))
    with pytest.raises(ValueError, match="same keys"):
        join({"label": torch.zeros(1)}, {})
