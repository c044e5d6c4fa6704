"""Frames that a network is shown beside the clip: what it is told, what is noised, and the same in the sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit.diffusion.conditioning import (
    Conditioning,
    FirstAndLastFrame,
    FirstFrame,
    NoFrame,
    Pattern,
    RandomPrefix,
    RandomTasks,
)
from dit.diffusion.footage import Footage, Unknown, folded
from dit.diffusion.given import HELD, Beside, Held, Showing
from dit.diffusion.levels import Uniform
from dit.diffusion.loss import Objective
from dit.diffusion.path import Linear
from dit.diffusion.prediction import Flow
from dit.diffusion.space import Output
from dit.diffusion.weighting import Uniform as EqualWeight
from dit.engine.fitting import check_given
from dit.engine.validated import validated
from dit.recipes.distribution_matching import DistributionMatching
from dit.sampling.pipeline import Pipeline
from dit.sampling.tasks import Extend, FirstLast, ImageToVideo, Inpaint, Task
from tests.sampling.fakes import FAKES, FakeCodec, checkpoint

FRAMES, SIZE = 9, (8, 10)  # of pixels, which a codec of stride 4 makes 3 of
GREY_LATENT = 0.25


class Codec(FakeCodec):
    """Latents of grey are not 0."""

    def encode(self, pixels: Tensor) -> Tensor:
        return super().encode(pixels) + GREY_LATENT

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents - GREY_LATENT)


CODEC = Codec([4, 2, 2], causal=True)
CHANNELS = {"given_frames": 4, "given_latents": 3}
GREY = {"_target_": "dit.diffusion.given.Beside", "unknown": "grey"}


class Spy(nn.Module):
    """Ignores what it is told, and remembers it."""

    concat_channels = CHANNELS
    in_channels = 3

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        return frames

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.asked = (x, t, cond)
        return torch.tanh(x)


def always(pattern: Pattern, context_noise: float = 0.0) -> RandomTasks:
    return RandomTasks({"only": pattern}, {"only": 1.0}, context_noise)


def objective(given: Showing, conditioning: Conditioning) -> Objective:
    return Objective(Linear(), Flow(), Uniform(), EqualWeight(), conditioning, Output(), given)


def pixels(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, FRAMES, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def told(given: Showing, pattern: Pattern, clips: Tensor) -> tuple[Spy, Any]:
    """A network that has seen clips in training, and the loss."""
    net = Spy()
    loss = objective(given, always(pattern))(
        net, CODEC.encode(clips), {}, torch.Generator().manual_seed(0), Footage(clips, CODEC.encode, CODEC.compression)
    )
    return net, loss


def mask(*latents: tuple[int, ...]) -> Tensor:
    """Which of the four pixel frames of each of the three latent frames are known, (4, 3, 1, 1)."""
    return torch.tensor(latents, dtype=torch.float32).T[..., None, None]


NONE, ALL, LAST = (0,) * 4, (1,) * 4, (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("pattern", "at", "known"),
    [
        (FirstFrame(), [0], mask(ALL, NONE, NONE)),
        (FirstAndLastFrame(), [0, FRAMES - 1], mask(ALL, NONE, LAST)),
        (NoFrame(), [], mask(NONE, NONE, NONE)),
    ],
    ids=["first", "first and last", "none"],
)
def test_wan_is_shown_grey_frames_and_the_mask_of_pixel_frames(pattern: Pattern, at: list[int], known: Tensor) -> None:
    clips = pixels()
    grey = torch.zeros_like(clips)
    grey[:, :, at] = clips[:, :, at]
    (_, t, cond), loss = (lambda made: (made[0].asked, made[1]))(told(Beside("grey"), pattern, clips))
    assert torch.equal(cond["given_latents"], CODEC.encode(grey))
    assert torch.equal(cond["given_frames"], known.expand(2, 4, 3, 4, 5))
    assert torch.equal(cond["given"], known.amax(0, keepdim=True).expand(2, 1, 3, 4, 5))
    assert t.shape == (2, 1) and not loss.given.any()


def test_all_frames_are_noised_and_in_the_loss() -> None:
    clips = pixels()
    beside, loss = told(Beside("grey"), FirstFrame(), clips)
    without, plain = told(Beside("grey"), NoFrame(), clips)
    assert torch.equal(beside.asked[0], without.asked[0]) and torch.equal(beside.asked[1], without.asked[1])
    assert torch.equal(loss.per_frame, plain.per_frame) and bool((loss.per_frame > 0).all())
    held, loss = told(Held("left_out"), FirstFrame(), clips)
    assert torch.equal(held.asked[0][:, :, 0], CODEC.encode(clips)[:, :, 0]) and bool((loss.per_frame[:, 0] == 0).all())


@pytest.mark.parametrize("unknown", ["nearest", "left_out"])
def test_elsewhere_zeros_are_shown(unknown: Unknown) -> None:
    clips = pixels()
    cond = told(Beside(unknown), FirstFrame(), clips)[0].asked[2]
    assert torch.equal(cond["given_latents"][:, :, :1], CODEC.encode(clips[:, :, :1]))
    assert not cond["given_latents"][:, :, 1:].any()
    cond = told(Beside(unknown), NoFrame(), clips)[0].asked[2]
    assert not cond["given_latents"].any() and not cond["given_frames"].any()


def test_a_latent_frame_shows_no_more_than_its_known_pixel_frames() -> None:
    clips = pixels()
    other = clips.clone()
    other[:, :, 1:-1] = 0.5
    seen = [told(Beside("nearest"), FirstAndLastFrame(), each)[0].asked[2]["given_latents"] for each in (clips, other)]
    assert torch.equal(*seen) and bool((seen[0][:, :, 2] != 0).all())


def test_prefixes_that_are_encoded_alone_are_whole_latent_frames() -> None:
    clips = pixels(32)
    cond = told(Beside("left_out"), RandomPrefix(), clips)[0].asked[2]
    known = cond["given_frames"][:, :, :, 0, 0]
    assert {tuple(row) for row in known.sum(1).long().tolist()} == {(4, 0, 0), (4, 4, 0)}
    whole = CODEC.encode(clips)
    assert torch.allclose(cond["given_latents"], torch.where(known.amax(1)[:, None, :, None, None] > 0, whole, 0))


def test_folded_as_wan_folds() -> None:
    """Its pipeline: the first frame's mask four times in front of the others, four at a time."""
    known = torch.rand(2, FRAMES, generator=torch.Generator().manual_seed(2)) < 0.5
    theirs = torch.cat([known[:, :1].repeat_interleave(4, 1), known[:, 1:]], 1).view(2, -1, 4).transpose(1, 2)
    assert torch.equal(folded(known, CODEC.compression)[..., 0, 0], theirs)


@pytest.fixture
def made(tmp_path: Path) -> Pipeline:
    return pipeline(tmp_path, [4, 2, 2])


def pipeline(run: Path, stride: list[int]) -> Pipeline:
    """Of a network that is shown frames as Wan is."""
    folder = checkpoint(
        run, given=GREY, codec={"_target_": "tests.diffusion.test_beside.Codec", "stride": stride, "causal": True},
        data={"num_frames": FRAMES, "height": SIZE[0], "width": SIZE[1], "fps": 8},
    )  # fmt: skip
    made = Pipeline.from_checkpoint(folder, device="cpu", trusted=FAKES)
    net: Any = made.net
    net.concat_channels = CHANNELS
    return made


@pytest.mark.parametrize("ends", [1, 2])
def test_the_sampler_shows_what_training_shows(made: Pipeline, ends: int) -> None:
    clips = pixels(1)
    task: Task = ImageToVideo(clips[0, :, 0]) if ends == 1 else FirstLast(clips[0, :, 0], clips[0, :, -1])
    wanted = told(Beside("grey"), FirstFrame() if ends == 1 else FirstAndLastFrame(), clips)[0].asked[2]
    noise = torch.randn(2, 3, 3, 4, 5)
    latents = made(["x", "y"], [0, 1], task, noise=noise).latents
    net: Any = made.net
    assert len(net.asked) == 4, "one call a step, both halves of guidance in it"
    for x, t, cond in net.asked:
        assert t.shape[1] == 1
        for name in ("given", *CHANNELS):
            assert torch.allclose(cond[name], wanted[name].expand(len(x), -1, -1, -1, -1)), name
    assert torch.equal(net.asked[0][0], torch.cat([noise, noise])), "every frame begins as noise"
    assert (latents[:, :, 0] - CODEC.encode(clips)[:, :, 0]).abs().min() > 0, "nothing is put back"


def test_pictures_are_encoded_one_at_a_time(made: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """As samples are decoded: a codec wants more memory than the network."""
    codec: Any = made.codec
    encode, sizes = codec.encode, []
    monkeypatch.setattr(codec, "encode", lambda pixels: sizes.append(len(pixels)) or encode(pixels))
    clips = pixels(2)
    made(["x", "y"], [0, 1], ImageToVideo(clips[:, :, 0]))
    assert sizes == [1, 1]


def test_without_a_frame_the_sampler_shows_a_grey_clip(made: Pipeline) -> None:
    made("x", 0)
    net: Any = made.net
    wanted = told(Beside("grey"), NoFrame(), pixels(1))[0].asked[2]
    for name in CHANNELS:
        assert torch.equal(net.asked[0][2][name][:1], wanted[name])


def test_chained_clips_are_shown_the_end_of_the_one_before(made: Pipeline) -> None:
    samples = made("x", 0, Extend(pixels(1)[0], num_context=5, times=2))
    net: Any = made.net
    first = torch.zeros(1, 3, FRAMES, *SIZE)
    first[:, :, :5] = samples.pixels[:, :, 4:9]  # the end of the first clip
    assert torch.allclose(net.asked[-1][2]["given_latents"][:1], CODEC.encode(first), atol=1e-6)
    assert samples.pixels.shape[2] == 2 * FRAMES - 5


def test_chained_clips_of_a_codec_that_packs_no_frames(tmp_path: Path) -> None:
    """Latent frames could be handed on as they are, but the grey ones beside them could not."""
    made = pipeline(tmp_path, [1, 2, 2])
    made("x", 0, Extend(pixels(1)[0], num_context=5, times=2))
    net: Any = made.net
    assert torch.allclose(net.asked[-1][2]["given_latents"][:, :, 5:], torch.tensor(GREY_LATENT))


def test_every_frame_is_made(made: Pipeline) -> None:
    """Where each frame has a noise level of its own, given ones too take their turn."""
    for canvas, stands in ((made.canvas(), False), (replace(made.canvas(), given=HELD), True)):
        plan = ImageToVideo(pixels(1)[0, :, 0])(canvas)
        assert plan.known(canvas)[0].tolist() == [stands, False, False]


def test_a_checkpoint_of_before_holds_given_frames(tmp_path: Path) -> None:
    assert Pipeline.from_checkpoint(checkpoint(tmp_path), device="cpu", trusted=FAKES).given == HELD


def test_what_cannot_be_shown_beside(made: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    clips = pixels(1)
    for task, match in (
        (Inpaint(clips[0], torch.zeros(SIZE, dtype=torch.bool)), "task=inpaint needs one in whose clips"),
        (Extend(clips[0], num_context=5, times=2, carry_latents=True), "carry_latents=false"),
    ):
        with pytest.raises(ValueError, match=match):
            made("x", 0, task)
    made("x", 0, ImageToVideo(clips[0, :, 0]), context_level=0.1, num_steps=1)
    assert "context_level=0.1 has no effect" in caplog.text
    alone = made.changed()
    alone.given = Beside("left_out")
    with pytest.raises(ValueError, match="frames 0, 8 of 9 are given, and this model encodes given frames alone"):
        alone("x", 0, FirstLast(clips[0, :, 0], clips[0, :, -1]))
    for given, conditioning, match in (
        (Beside("grey"), always(FirstFrame(), 0.1), "conditioning.context_noise=0.1 is the noise level of frames"),
        (Beside("left_out"), always(FirstAndLastFrame()), "draws some behind unknown ones"),
    ):
        with pytest.raises(ValueError, match=match):
            objective(given, conditioning)
    whole = objective(Beside("grey"), always(FirstFrame()))
    with pytest.raises(ValueError, match="recipe=distribution_matching gives no frames"):
        DistributionMatching(whole, critic_optim=torch.optim.SGD, student_every=1, teacher_guidance=1.0)
    net: Any = Spy()
    check_given(net, whole)
    net.concat_channels = {}
    with pytest.raises(ValueError, match=r"this network has none for them: \+net.concat_channels.given_latents=3"):
        check_given(net, whole)


def test_validation_shows_a_clip_what_its_id_draws() -> None:
    """Alone or with others; and the errors that compare runs are asked with the same frames shown."""
    clips, net = pixels(3), Spy()
    whole = objective(Beside("grey"), RandomTasks({"a": FirstFrame(), "b": NoFrame()}, {"a": 1.0, "b": 1.0}, 0.0))
    footage, ids = [Footage(clip, CODEC.encode, CODEC.compression) for clip in clips.split(1)], ["a", "b", "e"]
    arguments: Any = (net, whole, CODEC.encode(clips).split(1), [{}] * 3, ids, [0.3, 0.7])
    together = validated(*arguments, 6, footage)
    known = net.asked[2]["given"][:, 0, 0, 0, 0]
    assert known.tolist() == [known[0], known[0], known[2], known[2], known[4], known[4]] and 0 < known.sum() < 6
    alone = validated(*arguments, 1, footage)
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a.loss.per_frame, b.loss.per_frame) and a.errors is not None and b.errors is not None
        assert torch.allclose(a.errors, b.errors)
