"""How weights start. An init part is called with the whole network, also after `to_empty` on a device."""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class OwnInit(Protocol):
    """A module that knows how its own weights start: embeddings, gates, tables."""

    def init_own(self, std: float) -> None:
        """Overwrites the module's weights. std: of embeddings."""
        ...


class Init(ABC):
    """Base of the init parts: Linears as the subclass says, zero biases, unit norms, then each module's `init_own`.

    embedding_std: of the embeddings of levels, classes and pooled text.
    """

    def __init__(self, embedding_std: float) -> None:
        self.embedding_std = embedding_std

    @abstractmethod
    def linear(self, weight: Tensor) -> None:
        """Overwrites the weight of a Linear."""

    def __call__(self, net: nn.Module) -> None:
        for module in net.modules():
            if isinstance(module, nn.Linear):
                self.linear(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                module.reset_parameters()
        for module in net.modules():
            if isinstance(module, OwnInit):
                module.init_own(self.embedding_std)


class Xavier(Init):
    """DiT's: Xavier-uniform Linears with zero biases, then every module's own (zero gates, normal embeddings)."""

    def linear(self, weight: Tensor) -> None:
        nn.init.xavier_uniform_(weight)


class Normal(Init):
    """Normal Linears with zero biases, truncated at two std, then every module's own (zero gates, normal embeddings).

    std: of the Linears. embedding_std: as in `Xavier`.
    """

    def __init__(self, std: float, embedding_std: float) -> None:
        super().__init__(embedding_std)
        self.std = std

    def linear(self, weight: Tensor) -> None:
        nn.init.trunc_normal_(weight, std=self.std, a=-2 * self.std, b=2 * self.std)
