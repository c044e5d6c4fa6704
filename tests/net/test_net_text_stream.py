"""Text that is a stream of its own: blocks that work on it alone, and tokens of several kinds in it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit.net.backbone import Backbone
from tests.net.conftest import Build
from tests.net.test_net_coordinates import DOUBLE, apart, draw, levels, together, with_gradients

SIZES = ["net.width=32", "net.level_width=32", "net.heads=2", "net.in_channels=3", "net.out_channels=3",
         "net.concat_channels.given=null", "net.concat_channels.given_latents=null", "net.text_width=10"]  # fmt: skip
Clip = tuple[Tensor, dict[str, Tensor]]


def reader(randomised: Build) -> Backbone:
    """Two blocks of the text alone, and two of the video that read it."""
    return randomised(*SIZES, "net.depth=4", "net.pattern=XXRR", preset="kandinsky5_tiny", tiny=False)


def mixed(randomised: Build) -> Backbone:
    """Two streams, with tokens of glyphs and of an image in the text's."""
    return randomised(*SIZES, "net.depth=2", preset="hunyuan_video15_tiny", tiny=False)


def clips() -> list[Clip]:
    """Three clips of other sizes, with texts of other lengths."""
    found = []
    for i, (frames, length) in enumerate(((3, 5), (1, 2), (2, 4))):
        randn = draw(i)
        cond = {"text": randn(1, 5, 10), "text_mask": (torch.arange(5) < length)[None], "pooled": randn(1, 768)}
        cond |= {"glyphs": randn(1, 4, 64), "glyphs_mask": (torch.arange(4) < 3 - i)[None], "image": randn(1, 2, 48)}
        found.append((randn(1, 3, frames, 4, 2 + 2 * i), cond | {"rope_scale": 1 / (1 + randn(1, 3).abs())}))
    return found


@pytest.mark.parametrize("per_frame", [False, True], ids=["one level", "levels of frames"])
@pytest.mark.parametrize("make", [reader, mixed])
def test_packed_clips_are_separate_clips(make: object, per_frame: bool, randomised: Build) -> None:
    net, given = make(randomised), clips()  # type: ignore[operator]
    t = levels(per_frame)[:, :3]
    torch.testing.assert_close(
        with_gradients(net, together(net, given, t)), with_gradients(net, apart(net, given, t)), rtol=1e-8, atol=1e-8
    )


def test_the_video_reads_what_the_text_blocks_wrote(randomised: Build) -> None:
    net, (x, cond), t = reader(randomised), clips()[0], levels(False)[:1]
    with torch.no_grad():
        right = net(x, t, cond)
        with net.skipping([1]):
            assert not torch.allclose(net(x, t, cond), right)


def test_glyphs_and_image_may_be_absent(randomised: Build) -> None:
    """Without them the text alone is read, and padding is not."""
    net, (x, cond), t = mixed(randomised), clips()[1], levels(False)[:1]
    alone = {key: cond[key] for key in ("text", "text_mask")}
    short = {"text": cond["text"][:, :2]}
    with torch.no_grad():
        torch.testing.assert_close(net(x, t, alone), net(x, t, short), rtol=1e-10, atol=1e-10)
        for key in ("glyphs", "image"):
            assert not torch.allclose(net(x, t, alone | {key: cond[key]}), net(x, t, alone))
        hidden = alone | {"glyphs": cond["glyphs"], "glyphs_mask": torch.zeros(1, 4, dtype=torch.bool)}
        torch.testing.assert_close(net(x, t, hidden), net(x, t, alone), rtol=1e-10, atol=1e-10)


def test_the_scale_of_positions(randomised: Build) -> None:
    net, (x, cond), t = reader(randomised), clips()[0], levels(False)[:1]
    plain = {key: value for key, value in cond.items() if key != "rope_scale"}
    ones = {**plain, "rope_scale": torch.ones(1, 3, dtype=DOUBLE)}
    with torch.no_grad():
        torch.testing.assert_close(net(x, t, plain), net(x, t, ones), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(net(x, t, plain), net(x, t, cond))
    with pytest.raises(ValueError, match=r"cond\['rope_scale'\] has shape \(1, 2\); it must be \(batch, 3\)"):
        net(x, t, {**plain, "rope_scale": torch.ones(1, 2)})


def test_a_text_that_is_no_stream_is_refused(randomised: Build) -> None:
    cross = "{_target_: dit.net.text.NoText, _partial_: true}"
    with pytest.raises(Exception, match="NoText makes no stream of width 32: choose text.text=refined"):
        randomised(*SIZES, "~net.text.text", f"+net.text.text={cross}", preset="hunyuan_video15_tiny", tiny=False)


def test_glyphs_of_another_width_are_refused(randomised: Build) -> None:
    net, (x, cond), t = mixed(randomised), clips()[0], levels(False)[:1]
    with pytest.raises(ValueError, match=r"cond\['glyphs'\] is 63 wide; this network reads 64"):
        net(x, t, {**cond, "glyphs": cond["glyphs"][..., 1:]})
