"""The built-in text encoder: UTF-8 bytes through a small transformer, trained jointly with the network.

No vocabulary, no download: ByT5 (Xue et al. 2021, arXiv 2105.13626) shows that bytes are enough, and Movie Gen (2024,
arXiv 2410.13720) keeps a byte encoder beside its word encoders because it spells. Hashed n-grams (BLT, Pagnoni et al.
2024, arXiv 2412.09871, section 3.2.1) spare it from learning to read first: a word has features of its own from the
first step, wherever in the prompt it stands.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dit.config.limits import Count, Natural
from dit.text.base import TextEncoder

log = logging.getLogger(__name__)

START = 256  # opens every prompt, so that the empty prompt has one real token
PAD = 257
VOCABULARY = 258
HASH_BASE = 1_000_003  # of the rolling polynomial hash; a prime far above the vocabulary
HASH_PRIME = 2_147_483_647  # keeps products inside int64


class ByteEncoder(TextEncoder):
    """Embeddings of bytes, of the n-grams that end there and of positions, through `depth` pre-norm transformer layers.

    Args:
        width: features per token.
        ngrams: lengths in bytes of the n-grams that are hashed into embeddings; [] uses bytes alone.
        buckets: hash buckets for each length.
        depth: transformer layers; 0 leaves embeddings alone.
        heads: attention heads; must divide `width`.
        max_bytes: the longest prompt in UTF-8 bytes; of a longer one the first characters that fit are read, which is
            said once.
    """

    def __init__(
        self, width: Count, depth: Natural, heads: Count, max_bytes: Count, ngrams: list[Count], buckets: Count
    ) -> None:
        super().__init__()
        if width % heads:
            fitting = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
            raise ValueError(f"heads={heads} does not divide width={width}; these do: {fitting}")
        self.width = self.pooled_width = width
        self.max_bytes = max_bytes
        self.has_cut = False
        self.lengths = tuple(ngrams)
        self.buckets = buckets
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.ngrams = nn.ModuleList(nn.Embedding(buckets, width) for _ in ngrams)
        # Unit scale for content and order alike, so that attention sees both from the first step.
        self.position = nn.Parameter(torch.randn(max_bytes + 1, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation=nn.functional.gelu, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def readable(self, prompt: str) -> str:
        content = prompt.encode("utf-8", errors="replace")
        if len(content) <= self.max_bytes:
            return prompt
        return content[: self.max_bytes].decode("utf-8", errors="ignore")  # not half a character at the end

    @property
    def longer(self) -> str:
        return "put what matters first, or raise text.max_bytes in a new run"

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids `(B, L)` int64 and mask `(B, L)` bool, L the longest prompt of the batch plus one."""
        read = [self.readable(prompt) for prompt in prompts]
        for prompt, part in zip(prompts, read, strict=True):
            if len(part) < len(prompt) and not self.has_cut:
                self.has_cut = True
                log.warning(
                    "a prompt of %d bytes is longer than text.max_bytes=%d: it, as all longer ones, is read up to %r",
                    len(prompt.encode("utf-8", errors="replace")),
                    self.max_bytes,
                    f"...{part[-30:]}",
                )
        rows = [[START, *part.encode("utf-8", errors="replace")] for part in read]
        length = max(len(row) for row in rows)
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
        ids = ids.to(self.position.device, non_blocking=True)  # else the host waits for the step before
        return ids, ids != PAD

    def embed(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, width): the byte and the n-grams that end with it, of unit scale together."""
        total = self.embedding(ids)
        for length, table in zip(self.lengths, self.ngrams, strict=True):
            total = total + table(hashed_ngrams(ids, length) % self.buckets)
        return total / math.sqrt(1 + len(self.lengths))

    def forward(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        ids, mask = self.tokenize(prompts)  # (B, L)
        tokens = self.embed(ids) + self.position[: ids.shape[1]]  # (B, L, width)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~mask)
        tokens = self.norm(tokens) * mask.unsqueeze(-1)
        pooled = tokens.sum(1) / mask.sum(1, keepdim=True)
        return {"text": tokens, "text_mask": mask, "pooled": pooled}


def hashed_ngrams(ids: Tensor, length: int) -> Tensor:
    """Rolling polynomial hash (B, L) of the `length` ids that end at each place; before the start stand zeros."""
    padded = nn.functional.pad(ids, (length - 1, 0))
    value = torch.zeros_like(ids)
    for offset in range(length):
        value = (value * HASH_BASE + padded[:, offset : offset + ids.shape[1]]) % HASH_PRIME
    return value
