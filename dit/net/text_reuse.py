"""What a network makes of its text, made once for all steps of a sampler.

Where text enters by cross-attention (Wan, LTX-Video, Allegro, Cosmos, Latte), its projection and the keys and values of
every block do not depend on the noise level: each step would make the same numbers again. Text tokens that pass through
the blocks do change with the level; of those only the embedding is kept (CogVideoX, Mochi, Kandinsky 5), and nothing
where that knows the level too (HunyuanVideo).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dit.net.context import Context
from dit.net.runner import Blocks, Runner, Streams
from dit.net.sequence import NoiseLevels, TextTokens

MOST = 3  # texts that are kept: guidance asks for the conditional ones, the unconditional ones, and both together


@dataclass(frozen=True)
class Kept:
    """One text. inputs: the tensors that it is made of, with their versions. keys: block -> keys and values."""

    inputs: tuple[tuple[Tensor | None, int], ...]
    tokens: TextTokens
    keys: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)


class TextReuse:
    """Within `with reuse:` the network makes what depends on the text alone once. The same numbers, bit for bit.

    It may be entered again and again, and keeps what it has until it is dropped: of each text 2 * depth * L * width
    values a sample (0.84 GB for Wan 14B in bfloat16 with 512 tokens of a prompt and of a negative one). Weights, dtypes
    and autocast must stay the same meanwhile. A text is known by its tensors themselves: other tensors, and tensors
    that were written to, are other texts.

    It does nothing where gradients are computed, and for blocks that are compiled or sharded: those hold their weights
    back until they are called as a whole.
    """

    def __init__(self, net: Any) -> None:
        self.net = net
        self.texts: list[Kept] = []
        whole = all(block._compiled_call_impl is None for block in net.blocks)
        self.works = whole and not any(isinstance(weight, DTensor) for weight in net.parameters())

    def __enter__(self) -> None:
        self.before: tuple[Runner, Any] = (self.net.runner, self.net.__dict__.get("read_text"))
        if self.works:
            self.net.runner = GivenKeys(self.net.runner, self)
            self.read, self.net.read_text = self.net.read_text, self.read_text

    def __exit__(self, *_: object) -> None:
        self.net.runner, own = self.before
        if self.works and own is None:
            del self.net.read_text
        elif self.works:
            self.net.read_text = own

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
        self.texts = [*self.texts[1 - MOST :], Kept(inputs, self.read(cond, levels))]
        return self.texts[-1].tokens

    def of(self, context: Context) -> Kept | None:
        """The text that blocks read in this pass; None where they read none, or a stream that blocks change."""
        if context.text.cross is None or context.text.cross is context.text.stream:
            return None
        # The newest: a tensor that blocks read as it is may have been written to since it was first seen.
        return next((kept for kept in reversed(self.texts) if kept.tokens.cross is context.text.cross), None)


def version(tensor: Tensor | None) -> int:
    """Grows when the tensor is written to."""
    return -1 if tensor is None or tensor.is_inference() else tensor._version


class GivenKeys:
    """Hands each block the keys and values of its text."""

    def __init__(self, runner: Runner, reuse: TextReuse) -> None:
        self.runner, self.reuse = runner, reuse

    def __call__(self, blocks: Blocks, streams: Streams, context: Context) -> Streams:
        """As the runner inside."""
        kept = self.reuse.of(context)
        if kept is None or torch.is_grad_enabled():
            return self.runner(blocks, streams, context)
        for index, block in blocks.items():
            attention: Any = getattr(block, "cross_attention", None)
            if attention is not None and index not in kept.keys:
                kept.keys[index] = attention.keys(context)
            streams = self.runner({index: block}, streams, replace(context, cross_keys=kept.keys.get(index)))
        return streams
