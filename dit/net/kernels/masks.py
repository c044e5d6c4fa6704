"""What a query may attend to, said in words that every kernel can turn into its own form.

A dense bool mask over N tokens costs N^2 and shuts the fast kernels out, so the network passes one of these small
descriptions instead and each kernel picks the cheapest exact form. `dense` is the definition; kernels are tested
against it. In every kernel a query that may attend to nothing gets zeros, and sends no gradient. A mask that does not
fit q and k is an error (`check`), for it would broadcast or cut silently.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import ClassVar, Self

import torch
from torch import Tensor


class Mask(ABC):
    """Base of the masks. real: (B or 1, Nk) bool, which keys are real and not padding; None: all."""

    real: Tensor | None

    @abstractmethod
    def dense(self, device: torch.device | str) -> Tensor:
        """(B or 1, 1, Nq or 1, Nk) bool, True = may attend."""

    @property
    @abstractmethod
    def size(self) -> tuple[int | None, int]:
        """Queries (None: any number) and keys that it is for."""

    def rows(self, part: slice) -> Self:
        """The mask of some of the samples."""
        return self if self.real is None or len(self.real) == 1 else replace(self, real=self.real[part])  # type: ignore[type-var]

    def check(self, q: Tensor, k: Tensor) -> None:
        """Raises ValueError when the mask is for other shapes than these q and k."""
        queries, keys = self.size
        samples = None if self.real is None or len(self.real) == 1 else len(self.real)
        if queries not in (None, q.shape[2]) or keys != k.shape[2] or samples not in (None, len(k)):
            raise ValueError(
                f"{type(self).__name__} is for {queries or 'any'} queries on {keys} keys of {samples or 'any'} samples,"
                f" not for {q.shape[2]} on {k.shape[2]} of {len(k)}"
            )


@dataclass(frozen=True, eq=False)
class KeyPadding(Mask):
    """Keys that are real and not padding, e.g. the tokens of captions of different lengths.

    real: (B, Nk) bool, True = real key. never_empty: the caller knows that every sample has a real key (there is video
    among them), so that kernels need not look out for one that has none; where that is not true, they give nonsense.
    """

    real: Tensor
    never_empty: bool = False

    def __post_init__(self) -> None:
        if self.real.dtype != torch.bool or self.real.dim() != 2:
            raise ValueError(
                f"KeyPadding.real is {self.real.dtype} of shape {tuple(self.real.shape)}; "
                "it must be bool (batch, keys), True = real key"
            )

    @property
    def size(self) -> tuple[None, int]:
        return None, self.real.shape[1]

    def dense(self, device: torch.device | str) -> Tensor:
        return self.real.to(device)[:, None, None, :]


@dataclass(frozen=True)
class Spans(Mask):
    """Queries in runs, one after another; a run attends to one span of keys, to all of it and to nothing else.

    lengths: queries of each run, at least 1. keys: (start, stop) of each run's span; the last one ends with the keys.
    """

    lengths: tuple[int, ...]
    keys: tuple[tuple[int, int], ...]
    real: None = field(default=None, init=False, repr=False)  # all keys are

    @classmethod
    def block_causal(cls, frames: int, tokens_per_frame: int, block: int) -> Self:
        """Attention is full inside a block of frames and causal between blocks (SkyReels-V2, arXiv 2504.13074).

        The tokens go frame by frame. block: frames of a block; the last one may be shorter. 1 is causal frame by frame.
        """
        if min(frames, tokens_per_frame, block) < 1:
            raise ValueError(f"frames={frames}, tokens_per_frame={tokens_per_frame}, block={block}: each at least 1")
        size, total = block * tokens_per_frame, frames * tokens_per_frame
        stops = [min(start + size, total) for start in range(0, total, size)]
        lengths = [stop - start for start, stop in zip(range(0, total, size), stops, strict=True)]
        return cls(tuple(lengths), tuple((0, stop) for stop in stops))

    @property
    def size(self) -> tuple[int, int]:
        return sum(self.lengths), self.keys[-1][1]

    def bounds(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """First key of each query, and the one behind its last, (Nq,) int64 each."""
        lengths = torch.tensor(self.lengths, device=device)
        first, stop = torch.tensor(self.keys, device=device).repeat_interleave(lengths, dim=0).unbind(1)
        return first, stop

    def dense(self, device: torch.device | str) -> Tensor:
        (first, stop), key = self.bounds(device), torch.arange(self.size[1], device=device)
        return ((first[:, None] <= key) & (key < stop[:, None]))[None, None]


@dataclass(frozen=True, eq=False)
class ByCoordinates(Mask):
    """Tokens anywhere in a sequence, told apart by three numbers: clip, group and step.

    A query attends to the keys of its own clip and group (ANY: of all groups; such a key is read by all groups) whose
    step is not later than its own. query, key: (3, Nq) and (3, Nk) int64. real: (B, Nk) bool, which keys are real and
    not padding; None: all.
    """

    ANY: ClassVar[int] = -(2**62)

    query: Tensor
    key: Tensor
    real: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        return self.query.shape[1], self.key.shape[1]

    def allowed(self, query: Tensor | list[Tensor], key: Tensor | list[Tensor]) -> Tensor:
        """Three numbers of queries and of keys, which broadcast -> bool (...), padding left aside."""
        same_group = (query[1] == key[1]) | (query[1] == self.ANY) | (key[1] == self.ANY)
        return (query[0] == key[0]) & same_group & (query[2] >= key[2])

    def dense(self, device: torch.device | str) -> Tensor:
        allowed = self.allowed(self.query.to(device)[:, :, None], self.key.to(device)[:, None, :])[None, None]
        return allowed if self.real is None else allowed & self.real.to(device)[:, None, None, :]


Parts = tuple[tuple[int, ...], ...]


@dataclass(eq=False)  # not frozen: torch.compile would guard every length of a mask that it only passes on
class Packed(Mask):
    """Tokens of K clips in one sequence; each attends to all tokens of its own clip (NaViT, arXiv 2307.06304).

    query, key: the parts of a sequence, one behind another, each with a run of tokens of every clip, in the clips'
    order: the lengths of these runs. ((4, 6),) are two clips one after the other, and in ((4, 6), (2, 2)) two tokens of
    text of each follow them. real: (B, Nk) bool, which keys are real and not padding; None: all. never_empty: as in
    `KeyPadding`, of each clip.
    """

    query: Parts
    key: Parts
    real: Tensor | None = None
    never_empty: bool = False

    @classmethod
    def of(cls, lengths: Sequence[int], key_lengths: Sequence[int] | None = None, real: Tensor | None = None) -> Self:
        """Clips one after another. lengths: query tokens of each. key_lengths: its key tokens, for cross-attention
        (None: the same tokens)."""
        return cls((tuple(lengths),), (tuple(lengths if key_lengths is None else key_lengths),), real)

    def __post_init__(self) -> None:
        counts = {len(part) for part in (*self.query, *self.key)}
        if len(counts) != 1:
            raise ValueError(f"parts {self.query} and {self.key} are of {sorted(counts)} clips; each has a run of all")
        if min(map(min, self.query)) < 1 or min(map(min, self.key)) < 0:
            raise ValueError(f"packed clips have at least 1 query and 0 keys, not {self.query} on {self.key}")

    @property
    def size(self) -> tuple[int, int]:
        return sum(map(sum, self.query)), sum(map(sum, self.key))

    @property
    def groups(self) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
        """Clips side by side whose runs are as long: how many, and the lengths of one clip's runs of queries and keys,
        part by part."""
        each = zip(zip(*self.query, strict=True), zip(*self.key, strict=True), strict=True)
        return [(len(list(alike)), *lengths) for lengths, alike in groupby(each)]

    def clips(self, parts: Parts, device: torch.device | str) -> Tensor:
        """Number of the clip of each token of `query` or `key`, int64. Few numbers of each go to the device, and the
        host does not wait for it."""
        numbers = torch.arange(len(parts[0]), device=device)
        counts = [(torch.tensor(part).to(device, non_blocking=True), sum(part)) for part in parts]
        return torch.cat([numbers.repeat_interleave(count, output_size=total) for count, total in counts])

    def by_coordinates(self, device: torch.device | str) -> ByCoordinates:
        """The same as a mask of tokens anywhere."""
        of_clip = (self.clips(parts, device) for parts in (self.query, self.key))
        query, key = (torch.stack([clip, torch.zeros_like(clip), torch.zeros_like(clip)]) for clip in of_clip)
        return ByCoordinates(query, key, self.real)

    def dense(self, device: torch.device | str) -> Tensor:
        return self.by_coordinates(device).dense(device)
