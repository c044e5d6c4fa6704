"""The text of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from data.batch import Batch, Values
from dit.encoders import to_bytes
from dit.signals.base import Alone, Around, Asked, Clip, Cond, Entry, Signal, row_of

USUAL = ("text", "text_mask", "pooled")  # what an encoder makes that does not say
BLACK = torch.zeros(3, 16, 16, dtype=torch.uint8)


class Text(Signal):
    """Captions and prompts through the run's text encoder; "" says nothing. Guidance leads away from the negative
    prompt.

    `text` (B, L, text_width) float, `text_mask` (B, L) bool, True = a token that is read, and of those that follow what
    the encoder makes: `pooled` (B, pooled_width) float, `glyphs` (B, M, glyph_width) float, `glyphs_mask` (B, M) bool.
    An encoder that sees pictures is shown the first frame beside each text, and a black one beside what guidance leads
    away from.

    Raises ValueError where there is no encoder.
    """

    entries = {
        "text": Entry(("text_tokens", "text_width"), torch.float32),
        "text_mask": Entry(("text_tokens",), torch.bool),
        "pooled": Entry(("pooled_width",), torch.float32),
        "glyphs": Entry(("glyph_tokens", "glyph_width"), torch.float32),
        "glyphs_mask": Entry(("glyph_tokens",), torch.bool),
    }
    nothing: ClassVar[Any] = ""
    example = "a red circle moves to the right, quickly"  # text is a small part of the arithmetic

    def __init__(self, around: Around) -> None:
        super().__init__(around)
        if around.encoder is None:
            raise ValueError("signals.text needs a text encoder, and there is none: text=bytes, or signals.text=null")
        self.encoder: Any = around.encoder
        makes = getattr(self.encoder, "makes", USUAL)
        self.entries = {key: Text.entries[key] for key in makes}  # type: ignore[misc]

        self.sees_pictures = bool(getattr(self.encoder, "sees_pictures", False))
        if self.sees_pictures:
            self.frames = (0,)
            self.nothing = ("", BLACK)  # type: ignore[misc]

    def of_batch(self, batch: Batch) -> Any:
        captions: list[str] = batch.values["caption"]  # type: ignore[assignment]
        if not self.sees_pictures:
            return captions
        return [(caption, to_bytes(clip[:, 0])) for caption, clip in zip(captions, batch.clips, strict=True)]

    def of_request(self, asked: Asked, clip: Clip) -> Any:
        return (str(asked.prompt), clip.first) if self.sees_pictures else str(asked.prompt)

    def away_from(self, asked: Asked, clip: Clip) -> Any:
        text = asked.negative_prompt or ""
        return (text, [BLACK]) if self.sees_pictures else text

    def gather(self, values: Sequence[Any], device: torch.device) -> Any:
        if not self.sees_pictures:
            return list(values)
        return [(text, row_of(pictures, i)) for i, (text, pictures) in enumerate(values)]

    def _all(self, wanted: Sequence[Asked], clip: Clip) -> list[Any]:
        """What is said of these samples, and what guidance leads away from."""
        cpu = torch.device("cpu")
        return [
            text
            for one in (self.of_request, self.away_from)
            for text in self.gather([one(asked, clip) for asked in wanted], cpu)
        ]

    def check_ahead(self, wanted: Sequence[Asked], clip: Clip) -> None:
        if hasattr(self.encoder, "check"):
            self.encoder.check(self._all(wanted, clip))

    def ahead(self, wanted: Sequence[Asked], clip: Clip, alone: Alone) -> None:
        if not hasattr(self.encoder, "remember"):
            return  # it is small
        texts = self._all(wanted, clip)
        if not self.encoder.knows(texts):
            with alone() as device:
                self.encoder.to(device).remember(texts)

    def paired(self, cond: Cond, uncond: Cond) -> Cond:
        away_as_long = getattr(self.encoder, "away_as_long", False)
        return {**uncond, "text_mask": cond["text_mask"]} if away_as_long else uncond

    def of_example(self) -> Cond:
        return self.encoder.shapes(self.example)

    def encode(self, values: Values) -> Cond:
        """Batches repeat texts, the empty one above all, and an encoder may be larger than the network: each distinct
        text is encoded once."""
        texts: list[Any] = list(values)
        if self.sees_pictures:
            return self.encoder(texts)  # which tells equal ones itself
        distinct = list(dict.fromkeys(texts))
        found: Cond = self.encoder(distinct)
        if len(distinct) == len(texts):
            return found
        rows = torch.tensor([distinct.index(text) for text in texts])
        rows = rows.to(next(iter(found.values())).device, non_blocking=True)  # else the host waits for the step before
        return {key: value[rows] for key, value in found.items()}
