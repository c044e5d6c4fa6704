"""The built-in text encoder: UTF-8 bytes through a small transformer, trained jointly with the network.

No vocabulary, no download: ByT5 (Xue et al. 2021, arXiv 2105.13626) shows that bytes are enough, and Movie Gen (2024,
arXiv 2410.13720) keeps a byte encoder beside its word encoders because it spells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dit.text.base import TextEncoder

START = 256  # opens every prompt, so that the empty prompt has one real token
PAD = 257
VOCABULARY = 258


class ByteEncoder(TextEncoder):
    """Byte embeddings with learned positions through `depth` pre-norm transformer layers.

    Args:
        width: features per token.
        depth: transformer layers; 0 leaves embeddings alone.
        heads: attention heads; must divide `width`.
        max_bytes: the longest prompt in UTF-8 bytes; a longer one is an error, never cut silently.
    """

    def __init__(self, width: int, depth: int, heads: int, max_bytes: int) -> None:
        super().__init__()
        if width % heads:
            fitting = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
            raise ValueError(f"heads={heads} does not divide width={width}; these do: {fitting}")
        self.width = width
        self.max_bytes = max_bytes
        self.embedding = nn.Embedding(VOCABULARY, width)
        # Unit scale for content and order alike, so that attention sees both from the first step.
        self.position = nn.Parameter(torch.randn(max_bytes + 1, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation=nn.functional.gelu, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids `(B, L)` int64 and mask `(B, L)` bool, L the longest prompt of the batch plus one."""
        rows = [[START, *prompt.encode("utf-8")] for prompt in prompts]
        length = max(len(row) for row in rows)
        if length - 1 > self.max_bytes:
            longest = max(prompts, key=lambda prompt: len(prompt.encode("utf-8")))
            raise ValueError(
                f"a prompt of {length - 1} bytes is longer than text.max_bytes={self.max_bytes}: {longest[:40]!r}...;"
                f" shorten it, or train with text.max_bytes={length - 1}"
            )
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows], device=self.position.device)
        return ids, ids != PAD

    def forward(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        # A batch repeats captions (and the empty one): encode each distinct prompt once.
        distinct = list(dict.fromkeys(prompts))
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts], device=self.position.device)
        ids, mask = self.tokenize(distinct)  # (U, L)
        tokens = self.embedding(ids) + self.position[: ids.shape[1]]  # (U, L, width)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~mask)
        tokens = self.norm(tokens) * mask.unsqueeze(-1)
        pooled = tokens.sum(1) / mask.sum(1, keepdim=True)
        return {"text": tokens[rows], "text_mask": mask[rows], "pooled": pooled[rows]}
