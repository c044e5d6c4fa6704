"""How weights start. An init part is called with the whole network, also after `to_empty` on a device."""

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class OwnInit(Protocol):
    """A module that knows how its own weights start: embeddings, gates, tables."""

    def init_own(self, std: float) -> None:
        """Overwrites the module's weights. std: of embeddings."""
        ...


class Xavier:
    """DiT's: Xavier-uniform Linears with zero biases, then every module's own (zero gates, normal embeddings).

    embedding_std: of the embeddings of levels, classes and pooled text.
    """

    def __init__(self, embedding_std: float) -> None:
        self.embedding_std = embedding_std

    def __call__(self, net: nn.Module) -> None:
        for module in net.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        finish(net, self.embedding_std)


class Normal:
    """Normal Linears with zero biases, truncated at two std, then every module's own (zero gates, normal embeddings).

    std: of the Linears. embedding_std: as in `Xavier`.
    """

    def __init__(self, std: float, embedding_std: float) -> None:
        self.std = std
        self.embedding_std = embedding_std

    def __call__(self, net: nn.Module) -> None:
        for module in net.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=self.std, a=-2 * self.std, b=2 * self.std)
        finish(net, self.embedding_std)


def finish(net: nn.Module, embedding_std: float) -> None:
    """Zero biases, unit norms, and what modules want for themselves."""
    for module in net.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            module.reset_parameters()
    for module in net.modules():
        if isinstance(module, OwnInit):
            module.init_own(embedding_std)
