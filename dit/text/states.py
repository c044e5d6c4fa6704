"""Which states of an encoder are the features of tokens, built from a config: `states(output) -> (B, L, width)`.

`output` is what an encoder of transformers returns when it is asked for its hidden states: the embeddings, then the
output of each layer, the last of them normed.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from dit.config.limits import Natural


class States(Protocol):
    """The features of tokens. hidden: whether the states of all layers are needed for it."""

    hidden: bool

    def width(self, features: int, layers: int) -> int:
        """Of what it returns, by the encoder's own width and number of layers."""
        ...

    def __call__(self, output: Any) -> Tensor: ...


class Last:
    """The encoder's output."""

    hidden = False

    def width(self, features: int, layers: int) -> int:
        return features

    def __call__(self, output: Any) -> Tensor:
        return output.last_hidden_state


class Skipping:
    """The state in front of the last `layers` layers; 0 is the output."""

    hidden = True

    def __init__(self, layers: Natural) -> None:
        self.layers = layers

    def width(self, features: int, layers: int) -> int:
        if self.layers > layers:
            raise ValueError(f"states.layers={self.layers}, but the encoder has {layers} layers")
        return features

    def __call__(self, output: Any) -> Tensor:
        return output.hidden_states[-(self.layers + 1)]


class AllNormed:
    """The states behind every layer, each normed over its features, side by side (Cosmos-Predict2.5)."""

    hidden = True

    def width(self, features: int, layers: int) -> int:
        return features * layers

    def __call__(self, output: Any) -> Tensor:
        return torch.cat([normed(state) for state in output.hidden_states[1:]], dim=-1)


def normed(x: Tensor) -> Tensor:
    """Mean 0 and (unbiased) variance 1 over features; eps is added to the deviation."""
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-8)
