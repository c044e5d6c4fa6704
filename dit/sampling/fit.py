"""How a picture of one shape comes into a frame of another: cut, padded or stretched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from PIL import Image, ImageOps

WORTH_SAYING = 0.01  # a smaller share of the picture is a matter of rounding

Size = tuple[int, int]  # width, height


class Fit(Protocol):
    """`fit(image, size, method)` has exactly `size`; `method` is Pillow's resampling. An image of that size passes
    untouched, and padding is black: in a mask it covers nothing."""

    def __call__(self, image: Image.Image, size: Size, method: Image.Resampling) -> Image.Image: ...

    def loss(self, image: Size, size: Size) -> str | None:
        """What becomes of an image in a frame of another shape, None where it fits."""
        ...


@dataclass(frozen=True)
class Cut:
    """Scaled to cover the frame, and cut to its middle."""

    def __call__(self, image: Image.Image, size: Size, method: Image.Resampling) -> Image.Image:
        return ImageOps.fit(image, size, method)

    def loss(self, image: Size, size: Size) -> str | None:
        share = misfit(image, size)
        where = "left and right" if image[0] * size[1] > image[1] * size[0] else "above and below"
        return _if_any(share, f"{share:.0%} of it is cut off, {where}; fit=pad and fit=stretch keep all of it")


@dataclass(frozen=True)
class Pad:
    """Scaled to lie inside the frame; what is left of the frame is black."""

    def __call__(self, image: Image.Image, size: Size, method: Image.Resampling) -> Image.Image:
        return ImageOps.pad(image, size, method)

    def loss(self, image: Size, size: Size) -> str | None:
        share = misfit(image, size)
        return _if_any(share, f"{share:.0%} of the frame is black beside it")


@dataclass(frozen=True)
class Stretch:
    """Scaled to the frame, each side by itself."""

    def __call__(self, image: Image.Image, size: Size, method: Image.Resampling) -> Image.Image:
        return image if image.size == size else image.resize(size, method)

    def loss(self, image: Size, size: Size) -> str | None:
        share = misfit(image, size)
        side = "narrower" if image[0] * size[1] > image[1] * size[0] else "lower"
        return _if_any(share, f"it is {share:.0%} {side} than it should be")


def misfit(image: Size, size: Size) -> float:
    """The share of an image that lies outside the largest part of it with the shape of `size`: 0 for equal shapes."""
    aspect = (image[0] * size[1]) / (image[1] * size[0])
    return 1 - min(aspect, 1 / aspect)


def _if_any(share: float, said: str) -> str | None:
    return said if share >= WORTH_SAYING else None
