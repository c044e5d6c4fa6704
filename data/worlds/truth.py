"""What is where in each frame of a clip, exactly: masks, depth, optical flow. Computed from the state, on request.

A scene is layers from the back to the front: the background (with the border of the room), solid slabs, objects in the
order of the caption, walls. Masks are the coverages that the picture is painted with. Flow is that of the surface that
is in front in the middle of a pixel: objects and camera move it, nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.worlds.camera import View
from data.worlds.outline import SHAPES, Floats
from data.worlds.render import cover, cover_slab
from data.worlds.scenery import Slab


class _Layer(Protocol):
    name: str

    def coverage(self) -> Floats:
        """`(F, H, W)`."""

    def contains(self, frames: slice, x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Whether places `(f, H, W)` of the picture, in pixels, are on it in these frames."""

    def moved(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Where places of frames 0 to F - 2 are in the next one."""


@dataclass(frozen=True)
class Truth:
    """The truth of one clip, each part computed when it is first asked for.

    Args:
        positions, radii, slabs, view: of the state (`world.State`).
        outlines: N names of shapes.
        height, width: of the picture, pixels.
    """

    positions: Floats
    radii: Floats
    outlines: Sequence[str]
    slabs: Sequence[Slab]
    view: View
    height: int
    width: int

    @cached_property
    def _layers(self) -> list[_Layer]:
        size = (self.height, self.width)
        solid = [_SlabLayer("slab", slab, self.view, *size) for slab in self.slabs if not slab.front]
        walls = [_SlabLayer("wall", slab, self.view, *size) for slab in self.slabs if slab.front]
        places = self.view.picture(self.positions)
        things = [
            _ObjectLayer(f"object {item}", outline, places[:, item], radius, self.view, *size)
            for item, (outline, radius) in enumerate(zip(self.outlines, self.radii.tolist(), strict=True))
        ]
        return [_Ground(self.view, *size), *solid, *things, *walls]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names from the back to the front: "background", "slab", "object 0", "object 1", ..., "wall"."""
        return tuple(layer.name for layer in self._layers)

    @cached_property
    def masks(self) -> Floats:
        """`(F, L, H, W)`, how much of each pixel each layer fills, what is in front of it taken away; sums to 1."""
        left = np.ones((len(self.positions), self.height, self.width))
        found = []
        for layer in reversed(self._layers):
            coverage = layer.coverage()
            found.append(coverage * left)
            left = left * (1.0 - coverage)
        return np.stack(found[::-1], axis=1)

    def objects(self) -> Floats:
        """`(F, N, H, W)`, the masks of the objects alone."""
        return self.masks[:, [name.startswith("object") for name in self.layers]]

    @cached_property
    def depth(self) -> NDArray[np.uint8]:
        """`(F, H, W)`, the number of the layer that is in front in the middle of each pixel; 0 is the background."""
        x, y = self._grid
        depth = np.zeros((len(self.positions), self.height, self.width), np.uint8)
        for number, layer in enumerate(self._layers):
            depth[layer.contains(slice(None), x, y)] = number
        return depth

    @cached_property
    def flow(self) -> NDArray[np.float32]:
        """`(F - 1, 2, H, W)`, by how many pixels (x, y) what is in the middle of a pixel moves until the next frame."""
        x, y = self._ends
        grid_x, grid_y = self._grid
        return np.stack([x - grid_x, y - grid_y], axis=1).astype(np.float32)

    @cached_property
    def occluded(self) -> NDArray[np.bool_]:
        """`(F - 1, H, W)`, True where what is in the middle of a pixel is hidden in the next frame, or outside it."""
        x, y = self._ends
        hidden = (x < 0.0) | (x > self.width) | (y < 0.0) | (y > self.height)
        for number, layer in enumerate(self._layers):
            hidden |= (self.depth[:-1] < number) & layer.contains(slice(1, None), x, y)
        return hidden

    @cached_property
    def _grid(self) -> tuple[Floats, Floats]:
        """Middles of pixels, (1, 1, W) and (1, H, 1)."""
        return (np.arange(self.width, dtype=np.float64) + 0.5)[None, None], (
            np.arange(self.height, dtype=np.float64) + 0.5
        )[None, :, None]

    @cached_property
    def _ends(self) -> tuple[Floats, Floats]:
        """Where what is in the middle of each pixel will be, (F - 1, H, W) each."""
        depth = self.depth[:-1]
        ends = np.zeros((2, *depth.shape))
        for number, layer in enumerate(self._layers):
            here = depth == number
            for axis, place in enumerate(layer.moved(*self._grid)):
                ends[axis][here] = np.broadcast_to(place, depth.shape)[here]
        return ends[0], ends[1]


class _Still:
    """What stands in the room, so that only the camera moves it in the picture."""

    def __init__(self, view: View, height: int, width: int) -> None:
        self.view, self.height, self.width = view, height, width

    def moved(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """See `_Layer`."""
        middle, scale = self.view.middle * self.height, self.view.scale[:, None, None]
        centre = self.view.centre * self.height
        ends = []
        for axis, place in enumerate((x, y)):
            centres = centre[:, axis, None, None]
            room = (place - middle[axis]) / scale[:-1] + centres[:-1]
            ends.append((room - centres[1:]) * scale[1:] + middle[axis])
        return ends[0], ends[1]


class _Ground(_Still):
    name = "background"

    def coverage(self) -> Floats:
        return np.ones((len(self.view.scale), self.height, self.width))

    def contains(self, frames: slice, x: Floats, y: Floats) -> NDArray[np.bool_]:
        return np.ones((len(self.view.scale[frames]), self.height, self.width), np.bool_)


class _SlabLayer(_Still):
    def __init__(self, name: str, slab: Slab, view: View, height: int, width: int) -> None:
        super().__init__(view, height, width)
        self.name, self.slab = name, slab

    def coverage(self) -> Floats:
        whole = np.zeros((len(self.view.scale), self.height, self.width))
        band = cover_slab(self.slab, self.view, self.height, self.width)
        whole[:, band.rows, band.columns] = band.coverage
        return whole

    def contains(self, frames: slice, x: Floats, y: Floats) -> NDArray[np.bool_]:
        corners = self.view.picture(np.array([self.slab[0:2], self.slab[2:4]]))[frames, :, :, None, None] * self.height
        (left, top), (right, bottom) = corners[:, 0].swapaxes(0, 1), corners[:, 1].swapaxes(0, 1)
        return (x >= left) & (x < right) & (y >= top) & (y < bottom)


class _ObjectLayer:
    def __init__(
        self, name: str, outline: str, centre: Floats, radius: float, view: View, height: int, width: int
    ) -> None:
        self.name, self.height, self.width = name, height, width
        self.outline, self.centre = SHAPES[outline], centre * height
        self.radius: float | Floats = radius * height if view.still else radius * height * view.scale
        self.scale = view.scale[:, None, None]

    def coverage(self) -> Floats:
        patch = cover(self.outline, self.centre, self.radius)
        edge = np.array([self.width, self.height])
        margin = max(0, int(max((-patch.corner).max(), (patch.corner + patch.size - edge).max())))
        whole = np.zeros((len(self.centre), self.height + 2 * margin, self.width + 2 * margin))
        for frame, (rows, columns) in enumerate(patch.windows(margin)):
            whole[frame, rows, columns] = patch.coverage[frame]
        return whole[:, margin : margin + self.height, margin : margin + self.width]

    def contains(self, frames: slice, x: Floats, y: Floats) -> NDArray[np.bool_]:
        centre = self.centre[frames, :, None, None]
        radius = self.radius if isinstance(self.radius, float) else self.radius[frames, None, None]
        return self.outline.distance(x - centre[:, 0], y - centre[:, 1], radius) <= 0.0

    def moved(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        centre, grown = self.centre[:, :, None, None], self.scale[1:] / self.scale[:-1]
        return (
            (x - centre[:-1, 0]) * grown + centre[1:, 0],
            (y - centre[:-1, 1]) * grown + centre[1:, 1],
        )
