"""How weights start. An init part is called with the whole network, also after `to_empty` on a device."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dit.config.limits import Count


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
        self.general(net)
        self.own(net)

    def general(self, net: nn.Module) -> None:
        """Linears and norms."""
        for module in net.modules():
            if isinstance(module, nn.Linear):
                self.linear(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                module.reset_parameters()

    def own(self, net: nn.Module) -> None:
        """What modules set themselves."""
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


class MuP(Xavier):
    """`Xavier` at the base width, and from there on the maximal update parametrisation: weights and learning rates that
    change with the width so that every layer learns as much at every width (muP; Yang et al. 2022, arXiv 2203.03466,
    table 3; for diffusion transformers Zheng et al. 2025, arXiv 2505.15270). A rate that is best at a small width is
    then meant to be best at a large one.

    With r times the base's inputs and as many outputs, or growing ones, a Linear starts with 1 / r of the base's
    variance; with outputs that do not grow, with 1 / r^2. Its rates are `dit.engine.optim`'s, which reads `growth`.
    Nothing changes at the base width, bit for bit, and biases, norms, embeddings and tables are as they were.

    base_width, base_heads: of the network whose settings carry over; its heads must have as many channels as this
    one's, since attention divides by their square root. base_level_width: null is base_width where the network's
    level_width is its width, else the network's.

    Raises ValueError for heads of another size, and for a parameter for which there is no rule.
    """

    def __init__(
        self, embedding_std: float, base_width: Count, base_heads: Count, base_level_width: Count | None
    ) -> None:
        super().__init__(embedding_std)
        self.base_width, self.base_heads, self.base_level_width = base_width, base_heads, base_level_width

    def compare(
        self, net: nn.Module, width: int, heads: int, level_width: int, make: Callable[[int, int, int], nn.Module]
    ) -> None:
        """Notes in every Linear of `net`, which has these sizes, the shape that it has in the base.
        make(width, heads, level_width): a network with other sizes; its weights do not matter."""
        if self.base_width * heads != width * self.base_heads:
            size, nearest = self.base_width / self.base_heads, max(1, round(width * self.base_heads / self.base_width))
            raise ValueError(
                f"net.heads={heads} of net.width={width} have {width / heads:g} channels each, and those of the base"
                f" (net.init.base_width={self.base_width}, net.init.base_heads={self.base_heads}) {size:g}:"
                f" net/init=mup holds for heads of one size; net.heads={nearest} is nearest"
            )
        base_level = self.base_level_width or (self.base_width if level_width == width else level_width)
        with torch.device("meta"):
            base = make(self.base_width, self.base_heads, base_level)
        shapes = {name: parameter.shape for name, parameter in base.named_parameters()}
        linears = {f"{name}.weight": each for name, each in net.named_modules() if isinstance(each, nn.Linear)}
        for name, parameter in net.named_parameters():
            there, here = tuple(shapes[name]), tuple(parameter.shape)
            if name in linears:
                linears[name]._base_shape = there  # type: ignore[assignment]
            elif sum(a != b for a, b in zip(there, here, strict=True)) > 1:
                raise ValueError(
                    f"net/init=mup has no rule for {name}, which is {list(here)} here and {list(there)} at"
                    f" net.init.base_width={self.base_width}: it is no Linear and grows along several axes"
                )

    def __call__(self, net: nn.Module) -> None:
        linears = [each for each in net.modules() if isinstance(each, nn.Linear)]
        self.general(net)
        with torch.no_grad():
            for each in linears:
                each.weight.mul_(_xavier_std(base_shape(each)) / _xavier_std(each.weight.shape) * self.shrink(each))
            versions = [each.weight._version for each in linears]
            self.own(net)
            for each, version in zip(linears, versions, strict=True):
                if each.weight._version != version:  # its module has drawn it anew, with one variance for all widths
                    each.weight.mul_(self.shrink(each))

    @staticmethod
    def shrink(linear: nn.Linear) -> float:
        """The factor on the standard deviation that the weight has in the base."""
        outputs, inputs = growth(linear)
        return 1 / inputs if outputs == 1 else inputs**-0.5


def base_shape(linear: nn.Linear) -> tuple[int, int]:
    """(outputs, inputs) of a Linear in the base of `MuP`; its own where the network has another init."""
    outputs, inputs = getattr(linear, "_base_shape", None) or linear.weight.shape
    return outputs, inputs


def growth(linear: nn.Linear) -> tuple[float, float]:
    """How many times the base's outputs and inputs a Linear has."""
    outputs, inputs = base_shape(linear)
    return linear.weight.shape[0] / outputs, linear.weight.shape[1] / inputs


def _xavier_std(shape: tuple[int, ...]) -> float:
    return float((2 / (shape[0] + shape[1])) ** 0.5)
