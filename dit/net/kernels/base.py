"""What every attention kernel promises to the network."""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from dit.net.kernels.masks import Mask


class Kernel(Protocol):
    """Attention softmax(q k^T / sqrt(head_dim)) v under a mask.

    Kernels are hashable and compare by value. They compute in the dtype of v: under autocast a normalised q or k may
    arrive in fp32.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None) -> Tensor:
        """q (B, heads, Nq, head_dim), k and v (B, heads, Nk, head_dim) -> (B, heads, Nq, head_dim)."""
        ...

    def unfit(self, device_type: str, mask_type: type[Mask] | None) -> str | None:
        """Why `auto` should pass this kernel by even where it runs, in one line; None if it should not."""
        ...


class Stateless(ABC):
    """Base of kernels without state: equal to every other of its class, so that all layers share one answer of `auto`.

    Not a dataclass: OmegaConf takes those for configs when they stand in a list.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None) -> Tensor:
        """q (B, heads, Nq, head_dim), k and v (B, heads, Nk, head_dim) -> (B, heads, Nq, head_dim)."""
        if mask is not None:
            mask.check(q, k)
        return self.attend(q.to(v.dtype), k.to(v.dtype), v, mask)

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
        """The same for a mask that fits, and q, k and v of one dtype."""

    def unfit(self, device_type: str, mask_type: type[Mask] | None) -> str | None:
        """As `Kernel.unfit`; fits everywhere unless a kernel says otherwise."""
        return None

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


class KernelError(ValueError):
    """A kernel that was named cannot run on tensors like q; the message says what to do, `why` only the cause."""

    def __init__(self, name: str, q: Tensor, why: str) -> None:
        super().__init__(
            f"kernel={name} cannot run on {q.device.type} with {short(q.dtype)}, head_dim={q.shape[-1]} ({why}); "
            "choose net/kernel=auto or net/kernel=sdpa"
        )
        self.why = why


def first_line(error: Exception) -> str:
    """What an error says, without all that stands behind it."""
    return str(error).strip().partition("\n")[0]


def short(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")
