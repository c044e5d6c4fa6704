"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) in a built network, through peft.

peft wraps each adapted Linear: its weight `X.weight` becomes `X.base_layer.weight`, beside `X.lora_A.default.weight`
(rank, in) and `X.lora_B.default.weight` (out, rank). peft itself is imported only where adapters are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

NAME = "default"  # of the one adapter that a network has, as peft calls it
WRAPPED = ".base_layer."


@dataclass(frozen=True)
class Adapter:
    """What is added to one weight: scale * b @ a. a: (rank, in), b: (out, rank)."""

    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def delta(self) -> Tensor:
        """(out, in)."""
        return self.scale * (self.b @ self.a)


class LoRA:
    """`lora(net)` puts an adapter beside each target; of the network nothing else trains from then on.

    rank: of each adapter. alpha: the product is scaled by alpha / rank, or by alpha / sqrt(rank) with `rslora`
    (Kalajdzievski 2023, arXiv 2312.03732). dropout: of the adapters' input in training.
    targets: names of Linear layers: the end of a dotted name, `attention.qkv` in every block, or with * and ?:
    `*attention.*` is every projection of every attention.

    Raises ValueError for a target that names no Linear layer, and when peft is not installed.
    """

    def __init__(self, rank: int, alpha: float, dropout: float, rslora: bool, targets: Sequence[str]) -> None:
        if rank < 1:
            raise ValueError(f"lora.rank={rank} must be at least 1; 16 is usual")
        if alpha <= 0:
            raise ValueError(f"lora.alpha={alpha} must be above 0; as large as lora.rank is usual")
        if not 0 <= dropout < 1:
            raise ValueError(f"lora.dropout={dropout} must be in [0, 1)")
        if isinstance(targets, str):
            raise ValueError(f"lora.targets={targets} is not a list; for example lora.targets=[{targets}]")
        if not targets:
            raise ValueError("lora.targets is empty; for example lora.targets=[attention.qkv,attention.out]")
        self.rank, self.alpha, self.dropout, self.rslora, self.targets = rank, alpha, dropout, rslora, targets

    def __call__(self, net: nn.Module) -> None:
        sizes = dict.fromkeys(chosen(net, self.targets), (self.rank, self.alpha))
        inject(net, sizes, self.dropout, self.rslora)


def chosen(net: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the Linear layers that the targets mean. Raises ValueError for a target that means none."""
    linears = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    found: set[str] = set()
    for target in targets:
        matching = {name for name in linears if fnmatchcase(f".{name}", f"*.{target}") or fnmatchcase(name, target)}
        if not matching:
            ends = dict.fromkeys(".".join(name.split(".")[-2:]) for name in linears if name.startswith("blocks."))
            raise ValueError(f"lora.targets: {target} names no Linear layer; blocks have {', '.join(ends)}")
        found |= matching
    return [name for name in linears if name in found]


def inject(net: nn.Module, sizes: Mapping[str, tuple[int, float]], dropout: float = 0.0, rslora: bool = False) -> None:
    """Puts an adapter of its own (rank, alpha) beside each named Linear layer, and freezes all else in the network."""
    if has_adapters(net):
        raise ValueError("this network has adapters already: merge them first")
    peft = _peft()
    ranks, alphas = ({name: size[i] for name, size in sizes.items()} for i in range(2))
    config = peft.LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(alphas.values()),
        lora_dropout=dropout,
        use_rslora=rslora,
        target_modules="|".join(map(re.escape, sizes)),  # a list would also take every name that ends in one of them
        rank_pattern=pattern(ranks),
        alpha_pattern=pattern(alphas),
    )
    peft.inject_adapter_in_model(config, net, adapter_name=NAME)
    del net.peft_config  # says what the network's layers say themselves, and would travel with copies of it


def pattern(values: Mapping[str, float]) -> dict[str, float]:
    """`rank_pattern` or `alpha_pattern` of peft's config: a regular expression for each layer -> its value. Empty when
    all layers have the same."""
    return {} if len(set(values.values())) == 1 else {f"^{re.escape(name)}": value for name, value in values.items()}


def has_adapters(net: nn.Module) -> bool:
    return any(True for _ in wrapped(net))


def wrapped(net: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, peft's layer) of each adapted Linear."""
    for name, module in net.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "lora_A"):
            yield name, module


def adapters(net: nn.Module) -> dict[str, Adapter]:
    """Name of a Linear layer -> what is added to it; shares the weights' memory."""
    return {
        name: Adapter(layer.lora_A[NAME].weight.detach(), layer.lora_B[NAME].weight.detach(), layer.scaling[NAME])
        for name, layer in wrapped(net)
    }


@torch.no_grad()
def merge(net: nn.Module) -> None:
    """Adds the adapters to the weights that they adapt, and takes them out: a network as if trained in full."""
    found = adapters(net)
    for name, layer in list(wrapped(net)):
        layer.base_layer.weight += found[name].delta().to(layer.base_layer.weight.dtype)
        net.set_submodule(name, layer.base_layer)
    net.requires_grad_(True)


@contextmanager
def bare(net: nn.Module) -> Iterator[None]:
    """Within: the network without its adapters, under its own names. They are back afterwards."""
    layers = list(wrapped(net))
    try:
        for name, layer in layers:
            net.set_submodule(name, layer.base_layer)
        yield
    finally:
        for name, layer in layers:
            net.set_submodule(name, layer)


def bare_key(key: str) -> str:
    """The name of a weight in a network without adapters."""
    return key.replace(WRAPPED, ".")


def is_adapter_key(key: str) -> bool:
    return ".lora_A." in key or ".lora_B." in key


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ValueError(f"LoRA needs peft ({error}): pip install -r requirements-lora.txt") from None
    return peft
