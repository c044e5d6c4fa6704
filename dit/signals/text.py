"""The text of a clip."""

from __future__ import annotations

import torch

from data.batch import Batch, Values
from dit.signals.base import Around, Asked, Clip, Cond, Entry, Signal


class Text(Signal):
    """Captions and prompts through the run's text encoder; "" says nothing. Guidance leads away from the negative
    prompt.

    `text` (B, L, text_width) float, `text_mask` (B, L) bool, True = a real token, and `pooled` (B, text_width) float.

    Raises ValueError where there is no encoder.
    """

    entries = {
        "text": Entry(("text_tokens", "text_width"), torch.float32),
        "text_mask": Entry(("text_tokens",), torch.bool),
        "pooled": Entry(("text_width",), torch.float32),
    }
    nothing = ""
    example = "a red circle moves to the right, quickly"  # text is a small part of the arithmetic

    def __init__(self, around: Around) -> None:
        super().__init__(around)
        if around.encoder is None:
            raise ValueError("signals.text needs a text encoder, and there is none: text=bytes, or signals.text=null")
        self.encoder = around.encoder

    def of_batch(self, batch: Batch) -> Values:
        return batch.values["caption"]

    def of_request(self, asked: Asked, clip: Clip) -> str:
        return str(asked.prompt)

    def away_from(self, asked: Asked, clip: Clip) -> str:
        return str(asked.negative_prompt)

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
