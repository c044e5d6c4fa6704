"""The text of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from data.batch import Batch, Values
from dit.signals.base import Alone, Around, Asked, Clip, Cond, Entry, Signal


class Text(Signal):
    """Captions and prompts through the run's text encoder; "" says nothing. Guidance leads away from the negative
    prompt.

    `text` (B, L, text_width) float, `text_mask` (B, L) bool, True = a token that is read, and where the encoder makes
    it `pooled` (B, pooled_width) float.

    Raises ValueError where there is no encoder.
    """

    entries = {
        "text": Entry(("text_tokens", "text_width"), torch.float32),
        "text_mask": Entry(("text_tokens",), torch.bool),
        "pooled": Entry(("pooled_width",), torch.float32),
    }
    nothing = ""
    example = "a red circle moves to the right, quickly"  # text is a small part of the arithmetic

    def __init__(self, around: Around) -> None:
        super().__init__(around)
        if around.encoder is None:
            raise ValueError("signals.text needs a text encoder, and there is none: text=bytes, or signals.text=null")
        self.encoder: Any = around.encoder
        makes = getattr(self.encoder, "makes", tuple(Text.entries))  # one of somebody else makes all
        self.entries = {key: Text.entries[key] for key in makes}  # type: ignore[misc]

    def of_batch(self, batch: Batch) -> Values:
        return batch.values["caption"]

    def of_request(self, asked: Asked, clip: Clip) -> str:
        return str(asked.prompt)

    def away_from(self, asked: Asked, clip: Clip) -> str:
        return str(asked.negative_prompt)

    def ahead(self, wanted: Sequence[Asked], clip: Clip, alone: Alone) -> None:
        if not hasattr(self.encoder, "remember"):
            return  # it is small
        texts = [one(asked, clip) for asked in wanted for one in (self.of_request, self.away_from)]
        if not self.encoder.knows(texts):
            with alone() as device:
                self.encoder.to(device).remember(texts)

    def of_example(self) -> Cond:
        return self.encoder.shapes(self.example)

    def encode(self, values: Values) -> Cond:
        """Batches repeat texts, the empty one above all, and an encoder may be larger than the network: each distinct
        text is encoded once."""
        texts: list[str] = list(values)  # type: ignore[arg-type]
        distinct = list(dict.fromkeys(texts))
        found: Cond = self.encoder(distinct)
        if len(distinct) == len(texts):
            return found
        rows = torch.tensor([distinct.index(text) for text in texts])
        rows = rows.to(next(iter(found.values())).device, non_blocking=True)  # else the host waits for the step before
        return {key: value[rows] for key, value in found.items()}
