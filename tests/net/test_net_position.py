"""Positions against tables and rotations written out plainly, and on grids that they were not made for."""

import math

import pytest
import torch
from torch import Tensor

from dit.net.coordinates import Coordinates
from dit.net.position.base import NoPosition, split_pairs
from dit.net.position.coordinates import Counted
from dit.net.position.rope import RoPE3D
from dit.net.position.rotary import HalfSplit, Interleaved, Pairing
from dit.net.position.sincos import SinCos3D
from dit.net.position.tables import Learned

GRID = (3, 4, 5)
WHOLE = Coordinates.of_clip(GRID)
ONE = {"f": 1.0, "h": 1.0, "w": 1.0}
EVEN = {"f": 1, "h": 1, "w": 1}
LIKE = torch.zeros(1, dtype=torch.float64)


def rope(head_dim: int = 16, **changes: object) -> RoPE3D:
    settings: dict = {"theta": 100.0, "split": EVEN, "scale": ONE, "reference": None, "pairing": HalfSplit()}
    settings["coordinates"] = Counted()
    return RoPE3D(0, head_dim, **(settings | changes))


def sincos(width: int = 18, **changes: object) -> SinCos3D:
    return SinCos3D(width, 0, **({"theta": 100.0, "split": EVEN, "scale": ONE, "reference": None} | changes))


def rotated(position: RoPE3D, x: Tensor, grid: tuple[int, int, int] = GRID) -> Tensor:
    rotation = position.rotation(Coordinates.of_clip(grid), x, {})
    return rotation.rotate(x)


def as_complex(x: Tensor, pairing: Pairing) -> Tensor:
    """Channels (..., d) as d / 2 complex numbers."""
    half = x.shape[-1] // 2
    return (
        torch.complex(x[..., :half], x[..., half:])
        if isinstance(pairing, HalfSplit)
        else torch.complex(x[..., ::2].contiguous(), x[..., 1::2].contiguous())
    )


@pytest.mark.parametrize("pairing", [HalfSplit(), Interleaved()])
def test_rope_multiplies_by_unit_complex_numbers(pairing: Pairing) -> None:
    """f' = f exp(i m theta^(-j / pairs)) for the m-th place of an axis (arXiv 2104.09864, equation 13)."""
    position = rope(split={"f": 2, "h": 3, "w": 3}, pairing=pairing)
    x = torch.randn(2, 60, 3, 16, dtype=torch.float64)
    found = as_complex(rotated(position, x), pairing)
    places = [(f, h, w) for f in range(3) for h in range(4) for w in range(5)]
    speeds = {"f": [1, 0.1], "h": [1, 100 ** (-1 / 3), 100 ** (-2 / 3)], "w": [1, 100 ** (-1 / 3), 100 ** (-2 / 3)]}
    angles = torch.tensor(
        [[m * s for m, axis in zip(place, "fhw", strict=True) for s in speeds[axis]] for place in places],
        dtype=torch.float64,
    )
    expected = as_complex(x, pairing) * torch.polar(torch.ones_like(angles), angles)[None, :, None]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pairing", [HalfSplit(), Interleaved()])
def test_rope_scores_depend_on_distance_alone(pairing: Pairing) -> None:
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    grid = (4, 5, 6)
    every = (1, 120, 1, 16)
    scores = torch.einsum(
        "bqhd,bkhd->qk",
        rotated(rope(pairing=pairing), q.expand(every), grid),
        rotated(rope(pairing=pairing), k.expand(every), grid),
    ).view(*grid, *grid)
    torch.testing.assert_close(scores[:3, :4, :5, :3, :4, :5], scores[1:, 1:, 1:, 1:, 1:, 1:], rtol=1e-10, atol=1e-10)
    assert (scores[0, 0, 0] - scores[0, 0, 1]).abs().max() > 1e-3


def test_rope_of_a_small_grid_is_part_of_that_of_a_large_one() -> None:
    """Nothing depends on the size of the grid, so sizes never seen in training continue those that were."""
    small, large = (rope().rotation(Coordinates.of_clip(grid), LIKE, {}) for grid in ((2, 3, 4), (5, 6, 7)))
    inside = large.cos.view(5, 6, 7, 16)[:2, :3, :4].reshape(24, 16)
    torch.testing.assert_close(small.cos[0, :, 0], inside, rtol=0, atol=0)


def test_ntk_slows_the_slowest_pair_by_the_scale_and_leaves_the_fastest() -> None:
    plain, longer = (rope(24, split=EVEN, scale={"f": 1.0, "h": 1.0, "w": s}).rotation(WHOLE, LIKE, {}) for s in (1, 3))

    def angle(rotation: object, pair: int) -> float:
        return math.acos(rotation.cos.view(*GRID, 24)[0, 0, 1, 8 + pair].item())  # pairs of w: 8 to 11

    assert angle(longer, 0) == pytest.approx(angle(plain, 0))
    assert angle(longer, 3) == pytest.approx(angle(plain, 3) / 3)
    torch.testing.assert_close(longer.cos.view(*GRID, 24)[:, :, 0], plain.cos.view(*GRID, 24)[:, :, 0])


def test_a_reference_grid_scales_only_what_is_longer() -> None:
    reference = {"f": 4, "h": 2, "w": 5}
    by_reference = rope(24, reference=reference).rotation(WHOLE, LIKE, {})
    by_scale = rope(24, scale={"f": 1.0, "h": 2.0, "w": 1.0}).rotation(WHOLE, LIKE, {})
    torch.testing.assert_close(by_reference.cos, by_scale.cos, rtol=0, atol=0)
    assert not torch.allclose(by_reference.cos, rope(24).rotation(WHOLE, LIKE, {}).cos)


def test_sincos_table_and_unit_scale() -> None:
    table = sincos().add(torch.zeros(1, 60, 18, dtype=torch.float64), WHOLE)[0]
    for token, place in ((0, (0, 0, 0)), (33, (1, 2, 3)), (59, (2, 3, 4))):
        expected: list[float] = []
        for m in place:
            angles = [m / 100 ** (i / 3) for i in range(3)]
            expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        torch.testing.assert_close(table[token], torch.tensor(expected, dtype=torch.float64))
    assert table.square().mean() == pytest.approx(0.5)


def test_sincos_squeezes_what_is_longer_than_the_reference() -> None:
    zeros = torch.zeros(1, 8, 18, dtype=torch.float64)
    wide = sincos(reference={"f": 1, "h": 1, "w": 4}).add(zeros, Coordinates.of_clip((1, 1, 8)))[0]
    narrow = sincos(scale={"f": 1.0, "h": 1.0, "w": 0.5}).add(zeros[:, :4], Coordinates.of_clip((1, 1, 4)))[0]
    plain = sincos().add(zeros[:, :4], Coordinates.of_clip((1, 1, 4)))[0]
    torch.testing.assert_close(wide[::2], plain)
    torch.testing.assert_close(narrow[1], wide[4])


def test_learned_table_is_exact_on_its_grid_and_interpolated_on_others() -> None:
    position = Learned(6, 0, grid=list(GRID), std=1.0).double()
    on_grid = position.add(torch.zeros(1, 60, 6, dtype=torch.float64), WHOLE)[0]
    torch.testing.assert_close(on_grid, position.table[0].permute(1, 2, 3, 0).reshape(60, 6), rtol=0, atol=0)
    assert position.table.std().item() == pytest.approx(1.0, abs=0.2)
    ramp = torch.linspace(0, 1, 3, dtype=torch.float64).view(1, 1, 3, 1, 1).expand(1, 6, *GRID)
    position.table.data.copy_(ramp)
    longer = position.add(torch.zeros(1, 120, 6, dtype=torch.float64), Coordinates.of_clip((6, 4, 5)))[0].view(6, 20, 6)
    assert (longer.diff(dim=0) >= 0).all() and longer.min() == 0 and longer.max() == 1
    assert longer.std(dim=1).max() < 1e-12


def test_no_position_leaves_tokens_alone() -> None:
    x = torch.randn(1, 60, 6)
    assert NoPosition(6, 2).add(x, WHOLE) is x and NoPosition(6, 2).rotation(WHOLE, x, {}) is None


@pytest.mark.parametrize(
    "pairs, split, expected",
    [
        (64, {"f": 1, "h": 1, "w": 1}, {"f": 22, "h": 21, "w": 21}),  # Wan: h = w = 2 * (128 // 6) channels
        (64, {"f": 16, "h": 56, "w": 56}, {"f": 8, "h": 28, "w": 28}),  # HunyuanVideo
        (192, {"w": 1, "h": 1}, {"w": 96, "h": 96}),  # DiT
        (10, {"f": 0.3, "h": 0.3, "w": 0.4}, {"f": 3, "h": 3, "w": 4}),
    ],
)
def test_split_of_pairs(pairs: int, split: dict, expected: dict) -> None:
    found = split_pairs(pairs, split, "RoPE")
    assert found == expected and list(found) == list(expected)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: rope(7), "even head size, not 7; nearest: 6, 8"),
        (lambda: rope(4), "head size 4 has 2 pairs.*nearest size: 6"),
        (lambda: rope(16, split={"f": 1, "x": 1}), "positive shares to axes among f, h, w"),
        (lambda: rope(16, split={"f": 1, "h": 0}), "positive shares"),
        (lambda: sincos(9), "even width, not 9; nearest: 8, 10"),
        (lambda: sincos(4), "width 4 has 2 pairs.*nearest size: 6"),
    ],
)
def test_sizes_that_do_not_fit_are_errors(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
