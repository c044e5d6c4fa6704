"""What a query may attend to, said in words that every kernel can turn into its own form.

A dense bool mask over N tokens costs N^2 and shuts the fast kernels out, so the network passes one of these small
descriptions instead and each kernel picks the cheapest exact form. `dense` is the definition; kernels are tested
against it. In every kernel a query that may attend to nothing gets zeros, and sends no gradient. A mask that does not
fit q and k is an error (`check`), for it would broadcast or cut silently.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
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

    @classmethod
    def of_clips(cls, query: Tensor, key: Tensor, real: Tensor | None) -> Self:
        """Clips alone. query, key: (Nq,) and (Nk,) int64, the clip of each token."""
        query, key = (torch.stack([clip, torch.zeros_like(clip), torch.zeros_like(clip)]) for clip in (query, key))
        return cls(query, key, real)

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
    def alike(self) -> list[int]:
        """How many clips that stand side by side have runs of equal lengths, group by group."""
        each = zip(zip(*self.query, strict=True), zip(*self.key, strict=True), strict=True)
        return [len(list(group)) for _, group in groupby(each)]

    def batches(self, x: Tensor, parts: Parts, counts: Sequence[int]) -> list[Tensor]:
        """Tokens of the sequence (B, N, ...) -> for each group of clips (B * clips, tokens of a clip, ...).

        parts: `query` or `key`. counts: clips of each group, which stand side by side and have runs of equal lengths.
        """
        lengths = of_one_clip(parts, counts)
        sizes = [count * own[i] for i in range(len(parts)) for count, own in zip(counts, lengths, strict=True)]
        # split, not slices: its backward is one cat, that of a slice fills the whole with zeros
        pieces = x.split(sizes, dim=1)
        made = []
        for group, (count, own) in enumerate(zip(counts, lengths, strict=True)):
            runs = zip(pieces[group :: len(counts)], own, strict=True)
            clips = [piece.unflatten(1, (count, length)) for piece, length in runs]  # (B, clips, tokens of a run, ...)
            made.append((torch.cat(clips, dim=2) if len(clips) > 1 else clips[0]).flatten(0, 1))
        return made

    def sequence(self, batches: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
        """The way back for what queries have read: (B, N, ...)."""
        runs: list[list[Tensor]] = [[] for _ in self.query]
        for x, count, lengths in zip(batches, counts, of_one_clip(self.query, counts), strict=True):
            clips = x.unflatten(0, (-1, count)).split(lengths, dim=2)  # (B, clips, tokens of a run, ...) each
            for part, run in zip(runs, clips, strict=True):
                part.append(run.flatten(1, 2))
        return torch.cat([run for part in runs for run in part], dim=1)

    def clips(self, parts: Parts, device: torch.device | str) -> Tensor:
        """Number of the clip of each token of `query` or `key`, int64. Few numbers of each go to the device, and the
        host does not wait for it."""
        numbers = torch.arange(len(parts[0]), device=device)
        counts = [(torch.tensor(part).to(device, non_blocking=True), sum(part)) for part in parts]
        return torch.cat([numbers.repeat_interleave(count, output_size=total) for count, total in counts])

    def by_coordinates(self, device: torch.device | str) -> ByCoordinates:
        """The same as a mask of tokens anywhere."""
        return ByCoordinates.of_clips(self.clips(self.query, device), self.clips(self.key, device), self.real)

    def dense(self, device: torch.device | str) -> Tensor:
        return self.by_coordinates(device).dense(device)


def of_one_clip(parts: Parts, counts: Sequence[int]) -> list[list[int]]:
    """Of each group of clips: the lengths of one clip's runs, part by part."""
    return [[part[end - 1] for part in parts] for end in accumulate(counts)]
