"""What a network makes of its text, made once for all steps of a sampler.

Where text enters by cross-attention (Wan, LTX-Video, Allegro, Cosmos, Latte), its projection and the keys and values of
every block do not depend on the noise level: each step would make the same numbers again. Text tokens that pass through
the blocks do change with the level; of those only the embedding is kept (CogVideoX, Mochi, Kandinsky 5), and nothing
where that knows the level too (HunyuanVideo).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dit.net.sequence import NoiseLevels, TextTokens

MOST = 3  # texts that are kept: guidance asks for the conditional ones, the unconditional ones, and both together


@dataclass(frozen=True)
class Kept:
    """One text. inputs: the tensors that it is made of, with their versions."""

    inputs: tuple[tuple[Tensor | None, int], ...]
    tokens: TextTokens


class TextReuse:
    """Within `with reuse:` the network makes what depends on the text alone once. The same numbers, bit for bit.

    It may be entered again and again, and keeps what it has until it is dropped: of each text 2 * depth * L * width
    values a sample (0.84 GB for Wan 14B in bfloat16 with 512 tokens of a prompt and of a negative one). Weights, dtypes
    and autocast must stay the same meanwhile. A text is known by its tensors themselves: other tensors, and tensors
    that were written to, are other texts.

    It does nothing where gradients are computed, for packed clips, and for blocks that are compiled, whose graphs would
    each be of one state of what is kept.
    """

    def __init__(self, net: Any) -> None:
        self.net = net
        self.texts: list[Kept] = []
        self.works = all(block._compiled_call_impl is None for block in net.blocks)

    def __enter__(self) -> None:
        self.before: Any = self.net.__dict__.get("read_text")
        if self.works:
            self.read, self.net.read_text = self.net.read_text, self.read_text

    def __exit__(self, *_: object) -> None:
        if self.works and self.before is None:
            del self.net.read_text
        elif self.works:
            self.net.read_text = self.before

    def read_text(self, cond: Mapping[str, Tensor], levels: NoiseLevels) -> TextTokens:
        """As the network's own."""
        if torch.is_grad_enabled() or self.net.text.reads_level or levels.coordinates.num_clips > 1:
            return self.read(cond, levels)
        reads = self.net.text.reads
        tensors = [cond.get(key) for key in (*reads.required, *reads.optional)]
        inputs = tuple((tensor, version(tensor)) for tensor in tensors)
        for kept in self.texts:
            if all(a is b and old == new for (a, old), (b, new) in zip(kept.inputs, inputs, strict=True)):
                return kept.tokens
        self.texts = [*self.texts[1 - MOST :], Kept(inputs, replace(self.read(cond, levels), kept={}))]
        return self.texts[-1].tokens


def version(tensor: Tensor | None) -> int:
    """Grows when the tensor is written to."""
    return -1 if tensor is None or tensor.is_inference() else tensor._version
