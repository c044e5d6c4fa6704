"""How the camera moves: one entry a movement, and the view of each frame.

A room of `aspect` by 1 frame heights is filmed. A camera that moves stands so far back that all of the room stays in
the picture at every moment: nothing leaves the frame because of it. What lies outside the room is the border.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from data.worlds.outline import Floats


@dataclass(frozen=True)
class Camera:
    """A steady movement. Its words follow "the camera".

    Attributes:
        says: what a caption says of it.
        pan: where it goes, frame heights a second along (x, y).
        zoom: by how much of its smallest size the picture grows in a second; below 0: it shrinks to it.
    """

    says: str
    pan: tuple[float, float] = (0.0, 0.0)
    zoom: float = 0.0


CAMERAS: dict[str, Camera] = {
    "plain": Camera("stands still"),
    "left": Camera("pans left", pan=(-0.25, 0.0)),
    "right": Camera("pans right", pan=(0.25, 0.0)),
    "up": Camera("pans up", pan=(0.0, -0.25)),
    "down": Camera("pans down", pan=(0.0, 0.25)),
    "in": Camera("zooms in", zoom=0.4),
    "out": Camera("zooms out", zoom=-0.4),
}


@dataclass(frozen=True)
class View:
    """Where the camera looks in each frame: `centre` `(F, 2)`, the place of the room in the middle of the picture, and
    `scale` `(F,)`, lengths in the picture over lengths in the room. Frame heights, x and y down."""

    centre: Floats
    scale: Floats
    aspect: float

    @property
    def middle(self) -> Floats:
        """The middle of the picture, (x, y)."""
        return np.array([0.5 * self.aspect, 0.5], np.float64)

    @cached_property
    def still(self) -> bool:
        """Whether the picture is the room in every frame."""
        return bool((self.scale == 1.0).all() and (self.centre == self.middle).all())

    def picture(self, places: Floats) -> Floats:
        """Where places of the room, `(F, N, 2)` or `(N, 2)`, are in the picture: `(F, N, 2)`."""
        if self.still:
            return places if places.ndim == 3 else np.broadcast_to(places, (len(self.scale), *places.shape))
        return (places - self.centre[:, None]) * self.scale[:, None, None] + self.middle


@lru_cache(maxsize=256)
def view(name: str, aspect: float, num_frames: int, fps: float) -> View:
    """The view of each frame; see `CAMERAS`."""
    camera, middle = CAMERAS[name], np.array([0.5 * aspect, 0.5])
    times, duration = np.arange(num_frames) / fps, num_frames / fps
    travel = np.array(camera.pan) * duration
    room = np.array([aspect, 1.0])
    fits = float((room / (room + np.abs(travel))).min())  # the room is in the picture at both ends of the way
    centre = middle + (times / duration - 0.5)[:, None] * travel
    grown = times if camera.zoom >= 0.0 else duration - times
    zoom = abs(camera.zoom)
    return View(centre, fits * (1.0 + zoom * grown) / (1.0 + zoom * duration), aspect)
