"""Pictures against an independent rasteriser that counts sample points inside the outline."""

import numpy as np
import pytest
from numpy.typing import NDArray

from data.worlds.camera import view
from data.worlds.outline import SHAPES, Floats, quantise
from data.worlds.render import ground, picture, surface
from data.worlds.scenery import Colour

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def render(
    places: Floats,
    radii: list[float],
    shapes: list[str],
    colours: list[Colour],
    behind: Colour,
    height: int,
    width: int,
) -> tuple[NDArray[np.uint8], Floats]:
    """Plain objects on one colour, seen by a camera that stands still."""
    surfaces = [surface(colour, "plain") for colour in colours]
    still = view("plain", width / height, len(places), 1.0)
    return picture(places, radii, shapes, surfaces, [], ground(behind, "plain"), still, height, width)


def inside(corners: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Winding number of an outline around points, from the angles under which its edges are seen."""
    angle = np.zeros(x.shape)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        ux, uy, vx, vy = ax - x, ay - y, bx - x, by - y
        angle += np.arctan2(ux * vy - uy * vx, ux * vx + uy * vy)
    return np.abs(angle) > np.pi


def counted(name: str, centre: tuple[float, float], radius: float, size: int) -> NDArray[np.float64]:
    fine = (np.arange(size * 8) + 0.5) / 8
    x, y = np.meshgrid(fine, fine)
    corners = np.array(SHAPES[name].vertices) * radius + centre
    return inside(corners, x, y).reshape(size, 8, size, 8).mean((1, 3))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_coverage_agrees_with_counting_points(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, radius = 40, rng.uniform(4.0, 10.0)
    centre = tuple(rng.uniform(18.0, 22.0, 2))
    places = quantise(np.array(centre).reshape(1, 1, 2) / size)
    pixels, visibility = render(places, [radius / size], [name], [WHITE], BLACK, size, size)
    expected = counted(name, centre, radius, size)
    found = pixels[0, 0] / 255.0
    # Distance is area to first order only: a pixel that a sharp point crosses may be off by a quarter or more.
    assert np.abs(found - expected).mean() * size * size < 0.12 * radius * 2 * np.pi
    assert np.abs(found - expected).max() < 0.55
    assert found.sum() == pytest.approx(np.pi * radius**2, rel=0.04)
    assert visibility == pytest.approx(np.ones((1, 1)))


@pytest.mark.parametrize("name", SHAPES)
def test_outlines_have_area_pi_around_the_origin(name: str) -> None:
    corners = np.array(SHAPES[name].vertices)
    follow = np.roll(corners, -1, 0)
    cross = corners[:, 0] * follow[:, 1] - follow[:, 0] * corners[:, 1]
    assert cross.sum() / 2 == pytest.approx(np.pi, rel=2e-3)  # the circle is a polygon of 64 corners
    assert ((corners + follow) * cross[:, None]).sum(0) == pytest.approx(np.zeros(2), abs=1e-12)
    reach = [-corners[:, 0].min(), corners[:, 0].max(), -corners[:, 1].min(), corners[:, 1].max()]
    assert SHAPES[name].extent == pytest.approx(reach)


def test_one_scene_looks_alike_at_every_size() -> None:
    rng = np.random.default_rng(0)
    places = quantise(rng.uniform(0.3, 0.7, (3, 2, 2)))
    arguments = ([0.15, 0.1], ["star", "square"], [(200, 30, 40), (10, 220, 90)], (16, 16, 24))
    small, _ = render(places, *arguments, 32, 48)
    large, _ = render(places, *arguments, 128, 192)
    pooled = large.reshape(3, 3, 32, 4, 48, 4).mean((3, 5))
    assert np.abs(pooled - small).mean() < 1.0
    assert np.abs(pooled - small).max() < 110.0


def test_the_last_object_is_in_front_and_visibility_says_what_is_left() -> None:
    places = quantise(np.array([[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.0, 0.5]], [[0.5, 0.5], [-3.0, 9.0]]]))
    pixels, visibility = render(places, [0.2, 0.1], ["square", "circle"], [(255, 0, 0), (0, 0, 255)], BLACK, 64, 64)
    assert pixels[:, 0, 32, 32].tolist() == [0, 0, 255]
    assert visibility[:, 0] == pytest.approx([0.75, 1.0, 1.0], abs=0.02)
    assert visibility[:, 1] == pytest.approx([1.0, 0.5, 0.0], abs=0.02)
    assert pixels[2, :, :, 40:].max() == 0 or pixels[2].max() == 0


def test_fixed_point_swallows_last_bits() -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(-1.0, 2.0, 100_000)
    values[:50_000] = np.round(values[:50_000] * 2**25) / 2**25  # dyadic numbers, where rounding could tie
    for other in (np.nextafter(values, 9.0), np.nextafter(values, -9.0)):
        assert (quantise(other) == quantise(values)).all()
    assert np.abs(quantise(values) - values).max() < 2**-24
