"""Moving MNIST (Srivastava et al. 2015, arXiv 1502.04681, section 4) of scikit-learn's digits.

Two digits move through a frame of 64x64 pixels for 20 frames, each in a straight line, and bounce off its edges; where
they overlap the brighter pixel is seen. Models are given 10 frames and predict the other 10. The published recipe takes
the digits of MNIST, which no package ships: these are the 1,797 digits of 8x8 pixels that scikit-learn does, enlarged,
so scores are not those of papers. Everything else is as published: 28x28 pixels a digit, which moves by a tenth of the
free way (3.6 pixels) a frame, in a direction drawn from the circle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.sets.base import Made, package, rng, split

SIZE = 64  # pixels, of the frame
DIGIT = 28  # of the square that a digit moves in
INK = 20  # of the square in its middle that an enlarged digit fills, as in MNIST
STEP = 0.1  # of the free way, a frame
FRAMES = 20
DARKEST, BRIGHTEST = 80, 208  # grey levels of an enlarged digit that become 0 and 255: strokes with edges, as in MNIST
HELD_OUT = 360  # of the digits, the last ones, are for clips of the split test alone
PLACES = 2**20  # sine and cosine are rounded to this fraction: libraries differ in their last bits


class MovingMNIST:
    """Clips of the set.

    Args:
        seed: other ones draw other clips.
        num_frames: 20 as published.
        num_digits: 2 as published.
    """

    name = "moving_mnist"
    fps = 10.0  # the paper names no rate; this one plays a clip in two seconds
    lossless = True
    captions_beside = False
    manifest = "manifest.jsonl"
    packages = ("scikit-learn",)

    def __init__(self, seed: int, num_frames: int = FRAMES, num_digits: int = 2) -> None:
        if min(num_frames, num_digits) < 1 or num_digits > 10:
            raise ValueError(f"num_frames={num_frames} must be at least 1, num_digits={num_digits} from 1 to 10")
        self._loader()
        self.seed = seed
        self.num_frames = num_frames
        self.num_digits = num_digits

    def settings(self) -> Mapping[str, Any]:
        return {"seed": self.seed, "num_frames": self.num_frames, "num_digits": self.num_digits}

    @staticmethod
    def _loader() -> Any:
        return package("sklearn.datasets", "scikit-learn")

    @cached_property
    def _digits(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Pictures (N, 28, 28) and the digits 0 to 9 that they show (N,)."""
        loaded = self._loader().load_digits()
        return np.stack([enlarged(picture) for picture in loaded.images]), np.asarray(loaded.target, np.int64)

    def clip(self, index: int) -> Made:
        random, side = rng(self.seed, index), split(index)
        pictures, digits = self._digits
        free = len(digits) - HELD_OUT
        first, last = (0, free) if side == "train" else (free, len(digits))
        canvas = np.zeros((self.num_frames, SIZE, SIZE), np.uint8)
        shown = []
        for _ in range(self.num_digits):
            which = int(random.integers(first, last))
            shown.append(int(digits[which]))
            for frame, (top, left) in zip(canvas, path(random, self.num_frames), strict=True):
                place = frame[top : top + DIGIT, left : left + DIGIT]
                np.maximum(place, pictures[which], out=place)
        names = sorted(map(str, shown))
        return Made(
            frames=canvas[..., None].repeat(3, -1),
            caption=spoken(names),
            columns={
                "label": " ".join(names),
                "split": side,
                "licence": "CC-BY-4.0",
                "source": "digits of scikit-learn (UCI optdigits, test set), moving",
            },
        )

    def about(self) -> str:
        return ABOUT.format(seed=self.seed, num_frames=self.num_frames, num_digits=self.num_digits, held_out=HELD_OUT)


def enlarged(picture: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A digit of 8x8 values from 0 to 16 as grey levels (28, 28): bicubic to 20x20, its contrast raised, in the middle.

    Pillow computes in whole numbers, so that the pixels are the same on every machine.
    """
    small = Image.fromarray((np.asarray(picture) * 255 / 16).round().astype(np.uint8))
    large = np.asarray(small.resize((INK, INK), Image.Resampling.BICUBIC), np.int64)
    levels = (large - DARKEST) * 255 // (BRIGHTEST - DARKEST)
    border = (DIGIT - INK) // 2
    return np.pad(levels.clip(0, 255).astype(np.uint8), border)


def path(random: np.random.Generator, num_frames: int) -> list[tuple[int, int]]:
    """Top and left of a digit's square in each frame: a straight line that bounces off the edges."""
    y, x, turn = (float(number) for number in random.random(3))
    speed = [round(STEP * wave(2 * math.pi * turn) * PLACES) / PLACES for wave in (math.sin, math.cos)]
    place = [y, x]
    places = []
    for _ in range(num_frames):
        for axis in (0, 1):
            place[axis] += speed[axis]
            if not 0 < place[axis] < 1:
                place[axis] = min(max(place[axis], 0.0), 1.0)
                speed[axis] = -speed[axis]
        places.append((int((SIZE - DIGIT) * place[0]), int((SIZE - DIGIT) * place[1])))
    return places


def spoken(names: list[str]) -> str:
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return (
        f"the handwritten digits {listed} move and bounce"
        if len(names) > 1
        else f"the handwritten digit {listed} moves"
    )


ABOUT = """\
# Moving MNIST of scikit-learn's digits

{num_digits} handwritten digits move through 64x64 pixels for {num_frames} frames, each in a straight line, and bounce
off the edges; where they overlap the brighter pixel is seen. The recipe is that of Moving MNIST (Srivastava et al.
2015, arXiv 1502.04681); the usual task is to predict the last 10 of 20 frames from the first 10.

**The digits are not those of MNIST**, so scores cannot be set beside those of papers. They are the 1,797 digits of
8x8 pixels that scikit-learn ships, enlarged to 20x20 (bicubic, contrast raised) in a square of 28x28. Every tenth
clip is of the split `test`, and shows digits that no clip of the split `train` does (the last {held_out}).

## Licence
The digits are the test set of "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak 1998, UCI
Machine Learning Repository, doi 10.24432/C50P49. scikit-learn, whose own code is under the BSD 3-Clause licence, ships
them and names no licence of theirs; other projects that use them say that the repository's page lists CC BY 4.0. Clips
are marked so. Whoever passes them on names the authors, says that the digits were changed (enlarged and moved), and had
better read that page first.
"""
