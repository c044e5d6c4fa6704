"""The outline error in pixels of shapes that were spoiled by a known amount; drawn here by supersampling, not by it."""

from functools import cache
from math import cos, hypot, pi, sin

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data.worlds.outline import SHAPES
from dit.evaluation.outline import Outline
from dit.evaluation.segment import Floats

SIDE, FINE = 40, 32
RADIUS = 6.4
CENTRES = [(20.0 + x / 7, 20.0 + y / 7) for x, y in ((0, 3), (1, 5), (2, 0), (3, 6), (4, 2), (5, 4), (6, 1))]


def corners(shape: str) -> Floats:
    return np.array(SHAPES[shape].vertices)


def drawn(outline: Floats, centre: tuple[float, float], radius: float = RADIUS, side: int = SIDE) -> Floats:
    """Coverage `(side, side)`: the share of 32x32 samples of a pixel that lies inside."""
    image = Image.new("L", (side * FINE, side * FINE))
    # PIL's coordinates name the centres of its pixels.
    ImageDraw.Draw(image).polygon([(x - 0.5, y - 0.5) for x, y in (outline * radius + centre) * FINE], fill=1)
    return np.asarray(image, np.float64).reshape(side, FINE, side, FINE).mean((1, 3))


outline_of = cache(lambda shape: Outline(corners(shape)))


def error(shape: str, mask: Floats, centre: tuple[float, float], radius: float = RADIUS) -> float:
    """Starts from a centroid that is somewhat off, as a measured one is."""
    return outline_of(shape).error(mask, np.array(centre) + (0.31, -0.22), radius)


def mean_error(shape: str, spoil: Floats, radius: float = RADIUS) -> float:
    """Over places: how a pixel is cut by an edge is chance."""
    return float(np.mean([error(shape, drawn(spoil, centre, radius), centre) for centre in CENTRES]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("centre", CENTRES)
def test_the_true_shape_has_no_error_wherever_it_is(shape: str, centre: tuple[float, float]) -> None:
    assert error(shape, drawn(corners(shape), centre), centre) < 0.08


@pytest.mark.parametrize("shape", SHAPES)
def test_the_perimeter_and_a_missing_object(shape: str) -> None:
    outline = outline_of(shape)
    closed = [*SHAPES[shape].vertices, SHAPES[shape].vertices[0]]
    edges = [hypot(b[0] - a[0], b[1] - a[1]) for a, b in zip(closed[:-1], closed[1:], strict=True)]
    assert outline.perimeter == pytest.approx(sum(edges))
    nothing = np.zeros((SIDE, SIDE))
    assert outline.error(nothing, np.array([20.0, 20.0]), RADIUS) == pytest.approx(outline.missing(RADIUS), rel=0.02)
    assert outline_of("circle").missing(RADIUS) == pytest.approx(RADIUS / 2, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.9, 0.95, 1.05, 1.1, 1.2])
def test_a_wrong_size_counts_in_pixels(shape: str, share: float) -> None:
    """Scaled by s, an outline of area A and perimeter P encloses |s^2 - 1| A more: in pixels |s^2 - 1| A / P."""
    expected = abs(share**2 - 1) * pi * RADIUS / outline_of(shape).perimeter
    assert mean_error(shape, corners(shape) * share) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("depth", [0.5, 1.0, 2.0])
def test_a_dent_counts_by_its_area(depth: float) -> None:
    """A triangle of 4 pixels' base is cut out of the lower side of a bar."""
    (left, top), (right, _), (_, bottom), _ = corners("bar")
    half = 2.0 / RADIUS
    dented = np.array(
        [(left, top), (right, top), (right, bottom), (half, bottom), (0, bottom - depth / RADIUS), (-half, bottom)]
        + [(left, bottom)]
    )
    perimeter = outline_of("bar").perimeter * RADIUS
    assert mean_error("bar", dented) == pytest.approx(0.5 * 4.0 * depth / perimeter, abs=0.03)


@pytest.mark.parametrize("pixels", [1.0, 2.0, 4.0])
def test_a_displaced_corner_counts_by_its_area(pixels: float) -> None:
    """The lower left corner of a square, moved down: a triangle on its lower side is added."""
    spoilt = corners("square").copy()
    side = spoilt[2] - spoilt[0]
    spoilt[3, 1] += pixels / RADIUS
    perimeter = outline_of("square").perimeter
    assert mean_error("square", spoilt) == pytest.approx(0.5 * pixels * side[0] / perimeter, rel=0.15)


def test_errors_grow_with_what_spoils() -> None:
    sizes = (0.02, 0.05, 0.12)
    wavy = [
        np.array([(1 + size * cos(5 * a)) * np.array([cos(a), sin(a)]) for a in np.linspace(0, 2 * pi, 200)[:-1]])
        for size in sizes
    ]
    errors = [mean_error("circle", outline) for outline in wavy]
    for size, measured in zip(sizes, errors, strict=True):
        # The mean of |cos| is 2 / pi.
        assert measured == pytest.approx(size * RADIUS * 2 / pi, abs=0.05)
    assert errors == sorted(errors)


def test_another_shape_is_far_off() -> None:
    assert mean_error("circle", corners("square")) > 0.3
    assert mean_error("bar", corners("triangle")) > 1.0


def test_what_is_outside_of_the_frame_is_missing() -> None:
    outline, centre = outline_of("square"), (20.0, 20.0)
    cut = drawn(corners("square"), centre)[:, :20]  # half of it
    middle = np.array([20.0 - RADIUS * float(corners("square")[2, 0]) / 2, 20.0])
    assert outline.error(cut, middle, RADIUS) == pytest.approx(outline.missing(RADIUS) / 2, rel=0.1)


def test_grain_inside_and_outside_is_no_outline() -> None:
    mask = drawn(corners("circle"), CENTRES[1])
    grain = np.random.default_rng(0).uniform(-0.1, 0.1, mask.shape)
    assert error("circle", np.clip(mask + grain, 0.0, 1.0), CENTRES[1]) < 0.08


def test_objects_of_a_pixel_are_measured() -> None:
    assert error("circle", drawn(corners("circle"), CENTRES[2], 0.9), CENTRES[2], 0.9) < 0.2


def test_larger_frames_give_proportional_errors() -> None:
    centre = (60.3, 59.6)
    mask = drawn(corners("triangle") * 1.1, centre, 25.0, 120)
    expected = (1.1**2 - 1) * pi * 25.0 / outline_of("triangle").perimeter
    assert error("triangle", mask, centre, 25.0) == pytest.approx(expected, rel=0.03)
