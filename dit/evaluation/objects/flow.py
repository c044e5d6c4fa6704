"""How far the optical flow of a video is from that of the scene which it should show, where objects are to be seen.

For clips that continue given frames: what moves where is then known exactly. Only pixels of objects count, of those
that are seen in both frames. Elsewhere an empty background has no flow that pixels could tell, and where it has a
pattern most pixels stand still in any clip. The flow of the video is an estimate; what it gets wrong of real clips is
the floor.
"""

from __future__ import annotations

from torch import Tensor

from dit.evaluation.video.clips import unit
from dit.evaluation.video.flow import FlowEstimator
from dit.scores import Measure

MEASURES = {"flow_error": Measure("error of the flow of objects", "px", False)}


def flow_error(video: Tensor, exact: Tensor, visible: Tensor, given: int, estimate: FlowEstimator) -> float | None:
    """The endpoint error |estimated - true flow| of a clip, mean over pixels and frames, pixels; None where there is no
    such pixel.

    Args:
        video: (3, F, H, W), uint8 or float in [-1, 1].
        exact: (F - 1, 2, H, W) pixels (x, y) from each frame to the next.
        visible: bool (F - 1, H, W), the pixels that count: of objects, and of what the next frame shows, too.
        given: first frames that the video was given; only what comes behind the last of them counts.

    Raises ValueError for flow of another size.
    """
    _, frames, height, width = video.shape
    if exact.shape != (frames - 1, 2, height, width) or visible.shape != (frames - 1, height, width):
        raise ValueError(
            f"flow of the size {tuple(exact.shape)} with {tuple(visible.shape)} visible pixels is none of a clip of"
            f" {frames} frames of {height}x{width}"
        )
    since = max(given - 1, 0)
    shown = unit(video).movedim(0, 1)[since:]  # (F', 3, H, W)
    true, counted = exact[since:].to(shown), visible[since:].to(shown.device)
    if not bool(counted.any()):
        return None
    apart = (estimate(shown[:-1], shown[1:]) - true).norm(dim=1)  # (F' - 1, H, W)
    return float(apart[counted].mean())
