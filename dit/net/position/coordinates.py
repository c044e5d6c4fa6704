"""Coordinates that a rotary position multiplies by its frequencies: counted, in seconds, divided, or fitted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from dit.net.coordinates import AXES, Coordinates
from dit.net.patches import Grid
from dit.net.reads import Reads


class RotaryCoordinates:
    """Base of what the angles are multiples of: the numbers of frame, row and column, or what is made of them.

    reads: the keys of cond that it depends on.
    """

    reads = Reads()

    def __call__(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> list[Tensor]:
        """Three axes, as `Coordinates.axes`, with a batch in front where samples have coordinates of their own."""
        return coordinates.axes(like)


class Counted(RotaryCoordinates):
    """The numbers themselves."""


class Timed(RotaryCoordinates):
    """Frames stand at their time: with cond["fps"] (B,), a frame is base_fps / fps long (Cosmos).

    base_fps: frames a second at which frames are one apart; they are too where cond has no fps (images).
    """

    reads = Reads(optional=("fps",))

    def __init__(self, base_fps: float) -> None:
        self.base_fps = base_fps

    def __call__(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> list[Tensor]:
        frames, rows, columns = coordinates.axes(like)
        if "fps" in cond:
            frames = self.base_fps * (frames / coordinates.of_clips(cond["fps"].to(frames.dtype)))
        return [frames, rows, columns]


class Divided(RotaryCoordinates):
    """Divided, so that a larger grid keeps the range of a smaller training (position interpolation, arXiv 2306.15595;
    Allegro, arXiv 2410.15458).

    divide: axis -> what the numbers along it are divided by.
    """

    def __init__(self, divide: dict[str, float]) -> None:
        self.divide = divide

    def __call__(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> list[Tensor]:
        return [numbers / self.divide[axis] for axis, numbers in zip(AXES, coordinates.axes(like), strict=True)]


class Scaled(RotaryCoordinates):
    """Multiplied by cond["rope_scale"] (B, 3) where it is there, a number for each axis: at a higher resolution tokens
    stand closer (Kandinsky 5).
    """

    reads = Reads(optional=("rope_scale",))

    def __call__(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> list[Tensor]:
        """Raises ValueError for scales of another shape."""
        axes = coordinates.axes(like)
        if "rope_scale" not in cond:
            return axes
        scale = cond["rope_scale"].to(axes[0].dtype)
        if scale.dim() != 2 or scale.shape[1] != len(axes):
            raise ValueError(f"cond['rope_scale'] has shape {tuple(scale.shape)}; it must be (batch, 3)")
        return [numbers * coordinates.of_clips(scale[:, i]) for i, numbers in enumerate(axes)]


class Fitted(RotaryCoordinates):
    """In the coordinates of the training's picture: a picture of another size or shape is scaled until it just fits
    into that and put in its middle; frames are counted (CogVideoX, arXiv 2408.06072; HunyuanDiT before it).

    picture: tokens of the training's picture along (h, w).
    """

    def __init__(self, picture: list[int]) -> None:
        self.picture = picture

    def __call__(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> list[Tensor]:
        """Rows and columns may lie between those of the training."""
        frames, *axes = coordinates.axes(like)
        fitted = [frames]
        for i, numbers in enumerate(axes):
            first = coordinates.by_clip(partial(self.first, i), numbers)
            step = coordinates.by_clip(partial(self.step, i), numbers)
            fitted.append(first + step * numbers)
        return fitted

    def first(self, i: int, grid: Grid) -> float:
        """Where the first row (i=0) or column (1) stands."""
        return round((self.picture[i] - self.extent(i, grid)) / 2)

    def step(self, i: int, grid: Grid) -> float:
        """From one row or column to the next.

        n of them stand evenly from the first to (first + extent) (n - 1) / n; only for first = 0 is that extent / n.
        """
        n, first = grid[1 + i], self.first(i, grid)
        return ((first + self.extent(i, grid)) * (n - 1) / n - first) / max(n - 1, 1)

    def extent(self, i: int, grid: Grid) -> int:
        """Rows or columns of the training's picture that this one fills."""
        _, h, w = grid
        height, width = self.picture
        if h / w > height / width:  # fits by its height
            return (height, round(height / h * w))[i]
        return (round(width / w * h), width)[i]
