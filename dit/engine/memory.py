"""Whether a run can fit into this machine at all, before anything of its size is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from dit.config.build import build
from dit.config.pattern import runs
from dit.engine.fitting import recipe_class
from dit.machine import memory, size_in_words

MOST_TENSORS = 200_000  # of one part: some thousand blocks
TRAINED = 3  # weights, gradients, a moment of the optimizer: the least that training keeps of a part
AVERAGED = 1  # and an average of its weights


def check(config: Mapping[str, Any], on_cpu: bool) -> None:
    """Raises ValueError for parts, or a batch, that need more memory than this machine has, and says how much that is.

    Args:
        config: of a run. Its network and text encoder are built without memory, and with a few blocks at most; what its
            recipe has beside them is counted by `Recipe.copies`.
        on_cpu: whether the run trains in this machine's own memory; else that must hold the weights once.
    """
    there = memory()
    net, text = config["net"], config["text"]
    recipe = recipe_class(config)
    trains = on_cpu and config["lora"] is None
    size = size_of("net", net)
    needed = {"net": (TRAINED + AVERAGED if trains else 1) * size}
    if text is not None:
        needed["text"] = (TRAINED + AVERAGED if trains and recipe.trains_text else 1) * size_of("text", text)
    for name, optimizer in recipe.copies.items():
        needed[name] = (TRAINED if trains and optimizer is not None else 1) * size
    if (total := sum(needed.values())) > there:
        what = "weights, gradients, optimizer and averages" if trains else "the weights"
        sizes = ", ".join(f"net.{key}={net[key]}" for key in ("width", "widths", "depth") if key in net)
        *first, last = needed
        who = f"{', '.join(first)} and {last} need" if first else f"{last} needs"
        raise ValueError(
            f"{who} at least {size_in_words(total)} for {what}, and this machine has {size_in_words(there)};"
            f" make {sizes} or the part that is so large smaller"
        )
    data = config["data"]
    shape = [data[key] for key in ("batch_size", "num_frames", "height", "width")]
    clips = 3 * 4 * shape[0] * shape[1] * shape[2] * shape[3]
    if clips > there:
        raise ValueError(
            f"a batch of data.batch_size={shape[0]} clips of {shape[1]} frames of {shape[2]}x{shape[3]} is"
            f" {size_in_words(clips)}, and this machine has {size_in_words(there)}; make one of them smaller"
        )


def check_batches(data: Any) -> None:
    """Raises ValueError for batches of clips of several shapes whose pixels need more memory than this machine has."""
    if data.shapes is None:
        return
    clips, there = 3 * 4 * data.sets.most_pixels, memory()
    if clips > there:
        raise ValueError(
            f"a batch of data.shapes.tokens={data.sets.budget:,} tokens is {size_in_words(clips)} of pixels, and this"
            f" machine has {size_in_words(there)}; make it smaller"
        )


def size_of(name: str, node: Mapping[str, Any]) -> float:
    """Bytes of the parameters of the part that `node` describes. Of a network with many blocks only few are built."""
    period, depth = sum(count for _, count in runs(str(node.get("pattern", "F")))), node.get("depth")
    if name != "net" or not isinstance(depth, int) or depth <= 2 * period:
        return _measured(name, node)
    one, two = (_measured(name, {**node, "depth": blocks * period}) for blocks in (1, 2))
    return one + (two - one) * (depth / period - 1)


def _measured(name: str, node: Mapping[str, Any]) -> float:
    with torch.device("meta"), _counted(name) as total:
        try:
            build(node, name)
        except RuntimeError as error:
            if "overflow" not in str(error).lower() and "negative dimension" not in str(error):
                raise
            raise ValueError(
                f"{name} has a tensor of more numbers than can be counted; make its sizes smaller"
            ) from None
    return total[0]


@contextmanager
def _counted(name: str) -> Iterator[list[float]]:
    """Bytes of all parameters that are made inside, in a list of one. ValueError for more tensors than make sense."""
    total, tensors = [0.0], 0

    def count(module: nn.Module, key: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors
        if parameter is None:
            return
        total[0] += parameter.numel() * parameter.element_size()
        tensors += 1
        if tensors > MOST_TENSORS:
            raise ValueError(
                f"{name} has more than {MOST_TENSORS:,} tensors of weights, and is not built; make its depth smaller"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield total
    finally:
        handle.remove()
