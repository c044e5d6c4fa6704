"""What is true of a clip."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.worlds.camera import View
from data.worlds.caption import Spec
from data.worlds.outline import Floats
from data.worlds.scenery import Slab
from data.worlds.steer import Presses


@dataclass(frozen=True)
class State:
    """The exact truth beside a clip of F frames and N objects; lengths in frame heights, seconds, y down.

    Places are in the room. `view` says where that is in the picture: `seen` is in frame heights of the picture.
    """

    spec: Spec
    positions: Floats  # (F, N, 2) centroids (x, y)
    velocities: Floats  # (F, N, 2)
    radii: Floats  # (N,) of the circle of equal area
    colours: NDArray[np.int64]  # (N,) index into the world's colours
    shapes: NDArray[np.int64]  # (N,) index into the world's shapes
    visibility: Floats  # (F, N) share of the object that is inside the frame and not covered
    contacts: NDArray[np.bool_]  # (F, N, N + 4 + S) touched object j, the left, right, top, bottom wall, or solid slab
    masses: Floats  # (N,) area times density
    textures: tuple[str, ...]  # N words
    slabs: tuple[Slab, ...]  # what stands in the room; contacts number the solid ones
    view: View  # of the camera, in each frame
    actions: Presses  # (F, K) uint8, 1 where a key is pressed; K is 0 in a world that is not steered

    @property
    def seen(self) -> Floats:
        """`(F, N, 2)` centroids in the picture."""
        return self.view.picture(self.positions)

    @property
    def seen_radii(self) -> Floats:
        """`(F, N)` radii in the picture."""
        return self.radii * self.view.scale[:, None]


@dataclass(frozen=True)
class Clip:
    """`pixels` uint8 `(F, H, W, 3)`, the caption and the state."""

    pixels: NDArray[np.uint8]
    caption: str
    state: State
