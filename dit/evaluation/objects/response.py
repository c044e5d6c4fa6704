"""What a key does in a video: how far it moves things, beside how far it does in truth.

Of one scene two clips are made, under a key and under none, of the same first frames. What differs between them is the
key's. Lengths in pixels of the room.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dit.evaluation.segment import Floats
from dit.scores import Measure

LEAST = 1.0  # pixels by which a key has to move something in truth, to be asked
OF_TRUE = "of the true one"
MEASURES = {
    "response": Measure("response to keys", OF_TRUE, None),  # right is 1: less is deaf, more is too much
    "response_error": Measure("error of the displacement by keys", "px", False),
}


@dataclass(frozen=True)
class Response:
    """How a clip answers one key.

    response: the displacement along the true one, over the true one: 1 is right, 0 is deaf. response_error: pixels
    between both displacements, mean over frames and objects. displacement, true: of the object that the key moves
    farthest in truth, in the frame in which it is farthest, (x, y) pixels.
    """

    response: float
    response_error: float
    displacement: tuple[float, float]
    true: tuple[float, float]


def respond(pressed: Floats, still: Floats, true_pressed: Floats, true_still: Floats) -> Response | None:
    """Holds the displacement by a key against the true one; None where the key moves nothing in truth.

    Args:
        pressed, still: (F, N, 2) places of objects in the frames behind the given ones, under the key and under none;
            NaN where one is not seen, which counts as not displaced.
        true_pressed, true_still: the same of the true clips.
    """
    true = true_pressed - true_still
    far = np.linalg.norm(true, axis=-1)  # (F, N)
    moved = far.max(0) >= LEAST
    if not moved.any():
        return None
    found = np.nan_to_num(pressed - still)
    frame, item = np.unravel_index(int(far.argmax()), far.shape)
    return Response(
        response=float((found[:, moved] * true[:, moved]).sum() / (true[:, moved] ** 2).sum()),
        response_error=float(np.linalg.norm(found[:, moved] - true[:, moved], axis=-1).mean()),
        displacement=(float(found[frame, item, 0]), float(found[frame, item, 1])),
        true=(float(true[frame, item, 0]), float(true[frame, item, 1])),
    )
