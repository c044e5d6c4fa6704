"""Tokens of a prompt and of a picture beside it, by a language model that reads both."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dit.config.limits import Count, Natural
from dit.encoders import files, load_image_processor, parts
from dit.text.cleaning import Cleaning
from dit.text.parts import KEY, Row, Tokens
from dit.text.states import States
from dit.text.template import Fixed


class PicturedTokens(Tokens):
    """`text` and `text_mask` of a prompt under the picture that the clip begins with (Llava in HunyuanVideo as an
    image-to-video model).

    The template holds a mark for the picture, which the model reads as many tokens. Handed to the network are every
    `every`-th of these, then the prompt's. The template's header of an answer is cut out behind the prompt.

    Args:
        processor: folder of what makes the model's input of a picture.
        length: tokens that are read without those of the picture and what `template.crop` leaves out.
        template: with the picture's mark in the part that is cut off.
        every: of the picture's tokens.
        header_end: the last token of a header; the last one in the text ends the answer's.
        header: tokens up to it that are left out.
        The other arguments are those of `Tokens`.
    """

    def __init__(
        self,
        folder: str | None,
        *,
        encoder: str,
        tokenizer: str,
        processor: str,
        length: Count,
        clean: Cleaning | None,
        template: Fixed,
        states: States,
        to_length: bool,
        every: Count,
        header_end: str,
        header: Natural,
    ) -> None:
        super().__init__(
            folder, encoder=encoder, tokenizer=tokenizer, length=length, clean=clean, template=template, states=states,
            padding="zeros", masked=True, away_as_long=False, to_length=to_length, hides_empty=False,
        )  # fmt: skip
        (_, self.processor_folder) = parts(folder, KEY, encoder, processor)
        self.every, self.header_end, self.header = every, header_end, header
        self.headers = template.text.count(header_end)
        vision: Any = self.config.vision_config
        self.picture_tokens = (vision.image_size // vision.patch_size) ** 2

    @cached_property
    def processor(self) -> Any:
        return load_image_processor(self.processor_folder, KEY)

    def files(self) -> list[Any]:
        return [*super().files(), *files(self.processor_folder)]

    @property
    def total(self) -> int:
        return math.ceil(self.picture_tokens / self.every) + self.length - self.header

    def row(self, model: nn.Module, prompt: str, picture: Tensor | None) -> Row:
        if picture is None:
            raise ValueError(
                "this text encoder is shown the picture that a clip begins with: task=i2v image=FILE gives it"
            )
        some = next(model.parameters())
        ids: Tensor = self.tokens(self.prepared(prompt)[1], return_tensors="pt")["input_ids"][0].to(some.device)
        mark, count = self.config.image_token_index, self.picture_tokens
        at = int((ids == mark).nonzero()[0])
        spread = torch.cat([ids[:at], ids.new_full((count,), mark), ids[at + 1 :]])
        pixels = self.processor(images=picture, return_tensors="pt")["pixel_values"].to(some)
        output = model(input_ids=spread[None], pixel_values=pixels, output_hidden_states=self.states.hidden)
        states = self.states(output)[0]  # (n + count - 1, width)
        ends = (ids == self.tokenizer.convert_tokens_to_ids(self.header_end)).nonzero()
        behind = (
            int(ends[-1]) + 1 if len(ends) >= self.headers else len(ids)
        )  # of a prompt that is cut there is no header
        said = states[at + count :]  # from the token behind the mark on
        first, last = self.crop - at - 1, behind - at - 1
        text = torch.cat([states[at : at + count : self.every], said[first : last - self.header], said[last:]])
        return {"text": text, "text_mask": torch.ones(len(text), dtype=torch.bool, device=some.device)}
