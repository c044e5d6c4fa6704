"""What travels between data and training: an item for each clip, a `Batch` for each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, NotRequired, Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor

NO_CLASS = -1


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
    skipped: NotRequired[tuple[Skipped, ...]]  # clips that this one stands in for
    repeated: NotRequired[int]  # frames that are shown again, since the file has fewer a second


@runtime_checkable
class Clips(Protocol):
    """A map-style dataset: item `index` is the same bytes in any process, in any order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


@runtime_checkable
class RedrawnClips(Clips, Protocol):
    """Clips that look different in each epoch (another excerpt, another crop)."""

    def draw(self, index: int, epoch: int) -> Item: ...


@runtime_checkable
class CaptionedClips(Clips, Protocol):
    """Clips whose captions can be asked for without decoding."""

    def captions(self) -> Iterator[str]: ...


@runtime_checkable
class Classified(Protocol):
    """Clips that have a class each: item["label"] is a position in `classes`, the names."""

    classes: Sequence[str]


@runtime_checkable
class NamedClips(Clips, Protocol):
    """Clips that can say in short which they are; of others the config says it."""

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Batch:
    """Clips of one step.

    Args:
        pixels: float32 (B, 3, F, H, W) in [-1, 1].
        captions: B captions; "" where a clip has none.
        ids: B names that find the clip again in its dataset.
        fps: float32 (B,), frames a second.
        position: samples that all ranks together have drawn from the training stream once this batch is used; it
            travels with the batch, so that batches which were loaded ahead do not count as used.
        skipped: clips that could not be read while this batch was made.
        slow: ids of clips that show a tenth of their frames or more again.
        labels: int64 (B,), the class of each clip, `NO_CLASS` where it has none; None: the data has no classes.
    """

    pixels: Tensor
    captions: list[str]
    ids: list[str]
    fps: Tensor
    position: int = 0
    skipped: tuple[Skipped, ...] = ()
    slow: tuple[str, ...] = ()
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=non_blocking),
            fps=self.fps.to(device, non_blocking=non_blocking),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the loader's pinning thread calls this."""
        labels = None if self.labels is None else self.labels.pin_memory()
        return replace(self, pixels=self.pixels.pin_memory(), fps=self.fps.pin_memory(), labels=labels)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 [0, 255] to float32 [-1, 1], any shape."""
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def collate(items: Sequence[Item]) -> Batch:
    """Stacks items and turns their pixels into floats, once for the batch.

    Raises:
        ValueError: clips of different shapes, naming two of them.
    """
    first = items[0]
    for item in items:
        if item["pixels"].shape != first["pixels"].shape:
            raise ValueError(
                f"clips of one batch differ in shape: {first['id']} is {tuple(first['pixels'].shape)}, "
                f"{item['id']} is {tuple(item['pixels'].shape)}; the dataset must resize to one (3, F, H, W)"
            )
    return Batch(
        pixels=to_float(torch.stack([item["pixels"] for item in items])),
        captions=[item["caption"] for item in items],
        ids=[item["id"] for item in items],
        fps=torch.tensor([item["fps"] for item in items], dtype=torch.float32),
        skipped=tuple(skip for item in items for skip in item.get("skipped", ())),
        slow=tuple(item["id"] for item in items if 10 * item.get("repeated", 0) >= item["pixels"].shape[1]),
        labels=torch.tensor([item.get("label", NO_CLASS) for item in items]) if "label" in first else None,
    )
