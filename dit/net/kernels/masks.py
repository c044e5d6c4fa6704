"""What a query may attend to, said in words that every kernel can turn into its own form.

A dense bool mask over N tokens costs N^2 and shuts the fast kernels out, so the network passes one of these small
descriptions instead and each kernel picks the cheapest exact form. `dense` is the definition; kernels are tested
against it. In every kernel a query that may attend to nothing gets zeros, and sends no gradient. A mask that does not
fit q and k is an error (`check`), for it would broadcast or cut silently.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class KeyPadding:
    """Keys that are real and not padding, e.g. the tokens of captions of different lengths.

    keep: (B, Nk) bool, True = real key. never_empty: the caller knows that every sample has a real key (there is video
    among them), so that kernels need not look out for one that has none; where that is not true, they give nonsense.
    """

    keep: Tensor
    never_empty: bool = False

    def __post_init__(self) -> None:
        if self.keep.dtype != torch.bool or self.keep.dim() != 2:
            raise ValueError(
                f"KeyPadding.keep is {self.keep.dtype} of shape {tuple(self.keep.shape)}; "
                "it must be bool (batch, keys), True = real key"
            )

    def dense(self, device: torch.device | str) -> Tensor:
        """(B, 1, 1, Nk) bool, True = may attend."""
        return self.keep.to(device)[:, None, None, :]

    def rows(self, part: slice) -> "KeyPadding":
        """The mask of some of the samples."""
        return self if len(self.keep) == 1 else KeyPadding(self.keep[part], self.never_empty)

    def check(self, q: Tensor, k: Tensor) -> None:
        """Raise ValueError when the mask is for other shapes than these q and k."""
        if self.keep.shape[1] != k.shape[2] or self.keep.shape[0] not in (1, k.shape[0]):
            raise ValueError(f"KeyPadding is for {tuple(self.keep.shape)} keys, not for {(k.shape[0], k.shape[2])}")


@dataclass(frozen=True)
class BlockCausal:
    """Blocks of frames in time: attention is full inside a block and causal between blocks (frame-major tokens).

    frames: latent frames F; tokens_per_frame: H*W tokens of one frame; block: frames in a block. The last block may be
    shorter. block=1 is frame-causal attention, block=frames is full attention. Queries and keys are the same tokens.
    As in SkyReels-V2 (arXiv 2504.13074) and diffusion forcing (arXiv 2407.01392).
    """

    frames: int
    tokens_per_frame: int
    block: int

    def __post_init__(self) -> None:
        for name in ("frames", "tokens_per_frame", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"BlockCausal.{name}={getattr(self, name)} must be at least 1")

    @property
    def num_tokens(self) -> int:
        return self.frames * self.tokens_per_frame

    @property
    def block_tokens(self) -> int:
        """Tokens of one whole block."""
        return self.block * self.tokens_per_frame

    def spans(self) -> list[tuple[int, int]]:
        """(start, stop) tokens of each block. Its queries may attend to the keys [0, stop), and to all of them."""
        starts = range(0, self.num_tokens, self.block_tokens)
        return [(start, min(start + self.block_tokens, self.num_tokens)) for start in starts]

    def dense(self, device: torch.device | str) -> Tensor:
        """(1, 1, N, N) bool, True = may attend."""
        block = torch.arange(self.num_tokens, device=device) // self.block_tokens
        return (block[:, None] >= block[None, :])[None, None]

    def rows(self, part: slice) -> "BlockCausal":
        """The mask of some of the samples: that of all."""
        return self

    def check(self, q: Tensor, k: Tensor) -> None:
        """Raise ValueError when the mask is for other shapes than these q and k."""
        if not q.shape[2] == k.shape[2] == self.num_tokens:
            raise ValueError(f"BlockCausal is for {self.num_tokens} tokens, not for {q.shape[2]} on {k.shape[2]}")


@dataclass(frozen=True)
class Packed:
    """Several samples one after another in one sequence; each attends only to itself (block-diagonal).

    lengths: query tokens of each sample; key_lengths: key tokens of each sample, for cross-attention (None: the same as
    `lengths`, self-attention). Both cover their whole sequence: sum(lengths) = Nq, sum(key_lengths) = Nk. A sample may
    be without keys (no text), but not without queries. Packing as in NaViT (arXiv 2307.06304).
    """

    lengths: tuple[int, ...]
    key_lengths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.lengths) != len(self.keys):
            raise ValueError(
                f"Packed has {len(self.lengths)} query and {len(self.keys)} key lengths; give one of each a sample"
            )
        if min(self.lengths, default=0) < 1 or min(self.keys) < 0:
            raise ValueError(f"Packed needs samples of at least 1 query and 0 keys, not {self.lengths} on {self.keys}")

    @property
    def keys(self) -> tuple[int, ...]:
        """Key tokens of each sample."""
        return self.lengths if self.key_lengths is None else self.key_lengths

    def dense(self, device: torch.device | str) -> Tensor:
        """(1, 1, Nq, Nk) bool, True = may attend."""
        return (self.query_samples(device)[:, None] == self.key_samples(device)[None, :])[None, None]

    def query_samples(self, device: torch.device | str) -> Tensor:
        """(Nq,) int64: which sample each query belongs to."""
        return _repeat_index(self.lengths, device)

    def key_samples(self, device: torch.device | str) -> Tensor:
        """(Nk,) int64: which sample each key belongs to."""
        return _repeat_index(self.keys, device)

    def rows(self, part: slice) -> "Packed":
        """The mask of some of the samples: that of all."""
        return self

    def check(self, q: Tensor, k: Tensor) -> None:
        """Raise ValueError when the mask is for other shapes than these q and k."""
        if (sum(self.lengths), sum(self.keys)) != (q.shape[2], k.shape[2]):
            raise ValueError(
                f"Packed is for {sum(self.lengths)} tokens on {sum(self.keys)}, not for {q.shape[2]} on {k.shape[2]}"
            )


@dataclass(frozen=True, eq=False)
class ByCoordinates:
    """Tokens anywhere in a sequence, told apart by three numbers: clip, group and step.

    A query attends to the keys of its own clip and group (ANY: of all groups; such a key is read by all groups) whose
    step is not later than its own. query, key: (3, Nq) and (3, Nk) int64. real: (B, Nk) bool, which keys are real and
    not padding; None: all.
    """

    ANY: ClassVar[int] = -(2**62)

    query: Tensor
    key: Tensor
    real: Tensor | None

    def allowed(self, query: Tensor | list[Tensor], key: Tensor | list[Tensor]) -> Tensor:
        """Three numbers of queries and of keys, which broadcast -> bool (...), padding left aside."""
        same_group = (query[1] == key[1]) | (query[1] == self.ANY) | (key[1] == self.ANY)
        return (query[0] == key[0]) & same_group & (query[2] >= key[2])

    def dense(self, device: torch.device | str) -> Tensor:
        """(1 or B, 1, Nq, Nk) bool, True = may attend."""
        allowed = self.allowed(self.query.to(device)[:, :, None], self.key.to(device)[:, None, :])[None, None]
        return allowed if self.real is None else allowed & self.real.to(device)[:, None, None, :]

    def rows(self, part: slice) -> "ByCoordinates":
        """The mask of some of the samples."""
        return self if self.real is None or len(self.real) == 1 else replace(self, real=self.real[part])

    def check(self, q: Tensor, k: Tensor) -> None:
        """Raise ValueError when the mask is for other shapes than these q and k."""
        if (self.query.shape[1], self.key.shape[1]) != (q.shape[2], k.shape[2]):
            raise ValueError(
                f"ByCoordinates is for {self.query.shape[1]} tokens on {self.key.shape[1]}, not for {q.shape[2]} on"
                f" {k.shape[2]}"
            )


def _repeat_index(lengths: tuple[int, ...], device: torch.device | str) -> Tensor:
    index = torch.arange(len(lengths), device=device)
    return index.repeat_interleave(torch.tensor(lengths, dtype=torch.long, device=device))


Mask: TypeAlias = KeyPadding | BlockCausal | Packed | ByCoordinates
