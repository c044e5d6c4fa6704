"""Text and video in one sequence with modulations of their own, and rotary coordinates that are fitted or divided."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit.net.coordinates import Coordinates
from dit.net.position.coordinates import Counted, Divided, Fitted
from dit.net.position.rope import RoPE3D
from dit.net.position.rotary import HalfSplit, HalfSplitParts
from dit.net.sequence import LastFrame, MeanOfFrames
from tests.net.conftest import Build

SIZES = ["net.in_channels=4", "net.out_channels=4", "net.text_width=10"]
THIRDS = {"f": 1.0, "h": 1.0, "w": 1.0}


def inputs(frames: int = 4) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    x = torch.randn(2, 4, frames, 4, 6, dtype=torch.float64)
    return x, {"text": torch.randn(2, 5, 10, dtype=torch.float64)}


def test_equal_levels_of_the_frames_are_one_level(randomised: Build) -> None:
    net = randomised(*SIZES, preset="cogvideox_tiny", tiny=False)
    x, cond = inputs()
    t = torch.tensor([[0.3], [0.8]], dtype=torch.float64)
    assert torch.allclose(net(x, t.expand(2, 4), cond), net(x, t, cond), atol=1e-10)


def test_each_frame_has_its_level_and_text_the_mean(randomised: Build) -> None:
    """A level of one frame reaches the others through attention alone: without it, their outputs stay."""
    net = randomised(*SIZES, preset="cogvideox_tiny", tiny=False)
    for block in net.blocks:
        block.attention.out.weight.data.zero_()
    x, cond = inputs()
    t = torch.full((2, 4), 0.4, dtype=torch.float64)
    other = t.clone()
    other[:, 2] = 0.9
    change = (net(x, other, cond) - net(x, t, cond)).abs().amax(dim=(0, 1, 3, 4))
    assert change[2] > 1e-3 and change[[0, 1, 3]].max() < 1e-12


def test_text_modulation_is_for_text_alone(randomised: Build) -> None:
    """Without attention nothing of it reaches the video; with attention it does."""
    net = randomised(*SIZES, preset="cogvideox_tiny", tiny=False)
    x, cond = inputs()
    t = torch.tensor([[0.3], [0.8]], dtype=torch.float64)

    def change() -> float:
        before = net(x, t, cond)
        kept = net.blocks[0].text_modulation.linear.weight.data.clone()
        net.blocks[0].text_modulation.linear.weight.data += 1.0
        after = net(x, t, cond)
        net.blocks[0].text_modulation.linear.weight.data = kept
        return (after - before).abs().max().item()

    assert change() > 1e-3
    for block in net.blocks:
        block.attention.out.weight.data.zero_()
    assert change() == 0.0


def test_padding_is_read_like_text(randomised: Build) -> None:
    net = randomised(*SIZES, preset="cogvideox_tiny", tiny=False)
    x, cond = inputs()
    t = torch.tensor([[0.3], [0.8]], dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    assert torch.equal(net(x, t, {**cond, "text_mask": mask}), net(x, t, cond))


def test_blocks_without_text_tokens_are_refused(build: Build) -> None:
    net = build(*SIZES, "net/text=cross", preset="cogvideox_tiny", tiny=False)
    x, cond = inputs()
    with pytest.raises(ValueError, match="blocks J need text tokens in the sequence"):
        net(x, torch.zeros(2, 1, dtype=torch.float64), cond)


@pytest.mark.parametrize(
    "preset, change",
    [
        ("cogvideox_tiny", ["net/position=sincos"]),
        ("cogvideox_tiny", ["net/modulation=adaln_single", "net.level_width=96"]),
        ("cogvideox_tiny", ["net/qk_norm=none", "net/norm=rmsnorm", "net/mlp=swiglu"]),
        ("cogvideox_tiny", ["net.pattern=FJ", "net/text=joint"]),
        ("cogvideox_tiny", ["net.pattern=ST", "net/text=cross"]),
        ("cogvideox_2b", ["net.width=96", "net.heads=3", "net.depth=2", "net/text=joint", "net/position=none"]),
        ("allegro_tiny", ["net/position=sincos"]),
        ("allegro_tiny", ["net/modulation=adaln_zero", "net/qk_norm=rms", "net.pattern=ST"]),
    ],
)
def test_parts_can_be_exchanged(build: Build, preset: str, change: list[str]) -> None:
    """A published model with one part changed runs, with a level for each frame."""
    net = build(*SIZES, *change, preset=preset, tiny=False)
    x, cond = inputs()
    out = net(x, torch.rand(2, 4, dtype=torch.float64), cond)
    assert out.shape == x.shape and out.isfinite().all()


def flat(axes: list[torch.Tensor]) -> list[torch.Tensor]:
    """Axes of a grid as plain rows of numbers."""
    return [numbers.flatten() for numbers in axes]


def test_fitted_coordinates() -> None:
    """The training's own picture has whole numbers; a wider one starts lower and is squeezed, as by the reference."""
    fitted = Fitted([4, 6])
    frames, rows, columns = flat(fitted(Coordinates.of_clip((3, 4, 6)), torch.zeros(1, dtype=torch.float64), {}))
    assert frames.tolist() == [0, 1, 2] and rows.tolist() == [0, 1, 2, 3] and columns.tolist() == [0, 1, 2, 3, 4, 5]
    _, rows, columns = flat(fitted(Coordinates.of_clip((3, 2, 6)), torch.zeros(1, dtype=torch.float64), {}))
    assert rows.tolist() == [1, 1.5] and columns.tolist() == [0, 1, 2, 3, 4, 5]


def test_divided_coordinates_rotate_slower() -> None:
    grid, like = (2, 3, 5), torch.zeros(1, dtype=torch.float64)
    divided, plain = (
        RoPE3D(
            0, 12, theta=100.0, split=THIRDS, scale=THIRDS, reference=None, pairing=HalfSplitParts(3), coordinates=own
        ).rotation(Coordinates.of_clip(grid), like, {})
        for own in (Divided({"f": 1.0, "h": 1.0, "w": 2.0}), Counted())
    )
    assert torch.equal(divided.cos[..., :8], plain.cos[..., :8])
    every_other = divided.cos.unflatten(1, grid)[:, :, :, ::2]
    assert torch.allclose(every_other[..., 8:], plain.cos.unflatten(1, grid)[:, :, :, :3, :, 8:])


def test_halves_of_one_part_are_the_halves() -> None:
    angles, x = torch.randn(3, 6, dtype=torch.float64), torch.randn(2, 12, dtype=torch.float64)
    for mine, other in zip(HalfSplitParts(1).tables(angles), HalfSplit().tables(angles), strict=True):
        assert torch.equal(mine, other)
    assert torch.equal(HalfSplitParts(1).partner(x), HalfSplit().partner(x))
    assert HalfSplitParts(3).partner(torch.arange(12.0)).tolist() == [2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9]


def test_text_takes_the_mean_level_of_the_frames() -> None:
    """Each frame moves the text's level alike; with a level for all it is that."""
    level = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.manual_seed(0))
    torch.testing.assert_close(MeanOfFrames()(level)[:, 0], sum(level.unbind(1)) / 5)
    assert torch.equal(LastFrame()(level)[:, 0], level[:, 4])
