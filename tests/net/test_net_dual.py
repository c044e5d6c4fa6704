"""Two streams, refined text, and what frames at level 0 take."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from dit.net.attention import NoQKNorm, Parts
from dit.net.coordinates import Coordinates
from dit.net.dual import Dual, JointAttention
from dit.net.embed import NoisyFramesScalar, ScalarEmbedding
from dit.net.kernels.sdpa import SDPA
from dit.net.layers import GELUMLP, LayerNorm
from dit.net.layout import Full
from dit.net.modulation import AdaLNSingle, AdaLNZero, Modulation
from dit.net.refiner import mean_of_real
from dit.net.sequence import NoiseLevels, VideoFirst
from tests.net.contexts import context_of

TINY = ["net.width=32", "net.depth=4", "net.heads=2", "net.text_width=10", "net.in_channels=3", "net.out_channels=3"]
GRID = (3, 2, 4)


def inputs(frames: int = 3, length: int = 5) -> tuple[Tensor, dict[str, Tensor]]:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cond = {"text": draw(2, length, 10), "pooled": draw(2, 768), "guidance": torch.tensor([1.5, 6.0])}
    cond["text_mask"] = torch.arange(length) < torch.tensor([[length], [3]])
    return draw(2, 3, frames, 4, 8), cond


@pytest.mark.parametrize(
    "overrides",
    [
        ["net.pattern=DPDF"],
        ["net.pattern=DT"],
        ["net/position=sincos", "net/qk_norm=none"],
        ["net/modulation=adaln_single"],
        ["net/text=refined_last_frame", "net/final=adaln_last_frame"],
        ["net/text=joint"],
    ],
    ids=" ".join,
)
def test_equal_levels_for_each_frame_are_one_level_a_sample(randomised, overrides: list[str]) -> None:
    net = randomised(*TINY, *overrides, preset="hunyuan_video_tiny", tiny=False)
    x, cond = inputs()
    t = torch.tensor([[0.3], [0.8]], dtype=torch.float64)
    out = net(x, t, cond)
    assert out.std() > 1e-2
    torch.testing.assert_close(net(x, t.repeat(1, 3), cond), out, rtol=1e-9, atol=1e-9)
    assert (net(x, torch.tensor([[0.3, 0.3, 0.5], [0.8, 0.8, 0.8]]), cond) - out).abs().amax() > 1e-4


@pytest.mark.parametrize("text", ["refined", "joint", "joint_behind"])
def test_padding_is_hidden(randomised, text: str) -> None:
    net = randomised(*TINY, f"net/text={text}", preset="hunyuan_video_tiny", tiny=False)
    x, cond = inputs()
    t = torch.tensor([[0.3], [0.8]], dtype=torch.float64)
    before = net(x, t, cond)
    padded, real = cond["text"].clone(), cond["text"].clone()
    padded[1, 3:] += 10
    real[1, 2] += 1
    torch.testing.assert_close(net(x, t, cond | {"text": padded}), before, rtol=1e-9, atol=1e-9)
    change = (net(x, t, cond | {"text": real}) - before).abs().amax(dim=(1, 2, 3, 4))
    assert change[0] == 0 and change[1] > 1e-4
    shorter = {key: value[1:, :3] if key.startswith("text") else value[1:] for key, value in cond.items()}
    torch.testing.assert_close(net(x[1:], t[1:], shorter), before[1:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", ["MeanOfFrames", "LastFrame"])
def test_refined_text_hears_the_noise_of_tokens_not_of_latent_frames(randomised, level: str) -> None:
    """With a patch of 2 in time a frame of tokens has the mean of two embeddings, for the refiner as for the blocks:
    the last one, where text takes that, is no single latent frame."""
    of_level = f"net.text.level._target_=dit.net.sequence.{level}"
    net = randomised(*TINY, "net.patch=[2,2,2]", of_level, preset="hunyuan_video_tiny", tiny=False)
    _, cond = inputs()
    t = torch.tensor([[0.0, 0.2, 0.5, 0.9], [0.1, 0.1, 0.3, 0.3]], dtype=torch.float64)
    coordinates = Coordinates.of_clip((2, 2, 2))
    heard: list[torch.Tensor] = []
    net.text.blocks[0].register_forward_hook(lambda module, given, out: heard.append(given[1]))
    text = net.text(cond, NoiseLevels(t, 2, coordinates))
    embedded = net.text.noise(t).unflatten(1, (2, 2)).mean(dim=2)  # (B, 2 frames of tokens, D)
    noise = embedded[:, -1] if level == "LastFrame" else embedded.mean(dim=1)
    wanted = torch.nn.functional.silu(noise + net.text.mean(mean_of_real(cond["text"], cond["text_mask"])))
    torch.testing.assert_close(heard[0][:, 0], wanted)
    # One level for all latent frames is that level for each.
    one = t[:, :1]
    by_frame = net.text(cond, NoiseLevels(one.expand(-1, 4), 2, coordinates))
    torch.testing.assert_close(by_frame.stream, net.text(cond, NoiseLevels(one, 2, coordinates)).stream)
    assert not torch.allclose(by_frame.stream, text.stream)


def test_a_text_without_any_real_token_is_finite(randomised) -> None:
    net = randomised(*TINY, preset="hunyuan_video_tiny", tiny=False)
    x, cond = inputs()
    cond["text_mask"] = torch.zeros(2, 5, dtype=torch.bool)
    cond["text"].requires_grad_()
    out = net(x, torch.full((2, 1), 0.5, dtype=torch.float64), cond)
    (grad,) = torch.autograd.grad(out.sum(), cond["text"])
    assert out.isfinite().all() and not grad.any()


def test_a_text_without_mask_is_all_real(randomised) -> None:
    net = randomised(*TINY, preset="hunyuan_video_tiny", tiny=False)
    x, cond = inputs()
    t = torch.full((2, 1), 0.5, dtype=torch.float64)
    every = net(x, t, cond | {"text_mask": torch.ones(2, 5, dtype=torch.bool)})
    del cond["text_mask"]
    torch.testing.assert_close(net(x, t, cond), every)


def test_a_dual_block_needs_a_text_stream(build) -> None:
    with pytest.raises(Exception, match="a dual-stream block needs a text stream") as error:
        build("net.pattern=D", "net/text=cross")
    assert isinstance(error.value.__cause__, ValueError)  # Hydra puts its own words around it


def parts(modulation: Modulation, stream_width: int) -> Parts:
    return Parts(
        width=16,
        heads=2,
        norm=partial(LayerNorm, eps=1e-6, affine=False),
        mlp=partial(GELUMLP, ratio=2.0, approximate="tanh", bias=True),
        attention=lambda parts, layout: torch.nn.Identity(),
        qk_norm=NoQKNorm,
        cross_attention=lambda parts: None,
        cross_width=16,
        stream_width=stream_width,
        modulation=modulation,
        kernel=SDPA(),
    )


ATTENTION = partial(JointAttention, qkv_bias=True, out_bias=False, text_qkv_bias=False, text_out_bias=True)


def test_streams_of_two_widths() -> None:
    modulation = AdaLNZero(16, 16)
    block = Dual(parts(modulation, 12), 0, layout=Full(), attention=ATTENTION)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.manual_seed(0))
    video, text, level = torch.randn(2, 24, 16), torch.randn(2, 5, 12), torch.randn(2, 3, 16)
    steer = partial(modulation, cond={})
    context = context_of(GRID, text=text, sequence=VideoFirst(), level=level, modulation=steer)
    video_out, text_out = block(video, text, context)
    assert video_out.shape == video.shape and text_out is not None and text_out.shape == text.shape
    # Each stream reads the other.
    other, _ = block(video, -text, context)
    assert (other - video_out).abs().max() > 1e-3
    _, other_text = block(-video, text, context)
    assert (other_text - text_out).abs().max() > 1e-3
    with pytest.raises(ValueError, match="AdaLNSingle steers width 16, not a text stream of width 12"):
        Dual(parts(AdaLNSingle(16, 16), 12), 0, layout=Full(), attention=ATTENTION)


def test_a_text_stream_may_end() -> None:
    attention = ATTENTION(parts(AdaLNZero(16, 16), 12), Full(), False)
    assert attention.text_out is None
    text = torch.randn(2, 5, 12)
    context = context_of(GRID, text=text, sequence=VideoFirst(), level=torch.randn(2, 1, 16))
    video, ended = attention(torch.randn(2, 24, 16), text, context)
    assert video.shape == (2, 24, 16) and ended is None


def test_given_frames_take_no_guidance() -> None:
    settings = {"frequencies": 8, "max_period": 100.0, "scale": 10.0, "shift": 0.0}
    torch.manual_seed(0)
    embed, plain = NoisyFramesScalar(6, **settings), ScalarEmbedding(6, **settings)
    plain.load_state_dict(embed.state_dict())
    value, t = torch.tensor([1.0, 6.0]), torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.0, 0.2]])
    vectors = embed.at(value, t)
    assert vectors.shape == (2, 3, 6)
    wanted = plain.at(value, t)  # (2, 1, 6)
    torch.testing.assert_close(vectors, torch.where((t > 0)[..., None], wanted, 0.0))
    assert wanted.abs().min() > 1e-4
