"""Masks, depth and flow of clips against the clips themselves."""

import numpy as np
import pytest
from numpy.typing import NDArray
from world_settings import PRESETS, preset

from data.worlds.world import World


def bilinear(frame: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(h, w, 3)` at places in pixels, whose middles are at a half."""
    high, wide = frame.shape[:2]
    x, y = np.clip(x - 0.5, 0, wide - 1.001), np.clip(y - 0.5, 0, high - 1.001)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    u, v = (x - left)[..., None], (y - top)[..., None]
    upper = frame[top, left] * (1 - u) + frame[top, left + 1] * u
    lower = frame[top + 1, left] * (1 - u) + frame[top + 1, left + 1] * u
    return upper * (1 - v) + lower * v


def warp_errors(world: World, index: int, shift: float = 0.0) -> tuple[float, float]:
    """Mean difference, in levels, of a frame and the next one warped back by the flow, and of the two unwarped; of
    pixels that stay in sight. shift: a wrong number of pixels added to the flow."""
    clip = world.clip(index)
    truth, frames = world.truth(clip.state), clip.pixels.astype(np.float64)
    y, x = np.mgrid[: world.height, : world.width] + 0.5
    warped, still = [], []
    for frame in range(world.num_frames - 1):
        back = bilinear(frames[frame + 1], x + truth.flow[frame, 0] + shift, y + truth.flow[frame, 1])
        away = np.abs(back - frames[frame]).mean(-1)
        seen = ~truth.occluded[frame]
        warped.append(away[seen].mean())
        still.append(np.abs(frames[frame + 1] - frames[frame]).mean(-1)[seen].mean())
    return float(np.mean(warped)), float(np.mean(still))


# Patterns everywhere, at twice the usual size: what is left is interpolation at the edges of stripes and outlines.
FLOW = {
    "num_frames": 8,
    "longer_frames": 16,
    "height": 96,
    "width": 144,
    "textures": ["checked", "dotted", "striped"],
    "backgrounds": {"checked": 1.0, "tiled": 1.0},
}


@pytest.mark.parametrize("camera", ["plain", "left", "down", "in", "out"])
def test_flow_warps_each_frame_into_the_one_before(camera: str) -> None:
    world = preset("camera", **FLOW, cameras={camera: 1.0})
    warped, still = np.mean([warp_errors(world, index) for index in range(2)], axis=0)
    assert warped < 1.0 and warped < 0.3 * still
    assert warp_errors(world, 0, shift=1.0)[0] > 2.0 * warped


def test_flow_is_what_objects_and_camera_do() -> None:
    world = preset("camera", cameras={"left": 1.0}, motions={"straight": 1.0}, num_objects={1: 1.0})
    clip = world.clip(3)
    truth, state = world.truth(clip.state), clip.state
    step = np.diff(state.seen[:, 0], axis=0) * world.height
    for frame in range(world.num_frames - 1):
        here = truth.depth[frame] == 1
        np.testing.assert_allclose(truth.flow[frame, :, here], np.broadcast_to(step[frame], (here.sum(), 2)), atol=1e-4)
        ground = truth.flow[frame, :, truth.depth[frame] == 0]
        assert (ground[:, 0] > 0.5).all() and np.abs(ground[:, 1]).max() < 1e-4  # the room goes right


def test_what_will_be_hidden_is_said() -> None:
    world = preset("occlusion", num_objects={1: 1.0}, directions=["right"])
    clip = world.clip(0)
    truth = world.truth(clip.state)
    assert truth.layers == ("background", "object 0", "wall")
    share = [truth.occluded[frame][truth.depth[frame] == 1] for frame in range(15)]
    assert not share[0].any() and max(each.mean() for each in share if len(each)) == 1.0
    assert not truth.occluded[0][truth.depth[0] == 2].any()  # nothing comes before the wall


@pytest.mark.parametrize("name", PRESETS)
def test_masks_sum_to_one_and_are_what_is_painted(name: str) -> None:
    world = preset(name)
    for index in range(4):
        clip = world.clip(index)
        truth, state = world.truth(clip.state), clip.state
        masks = truth.masks
        assert masks.shape == (16, len(truth.layers), 64, 64) and masks.min() >= 0.0
        np.testing.assert_allclose(masks.sum(1), 1.0, atol=1e-12)
        assert truth.objects().shape[1] == len(state.radii)
        # The share that is seen of an object, of all that it covers.
        whole = np.pi * (state.seen_radii * 64) ** 2
        np.testing.assert_allclose(truth.objects().sum((2, 3)), state.visibility * whole, rtol=0.06, atol=1.0)
        # The layer in front in the middle of a pixel fills it, wherever a pixel has one layer.
        filled = masks.max(1) > 0.999
        assert (truth.depth[filled] == masks.argmax(1)[filled]).all()
        # Where no object is, the plate is seen.
        bare = masks[:, [layer in ("background", "slab") for layer in truth.layers]].sum(1) > 1.0 - 1e-9
        assert (clip.pixels[bare] == world.plate(state)[bare]).all()


@pytest.mark.parametrize("name", PRESETS)
def test_masks_rebuild_the_picture(name: str) -> None:
    """Plain surfaces: each layer's colour times its mask is the frame."""
    plain = {"textures": ["plain"], "backgrounds": {"plain": 1.0}, "cameras": {"plain": 1.0}}
    world = preset(name, **plain)
    clip = world.clip(1)
    truth = world.truth(clip.state)
    colours = list(world.colours.values())
    walls = iter([slab.colour for slab in clip.state.slabs if slab.front])
    slabs = iter([slab.colour for slab in clip.state.slabs if not slab.front])
    objects = iter([colours[number] for number in clip.state.colours])
    kinds = {"background": iter([world.background]), "slab": slabs, "object": objects, "wall": walls}
    inks = np.array([next(kinds[layer.split()[0]]) for layer in truth.layers], np.float64)
    rebuilt = np.einsum("flhw,lc->fhwc", truth.masks, inks)
    assert np.abs(rebuilt - clip.pixels).max() < 2.0  # each layer is rounded as it is painted


def test_painting_a_changed_state_shows_the_change_and_no_more() -> None:
    world = preset("full", num_objects={2: 1.0})
    for index in range(6):
        clip = world.clip(index)
        assert (world.paint(clip.state) == clip.pixels).all()
        present = np.ones(clip.state.visibility.shape, np.bool_)
        present[8:, 0] = False
        gone = world.paint(clip.state, present)
        assert (gone[:8] == clip.pixels[:8]).all()
        mask = world.truth(clip.state).objects()[8:, 0]
        assert ((gone[8:] != clip.pixels[8:]).any(-1) <= (mask > 0.0)).all()
        if (mask > 0.5).any():
            assert (gone[8:] != clip.pixels[8:]).any()
