"""Still images out of files: upright, 8 bits a channel, one meaning for each kind, or refused in a line."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data.decode import BadClip

# Of which Pillow's readers take pixels out of bytes and do no more: that of EPS starts Ghostscript, whatever the name.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_MEGAPIXELS = 128  # a small file may claim any size: a decompression bomb fills the memory before it is looked at
PAPER, NOTHING = 255, 0  # what stands behind transparent places: of an image, and of a mask


def open_image(path: str | os.PathLike[str] | Image.Image) -> Image.Image:
    """An RGB image, of a file or one that is open, turned as its EXIF says. Transparent places show white; of moving
    images the first frame is taken.

    Raises:
        BadClip: no image, damaged, too large, or of a kind whose meaning is not known.
    """
    return _opened(path, "RGB", PAPER)


def format_of(path: str | os.PathLike[str]) -> str:
    """What an image that `open_image` takes is kept as: "png"."""
    with Image.open(Path(path), formats=FORMATS) as image:
        return (image.format or "").lower()


def open_mask(path: str | os.PathLike[str] | Image.Image) -> Image.Image:
    """A grey image (mode L), turned as its EXIF says. Transparent places are black: the mask does not cover them.

    Raises:
        BadClip: as `open_image`.
    """
    return _opened(path, "L", NOTHING)


def _opened(path: str | os.PathLike[str] | Image.Image, mode: str, behind: int) -> Image.Image:
    if isinstance(path, Image.Image):
        return _plain(ImageOps.exif_transpose(path), f"the image of mode {path.mode}", mode, behind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, weaker word about large images, and on broken EXIF
            with Image.open(Path(path), formats=FORMATS) as image:
                if image.width * image.height > MAX_MEGAPIXELS * 1e6:
                    raise BadClip(
                        path, f"{image.width}x{image.height} is more than {MAX_MEGAPIXELS} megapixels; scale it down"
                    )
                return _plain(ImageOps.exif_transpose(image), path, mode, behind)
    except BadClip:
        raise
    except Image.DecompressionBombError:
        raise BadClip(path, f"more than {MAX_MEGAPIXELS} megapixels; scale it down") from None
    # Pillow's readers raise OSError, and for damaged files nearly anything else: SyntaxError, struct.error, IndexError.
    except Exception as error:
        said = f"none of {', '.join(FORMATS)}" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise BadClip(path, f"cannot be read as an image ({said or type(error).__name__}); use PNG or JPEG") from None


def _plain(image: Image.Image, path: str | os.PathLike[str], mode: str, behind: int) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 255
        return Image.fromarray(_eight_bits(image, path)).convert(mode)
    if image.mode == "F":
        raise BadClip(path, "floating-point pixels, whose white is not known; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (behind, behind, behind, 255))
        image = Image.alpha_composite(paper, image)
    return image.convert(mode)


def _eight_bits(image: Image.Image, path: str | os.PathLike[str]) -> np.ndarray:
    """uint8 (h, w) of a grey image of 16 bits, which Pillow holds as 16 or 32."""
    values = np.asarray(image).astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise BadClip(path, "grey values outside 16 bits, whose white is not known; save it with 8 or 16 bits")
    return ((values + 128) // 257).astype(np.uint8)
