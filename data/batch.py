"""What travels between data and training: an item for each clip, a `Batch` for each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

NO_CLASS = -1

# Of one clip, as a column of a manifest holds it: a text, a number, numbers, or numbers of each frame that is shown.
Value = str | float | list[float] | list[list[float]]
Values = list[str] | Tensor  # of B clips: texts, or a tensor (B, ...)


class Shape(NamedTuple):
    """Of a clip as it is shown, in pixels."""

    num_frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.num_frames}x{self.height}x{self.width}"


class Excerpt(NamedTuple):
    """Which frames of its file a clip shows: their numbers, some of them maybe twice, of how many there are."""

    frames: Sequence[int]
    of: int


class Skipped(NamedTuple):
    """A clip that could not be read, and why."""

    id: str
    why: str


class Item(TypedDict):
    """One clip as a dataset returns it."""

    pixels: Tensor  # uint8 (3, F, H, W)
    caption: str
    id: str
    fps: float
    label: NotRequired[int]  # a class of the dataset's `classes`, or NO_CLASS
    columns: NotRequired[Mapping[str, Value]]  # what else is known of it, by name; the same names in all items
    skipped: NotRequired[tuple[Skipped, ...]]  # clips that this one stands in for
    repeated: NotRequired[int]  # frames that are shown again, since the file has fewer a second
    excerpt: NotRequired[Excerpt]  # where columns have a value for each frame of the file
    encoded: NotRequired[Mapping[str, Tensor]]  # as a latent cache holds it; `pixels` are then few frames
    num_frames: NotRequired[int]  # of the clip, where `pixels` are fewer


@runtime_checkable
class Clips(Protocol):
    """A map-style dataset: item `index` is the same bytes in any process, in any order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


@runtime_checkable
class RedrawnClips(Clips, Protocol):
    """Clips that look different in each epoch (another excerpt, another crop)."""

    def draw(self, index: int, epoch: int) -> Item: ...


def shown(clips: Clips, index: int, epoch: int) -> Item:
    """Clip `index` in its `epoch`-th showing; most look the same in all."""
    return clips.draw(index, epoch) if isinstance(clips, RedrawnClips) else clips[index]


@runtime_checkable
class ReadableClips(Clips, Protocol):
    """Clips that say of each whether it can be read: BadClip is raised in the place of a stand-in. shape: as
    `data.shapes.SizedClips` are asked for one."""

    def read(self, index: int, epoch: int, shape: Shape | None) -> Item: ...


@runtime_checkable
class DescribedClips(Clips, Protocol):
    """Clips of which all but `pixels` and `repeated` is known without reading a file."""

    def without_pixels(self, index: int, epoch: int, excerpt: Excerpt | None = None) -> Item:
        """excerpt: what was shown, which `WithFrameColumns` need."""

    def alike(self, index: int) -> Sequence[int]:
        """Which clips may stand in for one."""


@runtime_checkable
class WithIds(Clips, Protocol):
    """Clips of a list: what each is called, in an Arrow array of texts."""

    def ids(self) -> Any: ...


@runtime_checkable
class WithMaking(Clips, Protocol):
    """Clips that say in a sentence how pixels are made of their files."""

    making: str


@runtime_checkable
class CaptionedClips(Clips, Protocol):
    """Clips whose captions can be asked for without decoding."""

    def captions(self) -> Iterator[str]: ...


@runtime_checkable
class Classified(Protocol):
    """Clips that have a class each: item["label"] is a position in `classes`, the names."""

    classes: Sequence[str]


@runtime_checkable
class WithColumns(Protocol):
    """Clips of which more is known: item["columns"] has these names."""

    columns: Sequence[str]


@runtime_checkable
class WithFrameColumns(WithColumns, Protocol):
    """Clips of files, of whose `columns` these have a value for each frame of the file. An item has those of the frames
    that it shows."""

    frame_columns: Sequence[str]


@runtime_checkable
class WithSpans(WithColumns, Protocol):
    """Clips that know between which numbers the values of a column lie."""

    def span(self, column: str) -> tuple[float, float] | None:
        """The least and the greatest; None where there are no numbers."""
        ...


@runtime_checkable
class Documented(Protocol):
    """Clips that can say whose they are: plain values for the data card, `rights` (`data.rights.ledger`) among them."""

    def document(self) -> Mapping[str, Any]: ...


@runtime_checkable
class WithImages(Clips, Protocol):
    """Clips among which may be images, shown for a number of frames of their own."""

    image_frames: int


class Sizes(Protocol):
    """What codec and network make of clips, in pixels."""

    def tokens(self, num_frames: int, height: int, width: int) -> int:
        """Tokens of a clip; ValueError, with the nearest legal sizes, for one that cannot be taken."""
        ...

    def nearest(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The nearest clip that can be taken, each size for itself."""
        ...


@runtime_checkable
class Measured(Protocol):
    """Data whose clips may have several shapes: what the network makes of them is told before a run begins."""

    def measure(self, sizes: Sizes) -> None: ...

    def shapes_of(self, clips: Clips) -> list[Shape]:
        """All shapes that batches of these clips may have."""
        ...

    def rows(self, shape: Shape) -> int:
        """Clips of a shape for which a training step has room, on each process."""
        ...


@runtime_checkable
class SharesMachine(Protocol):
    """Data that is told how many training processes load it on this machine, each for itself."""

    def share_machine(self, trainers: int) -> None: ...


@runtime_checkable
class NamedClips(Clips, Protocol):
    """Clips that can say in short which they are; of others the config says it."""

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Batch:
    """Clips of one step.

    Args:
        pixels: float32 (B, 3, F, H, W) in [-1, 1], clips of one shape; or, in a packed batch, K tensors (3, F, H, W),
            each clip in its own shape, which the network takes as one sequence (`is_packed`). Here B is K then.
        ids: B names that find the clip again in its dataset.
        values: what else is known of the clips, by name: `caption`, B texts, "" where a clip has none; `fps`, float32
            (B,), frames a second; `label`, int64 (B,), the class of each clip, `NO_CLASS` where it has none, absent
            where the data has no classes; and the columns that the data was asked for. One with a value for each frame
            that is shown is (B, F) or (B, F, n); in a packed batch F is that of the longest clip, nan behind others.
        position: samples that all ranks together have drawn from the training stream once this batch is used; it
            travels with the batch, so that batches which were loaded ahead do not count as used.
        batches_before: of the epoch that this position lies in, where clips have several shapes; else 0.
        fillers: of a validation batch, how many clips at its end belong to other ranks and must not count again.
        skipped: clips that could not be read while this batch was made.
        slow: ids of clips that show a tenth of their frames or more again.
        encoded: of clips out of a latent cache what was kept of them (`data/latents`), of each of `groups`: name ->
            (n, ...). Their `pixels` are then few frames, 0 to 2 of them: none, the first, or the first and the last.
        lengths: frames of each clip, where `pixels` hold fewer.
    """

    pixels: Tensor | tuple[Tensor, ...]
    ids: list[str]
    values: Mapping[str, Values]
    position: int = 0
    batches_before: int = 0
    fillers: int = 0
    skipped: tuple[Skipped, ...] = ()
    slow: tuple[str, ...] = ()
    encoded: tuple[Mapping[str, Tensor], ...] = ()
    lengths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_packed(self) -> bool:
        """Whether each clip has a shape of its own."""
        return isinstance(self.pixels, tuple)

    @property
    def clips(self) -> tuple[Tensor, ...]:
        """Each clip's pixels, (3, F, H, W)."""
        return self.pixels if isinstance(self.pixels, tuple) else self.pixels.unbind(0)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of each clip, also where `pixels` hold a part of it."""
        shapes = tuple(Shape(*clip.shape[1:]) for clip in self.clips)
        whole = zip(shapes, self.lengths, strict=False)
        return tuple(shape._replace(num_frames=length) for shape, length in whole) or shapes

    @property
    def groups(self) -> tuple[Tensor, ...]:
        """Pixels of clips of one shape that stand side by side, (n, 3, F, H, W) each, in the clips' order."""
        if not isinstance(self.pixels, tuple):
            return (self.pixels,)
        alike = groupby(zip(self.shapes, self.pixels, strict=True), key=lambda each: each[0])
        return tuple(torch.stack([clip for _, clip in group]) for _, group in alike)

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.clips[0].device

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch with its tensors on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the loader's pinning thread calls this."""
        return self._each(Tensor.pin_memory)

    def one(self, index: int) -> Batch:
        """Clip `index` as a batch of its own, which is not packed."""
        row = slice(index, index + 1)
        values = {name: self._of_clip(each, index) for name, each in self.values.items()}
        pixels = self.pixels[index][None] if isinstance(self.pixels, tuple) else self.pixels[row]
        encoded, lengths = self._encoded(index), self.lengths[row]
        return replace(self, pixels=pixels, ids=self.ids[row], values=values, encoded=encoded, lengths=lengths)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {name: change(each) if isinstance(each, Tensor) else each for name, each in self.values.items()}
        pixels = self.pixels
        made = tuple(change(each) for each in pixels) if isinstance(pixels, tuple) else change(pixels)
        encoded = tuple({name: change(each) for name, each in group.items()} for group in self.encoded)
        return replace(self, pixels=made, values=values, encoded=encoded)

    def _of_clip(self, values: Values, index: int) -> Values:
        """The value of clip `index`, without what stands behind its frames in a pack."""
        value, own = values[index : index + 1], self.shapes[index].num_frames
        if self.is_packed and isinstance(value, Tensor) and value.dim() > 1 and value[:, own:].isnan().all():
            return value[:, :own]
        return value

    def _encoded(self, index: int) -> tuple[Mapping[str, Tensor], ...]:
        """What is kept of clip `index`, alone."""
        for group in self.encoded:
            count = len(next(iter(group.values())))
            if index < count:
                return ({name: each[index : index + 1] for name, each in group.items()},)
            index -= count
        return ()


def to_float(pixels: Tensor) -> Tensor:
    """uint8 [0, 255] to float32 [-1, 1], any shape."""
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def collate(items: Sequence[Item], packed: bool = False) -> Batch:
    """Stacks items and turns their pixels into floats, once for the batch.

    packed: makes a packed batch, of clips of any shapes. Clips of one shape are put side by side, since codec and loss
    take such clips together (`Batch.groups`); otherwise the order stays.

    Raises:
        ValueError: clips of different shapes where they are not packed, naming two of them.
    """
    if packed:
        shapes = list(dict.fromkeys(map(shape_of, items)))
        items = sorted(items, key=lambda item: shapes.index(shape_of(item)))
    first = items[0]
    for item in items:
        if shape_of(item) != shape_of(first) and not packed:
            raise ValueError(
                f"clips of one batch differ in shape: {first['id']} is {(3, *shape_of(first))}, "
                f"{item['id']} is {(3, *shape_of(item))}; the dataset must resize to one (3, F, H, W)"
            )
    values: dict[str, Values] = {
        "caption": [item["caption"] for item in items],
        "fps": torch.tensor([item["fps"] for item in items], dtype=torch.float32),
    }
    if "label" in first:
        values["label"] = torch.tensor([item.get("label", NO_CLASS) for item in items])
    for name in first.get("columns", {}):
        values[name] = _column(name, items, packed)
    return Batch(
        pixels=_packed(items) if packed else to_float(torch.stack([item["pixels"] for item in items])),
        ids=[item["id"] for item in items],
        values=values,
        skipped=tuple(skip for item in items for skip in item.get("skipped", ())),
        slow=tuple(item["id"] for item in items if 10 * item.get("repeated", 0) >= shape_of(item).num_frames),
        encoded=tuple(_stacked(list(group)) for _, group in groupby(items, key=shape_of) if "encoded" in first),
        lengths=tuple(shape_of(item).num_frames for item in items if "encoded" in first),
    )


def shape_of(item: Item) -> Shape:
    """Of a clip, also where `pixels` hold a part of it."""
    _, frames, height, width = item["pixels"].shape
    return Shape(item.get("num_frames", frames), height, width)


def _stacked(items: Sequence[Item]) -> dict[str, Tensor]:
    """What is kept of clips of one shape."""
    kept = [item["encoded"] for item in items]
    return {name: torch.stack([each[name] for each in kept]) for name in kept[0]}


def _packed(items: Sequence[Item]) -> tuple[Tensor, ...]:
    """The clips' pixels, parts of one tensor: a worker then hands over one piece of shared memory, not a file each."""
    pixels = [item["pixels"] for item in items]
    parts = to_float(torch.cat([each.flatten() for each in pixels])).split([each.numel() for each in pixels])
    return tuple(part.view(each.shape) for part, each in zip(parts, pixels, strict=True))


def _column(name: str, items: Sequence[Item], packed: bool) -> Values:
    """One column of all items: texts as they are, numbers as float32 (B,), lists of n numbers as (B, n), and n numbers
    for each frame as (B, F, n), with nan behind the frames of shorter clips of a pack."""
    values = [item["columns"][name] for item in items]
    if isinstance(values[0], str):
        return [str(value) for value in values]
    try:
        if packed and _are_of_frames(values, items):
            return pad_sequence([torch.tensor(each, dtype=torch.float32) for each in values], True, float("nan"))
        return torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"column {name}: values of one batch differ in kind or length: {str(values[:4]):.200}; give every clip"
            " equally many numbers, or a text"
        ) from None


def _are_of_frames(values: Sequence[Value], items: Sequence[Item]) -> bool:
    """Whether there is a value for each frame that is shown."""
    return all(
        isinstance(value, list) and len(value) == shape_of(item).num_frames
        for value, item in zip(values, items, strict=True)
    )
