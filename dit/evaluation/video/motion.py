"""Measures of one clip by itself: flicker, warping error, dynamic degree. They need no real clip to compare with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dit.evaluation.video.clips import checked, shape_of, unit
from dit.evaluation.video.flow import FlowEstimator, inside, seen_in_both, warped
from dit.evaluation.video.per_clip import Measure, PerClip

STILL = 0.1  # pixels a frame: what moves less is taken to stand still
RATE = 8.0  # frames a second that dynamic degree is defined at


class Motion(PerClip):
    """Flicker, warping error and dynamic degree of clips as they come.

    Each clip gives
    - `flicker`: the mean absolute difference between neighbouring frames, in levels of 255 (VBench, arXiv 2311.17982,
      has 1 - flicker / 255, for clips in which nothing moves);
    - `flicker, still regions`: the same where nothing moves, which motion does not raise: in the regions that are
      given, else where the median of the flow over time is below `STILL` pixels;
    - `warping error[...]`: the mean squared distance of colours in [0, 1] between a frame and the next one, looked at
      through the flow, over pixels that are seen in both (Lai et al. 2018, arXiv 1808.00449), times 1000;
    - `motion[...]`: the mean of the fastest twentieth of the flow, pixels a frame;
    - `dynamic degree[...]`: whether the clip moves, by VBench's rule: frames at 8 a second, and in a quarter of them
      the fastest twentieth of the flow is faster than 6/256 of the shorter side.

    The brackets name whose flow it is: the estimator's, or `exact`.
    """

    def __init__(self, flow: FlowEstimator | None, fps: float | None) -> None:
        """flow: None where exact flow is given with each clip. fps: of the clips, None counts as 8."""
        self.flow, self.fps = flow, fps
        whose = flow.name if flow else "exact"
        network = (flow.name, flow.sha256) if flow else ("", "")
        super().__init__(
            [
                Measure("flicker", "levels", False),
                Measure("flicker, still regions", "levels", False),
                Measure(f"warping error[{whose}]", "1e-3", False, *network),
                Measure(f"motion[{whose}]", "px/frame", None, *network),
                Measure(f"dynamic degree[{whose}]", "share", None, *network),
            ],
            {"still": STILL, "rate": RATE},
        )

    def add(
        self,
        index: int,
        clip: Tensor,
        still: Tensor | None = None,
        exact: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> dict[str, float]:
        """What clip `index` gives.

        Args:
            clip: (3, F, H, W), uint8 or float in [-1, 1], at least two frames.
            still: bool (H, W), where nothing moves in the whole clip; None asks the flow.
            exact: the true flow from each frame to the next, (F - 1, 2, H, W); None asks the estimator.
            visible: bool (F - 1, H, W), which pixels of each frame the next one shows too; None: those that come back
                through the flow there and back, or, with exact flow, all that stay in the frame.

        Raises ValueError, in one line, for a clip that cannot be scored, and flow of another size.
        """
        name = f"clip {index}"
        frames = unit(checked(clip, name)).movedim(0, 1)  # (F, 3, H, W)
        if len(frames) < 2:
            raise ValueError(f"{name} has {shape_of(clip)}: motion needs at least 2 frames")
        first, second = frames[:-1], frames[1:]
        forward, backward = self._flows(first, second, exact, name)
        if visible is None and backward is not None:
            visible = seen_in_both(forward, backward)
        elif visible is None:
            visible = inside(forward)
        speed = forward.norm(dim=1)  # (F - 1, H, W)
        if still is None:
            still = forward.median(dim=0).values.norm(dim=0) < STILL  # noise of the estimate has no direction
        change = (second - first).abs().mean(1) * 255
        apart = (warped(second, forward) - first).square().sum(1)
        values = {
            "flicker": float(change.mean()),
            "flicker, still regions": float(change[:, still].mean()) if bool(still.any()) else math.nan,
            "warping error": 1000 * float(apart[visible].mean()) if bool(visible.any()) else math.nan,
            "motion": float(fastest(speed).mean()),
            "dynamic degree": float(self._is_dynamic(frames, speed)),
        }
        return self.keep(
            index, dict(zip((each.name for each in self.measures), values.values(), strict=True)), clip.shape[1:]
        )

    def _flows(self, first: Tensor, second: Tensor, exact: Tensor | None, name: str) -> tuple[Tensor, Tensor | None]:
        if exact is not None:
            wanted = (len(first), 2, *first.shape[-2:])
            if tuple(exact.shape) != wanted:
                raise ValueError(f"{name}: its flow is {tuple(exact.shape)}, and must be {wanted}")
            return exact.to(first), None
        if self.flow is None:
            raise ValueError(f"{name} comes without exact flow, and no estimator is there: flow=pyramid")
        return self.flow(first, second), self.flow(second, first)

    def _is_dynamic(self, frames: Tensor, speed: Tensor) -> bool:
        """VBench's rule. Where frames are skipped the flow between those that are left is asked for anew, or, of exact
        flow, added up along the way."""
        fps = self.fps or RATE
        interval = max(1, round(fps / RATE))
        kept = frames[::interval]
        if len(kept) < 2:
            return False
        if interval > 1 and self.flow is not None:
            speed = self.flow(kept[:-1], kept[1:]).norm(dim=1)
        elif interval > 1:
            speed = speed[: (len(kept) - 1) * interval].unflatten(0, (-1, interval)).sum(1)
        threshold = 6 * min(frames.shape[-2:]) / 256 * max(1.0, RATE / fps)
        needed = max(1, round(len(kept) / 4))
        return int((fastest(speed) > threshold).sum()) >= needed


def fastest(speed: Tensor) -> Tensor:
    """The mean of the fastest twentieth of the pixels, (P, H, W) -> (P,)."""
    flat = speed.flatten(1)
    return flat.topk(max(1, int(0.05 * flat.shape[1])), dim=1).values.mean(1)


def unchanged(clip: Tensor, tolerance: int = 2) -> Tensor:
    """Where a clip, uint8 (3, F, H, W), stays the same in all its frames to some levels, bool (H, W): of a true clip
    the regions in which a prediction should not flicker."""
    values = clip.to(torch.int16)
    return ((values.amax(1) - values.amin(1)) <= tolerance).all(0)
