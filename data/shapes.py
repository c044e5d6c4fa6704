"""Which shape each clip is shown in, where a run has several: a list of shapes, and the rule by which a clip gets one
of them. All of it is said by columns of the manifest; no file is opened.

`Shapes` is what `buckets.Buckets` and `packing.Packed` share; they say how clips of these shapes become batches.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from data.batch import Clips, Item, Shape, Sizes

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

ALIKE = 1.1  # aspect ratios within this factor of the nearest count as it: rounding to whole patches moves them as much
AS_LARGE = 0.75  # and so do shapes with this share of the pixels of the largest
ROWS = 16384  # of a table of rows and shapes, computed at a time
SAID = 12  # shapes that are named when a run starts, those of the most clips
LARGEST = 2**20  # pixels along a side, and frames, that are told apart

UNKNOWN, SHORT, SMALL, CUT = -1, -2, -3, -4
REASONS = {
    UNKNOWN: "height, width or duration not known",
    SHORT: "too short for every shape",
    SMALL: "smaller than every shape",
    CUT: "of an aspect ratio too far from every shape's",
}


class Pixels:
    """Sizes where no network is known: every pixel is a token."""

    def tokens(self, num_frames: int, height: int, width: int) -> int:
        return num_frames * height * width

    def nearest(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        return num_frames, height, width


class Extents(NamedTuple):
    """How large clips are by themselves. All (rows,); -1 where it is not known."""

    frames: Ints  # that the clip has at the run's frame rate, 0 where there are none
    heights: Ints  # upright
    widths: Ints
    images: npt.NDArray[np.bool_]


@runtime_checkable
class SizedClips(Clips, Protocol):
    """Clips whose own sizes are known without opening them, and that can be shown in any shape."""

    def extents(self) -> Extents: ...

    def shaped(self, number: Ints, left_out: dict[str, int]) -> SizedClips:
        """Those whose number, of a shape (rows,), is not negative. Each then knows the others of its shape, for one
        that cannot be read. left_out: how many are not among them, by the reason."""

    def draw(self, index: int, epoch: int, shape: Shape | None = None) -> Item: ...


@dataclass(frozen=True)
class Shaped:
    """Clips that have their shapes.

    Attributes:
        clips: those that fit one.
        number: (len(clips),) which of `shapes`.
        shapes: all of the list, and their `tokens` (len(shapes),).
    """

    clips: SizedClips
    number: Ints
    shapes: tuple[Shape, ...]
    tokens: Ints


class Batches(NamedTuple):
    """An order of draws, cut into batches."""

    order: Ints  # (draws,) a permutation
    ends: Ints  # (batches,) where in it each batch ends


class Shapes(ABC):
    """A list of shapes, and the rule by which a clip gets one.

    A clip gets a shape that it fills without being enlarged, and of whose aspect ratio it loses no more than `max_cut`
    of its frame: of these the longest that it has the frames for, then the one of the nearest aspect ratio, then the
    largest. Images get the shortest length. What fits nowhere is left out and counted.

    Args:
        shapes: [num_frames, height, width] each, which codec and network must be able to take; None: all of `lengths`
            x `sides` x `aspects`, rounded to what they can take.
        sides: pixels along the side of a square of as many pixels; None: that of the run's height and width.
        aspects: width : height, as texts ("16:9").
        lengths: frames; None: 1, half of the run's `num_frames`, and all of them.
        tokens: of a batch at most, for each process; None: those of `data.batch_size` clips of the run's
            `num_frames`, `height` and `width`.
        max_enlarge: factor by which clips that are smaller than every shape may be enlarged; 1 enlarges none.
        max_cut: share of a frame that may be cut off for the sake of the aspect ratio.
    """

    packed: ClassVar[bool]  # whether the clips of a batch may differ in shape

    def __init__(
        self,
        shapes: Sequence[Sequence[int]] | None,
        sides: Sequence[int] | None,
        aspects: Sequence[str],
        lengths: Sequence[int] | None,
        tokens: int | None,
        max_enlarge: float,
        max_cut: float,
    ) -> None:
        for shape in shapes or ():
            if len(shape) != 3:
                raise ValueError(f"data.shapes.shapes: {list(shape)} is no [num_frames, height, width]")
        for name, numbers in (
            ("shapes", [size for shape in shapes or () for size in shape]), ("sides", sides), ("lengths", lengths),
            ("tokens", None if tokens is None else [tokens]),
        ):  # fmt: skip
            if numbers is not None and any(number < 1 for number in numbers):
                raise ValueError(f"data.shapes.{name}: {min(numbers)} is too small; at least 1")
        for name, listed in (("shapes", shapes), ("sides", sides), ("aspects", aspects), ("lengths", lengths)):
            if listed is not None and len(listed) == 0:
                raise ValueError(f"data.shapes.{name}=[] holds nothing, so no clip would have a shape")
        if not max_enlarge >= 1:
            raise ValueError(f"data.shapes.max_enlarge={max_enlarge} must be at least 1, which enlarges no clip")
        if not 0 <= max_cut < 1:
            raise ValueError(f"data.shapes.max_cut={max_cut} must be from 0 to below 1")
        self.shapes = shapes
        self.sides = sides
        self.aspects = [_aspect(text) for text in aspects]
        self.lengths = lengths
        self.tokens = tokens
        self.max_enlarge = max_enlarge
        self.max_cut = max_cut

    @abstractmethod
    def batches(
        self, number: Ints, tokens: Ints, budget: int, ranks: int, first: int, rng: np.random.Generator
    ) -> Batches:
        """Batches of at most `budget` tokens out of draws in a random order.

        Args:
            number: (draws,) which shape each has.
            tokens: (shapes,) of a clip of each.
            ranks: batches that follow one another from every multiple of it on make a step, which should have one
                shape, or else about equally many tokens.
            first: number of the first batch, modulo `ranks`.
            rng: for the order of batches.
        """

    def listed(self, own: Shape, sizes: Sizes) -> list[Shape]:
        """The shapes, each once, from small to large. own: the run's `num_frames`, `height` and `width`.

        Raises:
            ValueError: one that codec and network cannot take.
        """
        if self.shapes is not None:
            written = [Shape(*shape) for shape in self.shapes]
            for shape in written:
                try:
                    sizes.tokens(*shape)
                except ValueError:
                    near = list(sizes.nearest(*shape))
                    raise ValueError(
                        f"data.shapes.shapes: {list(shape)} cannot be taken by codec and network; the nearest: {near}"
                    ) from None
            return sorted(set(written))
        lengths = (1, max(1, own.num_frames // 2), own.num_frames) if self.lengths is None else self.lengths
        sides = (math.sqrt(own.height * own.width),) if self.sides is None else self.sides
        roots = [math.sqrt(aspect) for aspect in self.aspects]
        return sorted(
            {
                Shape(*sizes.nearest(length, round(side / root), round(side * root)))
                for length in lengths
                for side in sides
                for root in roots
            }
        )

    def budget(self, own: Shape, clips: int, shapes: Sequence[Shape], sizes: Sizes) -> int:
        """Tokens of a batch at most. clips: of the run's own shape, where no number is given.

        Raises:
            ValueError: one clip has more.
        """
        budget = self.tokens if self.tokens is not None else clips * sizes.tokens(*own)
        largest = max(shapes, key=lambda shape: sizes.tokens(*shape))
        if (needed := sizes.tokens(*largest)) > budget:
            how = "" if self.tokens is not None else f" (those of {clips} clips of {own})"
            raise ValueError(
                f"a clip of {largest} has {needed} tokens, and a batch {budget} at most{how}:"
                f" data.shapes.tokens={needed} or more, or leave out the largest shapes"
            )
        return budget

    def of(self, clips: Clips, own: Shape, sizes: Sizes, what: str) -> Shaped:
        """Gives each clip its shape, leaves out those that have none, and says how many have which.

        Raises:
            ValueError: the clips do not know their sizes, or none fits.
        """
        if not isinstance(clips, SizedClips):
            raise ValueError(
                f"data.shapes wants clips of files, whose sizes are known: {type(clips).__name__} has one shape;"
                " data/shapes=one"
            )
        shapes = self.listed(own, sizes)
        number = assign(clips.extents(), shapes, self.max_enlarge, self.max_cut)
        left_out = {f"shape: {why}": int((number == code).sum()) for code, why in REASONS.items()}
        left_out = {why: count for why, count in left_out.items() if count}
        listed = ", ".join(f"{count} {why.removeprefix('shape: ')}" for why, count in left_out.items())
        if (number < 0).all():
            raise ValueError(
                f"none of {len(number)} clips {what} fits a shape ({listed}); there are {_few(shapes)}, which"
                f" data.shapes and data.fps say{'' if (number != UNKNOWN).any() else f'. {HOW_TO_KNOW}'}"
            )
        counts = np.bincount(number[number >= 0], minlength=len(shapes))
        most = sorted(((int(count), shape) for count, shape in zip(counts, shapes, strict=True) if count), reverse=True)
        said = ", ".join(f"{count} of {shape}" for count, shape in most[:SAID])
        if len(most) > SAID:
            said += f", {sum(count for count, _ in most[SAID:])} of {len(most) - SAID} other shapes"
        log.info("clips %s by frames, height and width: %s", what, said)
        if left_out:
            log.warning("%d of %d clips %s are left out: %s", (number < 0).sum(), len(number), what, listed)
        if UNKNOWN in number:
            log.warning("%s", HOW_TO_KNOW)
        tokens = np.array([sizes.tokens(*shape) for shape in shapes])
        return Shaped(clips.shaped(number, left_out), number[number >= 0], tuple(shapes), tokens)


HOW_TO_KNOW = (
    "scripts/validate_data.py manifest=IN out=OUT.csv (or root=FOLDER) writes a list with the columns height, width,"
    " fps and duration, for data.manifest=OUT.csv"
)


def assign(extents: Extents, shapes: Sequence[Shape], max_enlarge: float, max_cut: float) -> Ints:
    """The number of the shape that each clip is shown in (rows,), or one of `REASONS` where none fits: `Shapes` has the
    rule."""
    lengths = np.unique([shape.num_frames for shape in shapes])
    longest = np.searchsorted(lengths, extents.frames, side="right") - 1  # -1: shorter than every length
    longest = np.where(extents.images, 0, longest)
    known = (extents.heights > 0) & (extents.widths > 0) & (extents.images | (extents.frames >= 0))
    # Many clips have the same sizes: each kind is looked at once.
    key = ((longest + 1) * LARGEST + extents.heights.clip(0, LARGEST - 1)) * LARGEST + extents.widths.clip(
        0, LARGEST - 1
    )
    kinds, which = np.unique(np.where(known, key, -1), return_inverse=True)
    found = np.full(len(kinds), UNKNOWN)
    for begin in range(int(len(kinds) > 0 and kinds[0] < 0), len(kinds), ROWS):
        some = kinds[begin : begin + ROWS]
        frames = np.where(some // LARGEST**2 > 0, lengths[some // LARGEST**2 - 1], 0)
        found[begin : begin + ROWS] = _best(
            frames, some // LARGEST % LARGEST, some % LARGEST, shapes, max_enlarge, max_cut
        )
    return found[which]


def _best(
    frames: Ints, heights: Ints, widths: Ints, shapes: Sequence[Shape], max_enlarge: float, max_cut: float
) -> Ints:
    """`assign` of clips whose frames, heights and widths are known, all (n,), in a table of clips and shapes."""
    lengths, tall, wide = np.array(shapes, float).T  # (K,)
    fits_length = lengths <= frames[:, None]  # (n, K)
    spare = np.minimum(heights[:, None] / tall, widths[:, None] / wide)  # pixels of the clip for each of the shape
    apart = np.abs(np.log(widths / heights)[:, None] - np.log(wide / tall))  # of the aspect ratios
    fits_aspect = apart <= -math.log1p(-max_cut) + 1e-9  # cutting keeps a share of exp(-apart)
    area = np.broadcast_to(tall * wide, apart.shape)
    best = np.full(len(frames), CUT)
    for fits_size, prefer in ((spare >= 1, 1.0), (spare >= 1 / max_enlarge, -1.0)):
        fits = fits_length & fits_size & fits_aspect
        left = (best < 0) & fits.any(1)
        fits &= lengths == np.where(fits, lengths, 0).max(1, keepdims=True)
        fits &= apart <= np.where(fits, apart, np.inf).min(1, keepdims=True) + math.log(ALIKE)
        if prefer > 0:  # of those that do not enlarge the clip the largest, else the smallest
            fits &= area >= AS_LARGE * np.where(fits, area, 0).max(1, keepdims=True)
        else:
            fits &= area * AS_LARGE <= np.where(fits, area, np.inf).min(1, keepdims=True)
        best[left] = np.where(fits, apart, np.inf).argmin(1)[left]
    nothing = best < 0
    best[nothing & ~(fits_length & (spare >= 1 / max_enlarge)).any(1)] = SMALL
    best[nothing & ~fits_length.any(1)] = SHORT
    return best


def _aspect(text: str) -> float:
    """Width over height of "16:9"."""
    wide, colon, tall = text.partition(":")
    try:
        aspect = float(wide) / float(tall) if colon else -1.0
    except (ValueError, ZeroDivisionError):
        aspect = -1.0
    if not 0 < aspect < math.inf:
        raise ValueError(f"data.shapes.aspects: {text!r} is no aspect ratio; width:height, as '16:9'")
    return aspect


def _few(shapes: Sequence[Shape]) -> str:
    """Some of the shapes, for a message."""
    shown = [str(shape) for shape in shapes]
    return ", ".join(shown) if len(shown) <= 6 else f"{', '.join(shown[:3])}, ... {shown[-1]} ({len(shown)} in all)"
