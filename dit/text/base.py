"""What every text encoder promises: a list of prompts in, token features and a mask out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class TextEncoder(nn.Module, ABC):
    """Maps prompts to what the network is told about them.

    Attributes:
        width: features per token and of the pooled vector.

    `encoder(prompts)` returns a dict with `text` `(B, L, width)`, `text_mask` `(B, L)` bool (True = a real token) and
    `pooled` `(B, width)`. The empty string means "no prompt" and always yields at least one real token, so that
    attention has something to look at; classifier-free guidance trains on it.
    """

    width: int

    def readable(self, prompt: str) -> str:
        """The part of a prompt that is read: all of it, unless the encoder has a limit."""
        return prompt

    @abstractmethod
    def forward(self, prompts: Sequence[str]) -> dict[str, Tensor]: ...
