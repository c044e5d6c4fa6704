"""What every text encoder promises: a list of prompts in, token features and a mask out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TextEncoder(nn.Module, ABC):
    """Maps prompts to what the network is told about them.

    Attributes:
        width: features per token.
        pooled_width: features of the pooled vector; None where it makes none.

    `encoder(prompts)` returns a dict with `text` `(B, L, width)`, `text_mask` `(B, L)` bool (True = a token that the
    network reads) and, where there is a pooled vector, `pooled` `(B, pooled_width)`. The empty string means "no
    prompt"; classifier-free guidance trains on it.
    """

    width: int
    pooled_width: int | None

    @property
    def makes(self) -> tuple[str, ...]:
        """The entries that it returns: those above, and others where an encoder says more."""
        return ("text", "text_mask") if self.pooled_width is None else ("text", "text_mask", "pooled")

    def readable(self, prompt: str) -> str:
        """The part of a prompt that is read: all of it, unless the encoder has a limit."""
        return prompt

    @property
    def longer(self) -> str:
        """What to do about captions that are longer than it reads."""
        return "put what matters first"

    def shapes(self, prompt: str) -> dict[str, Tensor]:
        """What it returns of a prompt, for a count of arithmetic: shapes and dtypes are right, values need not be."""
        with torch.no_grad():
            return self([prompt])

    @abstractmethod
    def forward(self, prompts: Sequence[str]) -> dict[str, Tensor]: ...
