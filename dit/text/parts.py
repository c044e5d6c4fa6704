"""Parts of a published text encoder: each is a model of transformers with its tokenizer and says one thing of a prompt.

What a model's pipeline does to a prompt are arguments: cleaning, template, length, which states, and what becomes of
padding. `configs/text` has them for each published model. A part reads no weights: `dit.text.pretrained` loads its
model when a prompt is to be encoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dit.config.limits import Count
from dit.encoders import check_encoder, config_of, files, load_tokenizer, parts
from dit.text.cleaning import Cleaning
from dit.text.states import States
from dit.text.template import Template

KEY = "text.folder"  # of the config, for messages
Row = dict[str, Tensor]  # what is known of one prompt
SPARE = 8  # tokens that are not of the prompt's own bytes: marks at both ends, a space in front


class Part(ABC):
    """One model and its tokenizer.

    Args:
        folder: of the published model.
        encoder, tokenizer: folders in it.
        length: tokens that are read, the tokenizer's marks among them; of a longer prompt the first ones.
        clean: what is done to the prompt first; None leaves it.
        template: what stands around the prompt, beyond `length`; None is nothing.

    `makes`: the entries of `cond` that it fills.

    Raises FileNotFoundError or ValueError in one line for a folder that is not there or not known.
    """

    makes: tuple[str, ...]

    def __init__(
        self,
        folder: str | None,
        encoder: str,
        tokenizer: str,
        length: int,
        clean: Cleaning | None,
        template: Template | None,
    ) -> None:
        self.encoder, self.tokenizer_folder = parts(folder, KEY, encoder, tokenizer)
        self.length, self.clean, self.template = length, clean, template
        self.config = config_of(self.encoder, KEY)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.tokenizer_folder, KEY)

    def check(self) -> None:
        """Looks at what is read when a prompt is encoded. Raises FileNotFoundError or ValueError, in one line, for
        files that are missing or damaged."""
        check_encoder(self.encoder)
        _ = self.tokenizer

    def files(self) -> list[Path]:
        """What decides the features of a prompt, beside the settings."""
        return files(self.encoder, self.tokenizer_folder)

    @property
    def crop(self) -> int:
        return 0 if self.template is None else self.template.crop

    def prepared(self, prompt: str) -> tuple[str, str]:
        """The cleaned prompt, and the whole text that is turned into tokens."""
        prompt = prompt.encode("utf-8", errors="replace").decode()  # half a character has no tokens
        clean = prompt if self.clean is None else self.clean(prompt)
        return clean, clean if self.template is None else self.template.around(clean, self.tokenizer)

    def tokens(self, text: str, **more: Any) -> Any:
        """The tokens of a whole text, no more than are read."""
        special = self.template is None or self.template.special
        return self.tokenizer(
            text, truncation=True, max_length=self.length + self.crop, add_special_tokens=special, **more
        )

    def read(self, prompt: str) -> str:
        """The beginning of a prompt that is read; the prompt itself where that is all of it."""
        clean, whole = self.prepared(prompt)
        if self.template is None and len(clean.encode()) + SPARE <= self.length:
            return prompt  # a token is a byte at least
        if not self.tokenizer.is_fast:
            return prompt
        read = self.tokens(whole, return_offsets_mapping=True)
        end = max((stop for _, stop in read["offset_mapping"]), default=0) - max(whole.rfind(clean), 0)
        return prompt if end >= len(clean.rstrip()) else clean[: max(end, 0)]

    @abstractmethod
    def row(self, model: nn.Module, prompt: str, picture: Tensor | None) -> Row:
        """What is said of one prompt, and of a picture uint8 (3, h, w) beside it: the same bits in whatever company."""

    @abstractmethod
    def joined(self, rows: Sequence[Row], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Entries of `cond` for prompts whose rows these are."""

    @abstractmethod
    def shapes(self) -> Row:
        """A row of usual size, its values of no meaning."""


class Tokens(Part):
    """Features of each token: `text` (B, L, width) and `text_mask` (B, L).

    Args:
        states: which states of the encoder they are.
        padding: what the tokens are that fill a prompt up to `length`: `zeros`; `hidden`, what the encoder makes of
            them while no other token sees them; `seen`, the same when all tokens see them.
        masked: whether the network is told which tokens only fill up; else it reads them all.
        away_as_long: whether of a negative prompt as many tokens are read as of the prompt that it stands beside.
        to_length: whether `length` tokens are made of any batch; else as many as its longest prompt has.
        hides_empty: whether no token of an empty prompt is to be read (Mochi).
    """

    makes = ("text", "text_mask")

    def __init__(
        self,
        folder: str | None,
        *,
        encoder: str,
        tokenizer: str,
        length: Count,
        clean: Cleaning | None,
        template: Template | None,
        states: States,
        padding: Literal["zeros", "hidden", "seen"],
        masked: bool,
        away_as_long: bool,
        to_length: bool,
        hides_empty: bool,
    ) -> None:
        super().__init__(folder, encoder, tokenizer, length, clean, template)
        if hides_empty and not masked:
            raise ValueError("hides_empty=true hides tokens from the network, which is told of none: masked=true")
        if away_as_long and not masked:
            raise ValueError("away_as_long=true says which tokens are read, and the network is not told: masked=true")
        self.states, self.padding, self.masked, self.away_as_long = states, padding, masked, away_as_long
        self.to_length, self.hides_empty = to_length, hides_empty
        text: Any = self.config.get_text_config()
        self.width = states.width(int(text.hidden_size), int(text.num_hidden_layers))

    @property
    def total(self) -> int:
        """The most tokens that the network reads."""
        return self.length

    def row(self, model: nn.Module, prompt: str, picture: Tensor | None) -> Row:
        if prompt == "" and self.hides_empty:
            return self._empty(model)
        _, whole = self.prepared(prompt)
        tokens = self.tokens(
            whole, return_tensors="pt", padding="do_not_pad" if self.padding == "zeros" else "max_length"
        )
        tokens = tokens.to(next(model.parameters()).device)
        hidden = {"attention_mask": tokens["attention_mask"]} if self.padding == "hidden" else {}
        output = model(input_ids=tokens["input_ids"], output_hidden_states=self.states.hidden, **hidden)
        text = self.states(output)[0, self.crop :]  # (n, width)
        return {"text": text, "text_mask": tokens["attention_mask"][0, self.crop :].bool()}

    def _empty(self, model: nn.Module) -> Row:
        some = next(model.parameters())
        return {"text": some.new_zeros(0, self.width), "text_mask": some.new_zeros(0, dtype=torch.bool)}

    def joined(self, rows: Sequence[Row], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        length = self.total if self.to_length else max(1, *(self._read(row) for row in rows))
        text = torch.zeros(len(rows), length, self.width, dtype=dtype, device=device)
        mask = torch.zeros(len(rows), length, dtype=torch.bool, device=device)
        for i, row in enumerate(rows):
            there = min(len(row["text"]), length)
            text[i, :there] = row["text"][:there].to(text, non_blocking=True)
            mask[i, :there] = row["text_mask"][:there].to(device, non_blocking=True)
        return {"text": text, "text_mask": mask if self.masked else torch.ones_like(mask)}

    def _read(self, row: Row) -> int:
        """Tokens of a prompt without those that fill up."""
        return len(row["text"]) if self.padding == "zeros" else int(row["text_mask"].sum())

    def shapes(self) -> Row:
        length = self.total if self.to_length or self.padding != "zeros" else min(self.total, 16)
        return {"text": torch.zeros(length, self.width), "text_mask": torch.ones(length, dtype=torch.bool)}


class Pooled(Part):
    """One vector of a prompt, `pooled` (B, width): what CLIP makes of the token that ends it."""

    makes = ("pooled",)

    def __init__(
        self, folder: str | None, *, encoder: str, tokenizer: str, length: Count, clean: Cleaning | None
    ) -> None:
        super().__init__(folder, encoder, tokenizer, length, clean, None)
        self.width = int(self.config.hidden_size)

    def row(self, model: nn.Module, prompt: str, picture: Tensor | None) -> Row:
        tokens = self.tokens(self.prepared(prompt)[1], return_tensors="pt", padding="max_length")
        ids = tokens["input_ids"].to(next(model.parameters()).device)
        return {"pooled": model(input_ids=ids).pooler_output[0]}

    def joined(self, rows: Sequence[Row], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        return {"pooled": torch.stack([row["pooled"].to(device, dtype, non_blocking=True) for row in rows])}

    def shapes(self) -> Row:
        return {"pooled": torch.zeros(self.width)}
