"""How a picture of one shape comes into a frame of another: cut, padded or stretched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from PIL import Image, ImageOps

WORTH_SAYING = 0.01  # a smaller share of the picture is a matter of rounding

Size = tuple[int, int]  # width, height


class Fit(ABC):
    """`fit(image, size, method)` has exactly `size`; `method` is Pillow's resampling. An image of that size passes
    untouched, and padding is black: in a mask it covers nothing."""

    @abstractmethod
    def __call__(self, image: Image.Image, size: Size, method: Image.Resampling) -> Image.Image: ...

    @abstractmethod
    def says(self, share: str, is_wider: bool) -> str:
        """What becomes of an image of another shape, wider or higher than the frame; `share` is the misfit."""

    def loss(self, image: Size, size: Size) -> str | None:
        """What becomes of an image in a frame of another shape, None where it fits."""
        share = misfit(image, size)
        return self.says(f"{share:.0%}", image[0] * size[1] > image[1] * size[0]) if share >= WORTH_SAYING else None


@dataclass(frozen=True)
class Cut(Fit):
    """Scaled to cover the frame, and cut to its middle."""

    def __call__(self, image: Image.Image, size: Size, method: Image.Resampling) -> Image.Image:
        return ImageOps.fit(image, size, method)

    def says(self, share: str, is_wider: bool) -> str:
        where = "left and right" if is_wider else "above and below"
        return f"{share} of it is cut off, {where}; fit=pad and fit=stretch keep all of it"


@dataclass(frozen=True)
class Pad(Fit):
    """Scaled to lie inside the frame; what is left of the frame is black."""

    def __call__(self, image: Image.Image, size: Size, method: Image.Resampling) -> Image.Image:
        return ImageOps.pad(image, size, method)

    def says(self, share: str, is_wider: bool) -> str:
        return f"{share} of the frame is black beside it"


@dataclass(frozen=True)
class Stretch(Fit):
    """Scaled to the frame, each side by itself."""

    def __call__(self, image: Image.Image, size: Size, method: Image.Resampling) -> Image.Image:
        return image if image.size == size else image.resize(size, method)

    def says(self, share: str, is_wider: bool) -> str:
        return f"it is {share} {'narrower' if is_wider else 'lower'} than it should be"


def misfit(image: Size, size: Size) -> float:
    """The share of an image that lies outside the largest part of it with the shape of `size`: 0 for equal shapes."""
    aspect = (image[0] * size[1]) / (image[1] * size[0])
    return 1 - min(aspect, 1 / aspect)
