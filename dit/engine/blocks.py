"""Repeated blocks of a network: the units that are compiled and sharded one by one, from outside the network."""

from __future__ import annotations

from torch import nn

from dit.graphs import allow_many_graphs


def repeated_blocks(part: nn.Module) -> list[nn.Module]:
    """The outermost members of every `nn.ModuleList`: the units that are compiled and sharded one by one."""
    found: list[nn.Module] = []
    for child in part.children():
        found += list(child) if isinstance(child, nn.ModuleList) else repeated_blocks(child)
    return found


def compile_blocks(part: nn.Module, mode: str) -> None:
    """Compiles each block in place: a third of the time that the whole takes, and no prefix in any parameter's name.

    Blocks of one kind share their graphs. A kind needs one with gradients and one without, and each again for sizes
    that change: three kinds of one class (Latte's) are 12.
    """
    allow_many_graphs()
    for block in repeated_blocks(part):
        block.compile(mode=None if mode == "default" else mode)
