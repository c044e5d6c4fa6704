"""What is to be written in a picture: the words in quotation marks of a prompt, read letter by letter."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dit.config.limits import Count
from dit.text.parts import Part, Row

QUOTED = re.compile(r'"(.*?)"|“(.*?)”')


class Glyphs(Part):
    """Features of the letters of quoted words: `glyphs` (B, length, width) and `glyphs_mask` (B, length), zeros and
    False where nothing is quoted (ByT5 in HunyuanVideo 1.5). length: tokens that are read."""

    makes = ("glyphs", "glyphs_mask")

    def __init__(self, folder: str | None, *, encoder: str, tokenizer: str, length: Count) -> None:
        super().__init__(folder, encoder, tokenizer, length, None, None)
        self.width = int(self.config.hidden_size)

    def row(self, model: nn.Module, prompt: str, picture: Tensor | None) -> Row:
        device = next(model.parameters()).device
        if (words := sentence(prompt)) is None:
            return {"glyphs": torch.zeros(0, self.width, device=device)}
        ids = self.tokens(self.prepared(words)[1], return_tensors="pt")["input_ids"]
        return {"glyphs": model(input_ids=ids.to(device)).last_hidden_state[0]}

    def joined(self, rows: Sequence[Row], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        glyphs = torch.zeros(len(rows), self.length, self.width, dtype=dtype, device=device)
        for i, row in enumerate(rows):
            glyphs[i, : len(row["glyphs"])] = row["glyphs"].to(glyphs, non_blocking=True)
        lengths = torch.tensor([len(row["glyphs"]) for row in rows]).to(device, non_blocking=True)
        return {"glyphs": glyphs, "glyphs_mask": torch.arange(self.length, device=device) < lengths[:, None]}

    def shapes(self) -> Row:
        return {"glyphs": torch.zeros(self.length, self.width)}


def sentence(prompt: str) -> str | None:
    """`Text "one". Text "two". ` of the words that a prompt quotes, each once; None where it quotes none."""
    words = dict.fromkeys(straight or curly for straight, curly in QUOTED.findall(prompt))
    return "".join(f'Text "{word}". ' for word in words) or None
