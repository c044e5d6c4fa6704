"""The picture that a clip begins with, or those that it begins and ends with, as an encoder of images sees them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from data.batch import Batch
from dit.config.limits import Natural
from dit.encoders import (
    config_of,
    files,
    fingerprint,
    load_encoder,
    load_image_processor,
    parts,
    picture_name,
    to_bytes,
)
from dit.signals.base import Alone, Around, Asked, Clip, Cond, Entry, Signal, row_of

log = logging.getLogger(__name__)
KEY = "signals.image.folder"


class Image(Signal):
    """`image` (B, image_tokens, image_width): the first frame through a published model's vision encoder (CLIP in Wan
    2.1 and SkyReels-V2 as image-to-video models), patches and the mark in front of them; in Wan 2.1's model for first
    and last frames the tokens of both, one behind the other. It is never left unsaid: guidance leads away from the same
    pictures, as in these models' pipelines.

    A picture that is given to the sampler is seen in its own size, before it is fitted to the clip. Where none is
    given, the entry is left out, with a warning: such networks were never trained without. A first picture without a
    last one, where both are seen, is a ValueError.

    Args:
        folder: of the published model, as `text.folder`.
        fingerprint: that the files must have, which a run writes into its config; None: any.
        dtype: of the weights; None: as they were saved. What comes out is float32 at least.
        encoder, processor: folders in it.
        skipping: layers at the encoder's end that are left out.
        frames: which are seen.

    Raises FileNotFoundError or ValueError, in one line, for a folder that is not there or other files.
    """

    entries = {"image": Entry(("image_tokens", "image_width"), torch.float32)}
    example = None

    def __init__(
        self,
        around: Around,
        *,
        folder: str | None,
        fingerprint: str | None,
        dtype: Literal["bfloat16", "float16", "float32", "float64"] | None,
        encoder: str,
        processor: str,
        skipping: Natural,
        frames: Literal["first", "first_and_last"],
    ) -> None:
        super().__init__(around)
        self.encoder, self.processor_folder = parts(folder, KEY, encoder, processor)
        self.dtype: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
        self.config = config_of(self.encoder, KEY)
        self.skipping = skipping
        self.frames = (0,) if frames == "first" else (0, -1)
        self.model: nn.Module | None = None
        self.remembered: dict[str, Tensor] = {}
        self.has_missed = False
        if fingerprint is not None and (found := self.identified()) != fingerprint:
            raise ValueError(
                f"{KEY}={folder} is not the image encoder that this was trained with: its files have the fingerprint"
                f" {found}, needed {fingerprint}"
            )

    def identified(self) -> str:
        """The fingerprint of its files, for the config."""
        return fingerprint(files(self.encoder, self.processor_folder))

    @cached_property
    def processor(self) -> Any:
        return load_image_processor(self.processor_folder, KEY)

    def of_batch(self, batch: Batch) -> list[list[Tensor]]:  # type: ignore[override]
        """Of each clip its pictures, (3, height, width)."""
        return [[to_bytes(clip[:, frame]) for frame in self.frames] for clip in batch.clips]

    def of_request(self, asked: Asked, clip: Clip) -> list[Sequence[Tensor]] | None:
        """The first pictures of all samples, or the one of all, and the last ones likewise."""
        if clip.first is None:
            return None
        if len(self.frames) == 1:
            return [clip.first]
        if clip.last is None:
            raise ValueError(
                "this network is told the pictures that a clip begins and ends with: task=first_last image=FILE"
                " last_image=FILE gives both"
            )
        return [clip.first, clip.last]

    def gather(self, values: Sequence[Any], device: torch.device) -> list[list[Tensor]] | None:  # type: ignore[override]
        """Of each sample its pictures."""
        if values[0] is None:
            return None
        rows = ([row_of(pictures, i) for pictures in each] for i, each in enumerate(values))
        return [[picture.to(device) for picture in row if picture is not None] for row in rows]

    def ahead(self, wanted: Sequence[Asked], clip: Clip, alone: Alone) -> None:
        there = self.of_request(wanted[0], clip) or []
        pictures = {picture_name(picture): picture for each in there for picture in each}
        if pictures.keys() <= self.remembered.keys():
            return
        with alone() as device:
            self.remembered = {name: self._features(each.to(device)).cpu() for name, each in pictures.items()}
            self.model = None

    def of_example(self) -> Cond:
        tokens = (self.config.image_size // self.config.patch_size) ** 2 + 1
        return {"image": torch.zeros(1, tokens * len(self.frames), self.config.hidden_size)}

    def encode(self, values: Any) -> Cond:
        if values is None:
            if not self.has_missed:
                self.has_missed = True
                log.warning("this network is told the picture that a clip begins with: task=i2v image=FILE gives one")
            return {}
        features = torch.stack([torch.cat([self._known(picture) for picture in each]) for each in values])
        return {"image": features.to(torch.promote_types(features.dtype, torch.float32))}

    def _known(self, picture: Tensor) -> Tensor:
        kept = self.remembered.get(picture_name(picture)) if self.remembered else None
        return self._features(picture) if kept is None else kept.to(picture.device)

    @torch.no_grad()
    def _features(self, picture: Tensor) -> Tensor:
        """uint8 (3, h, w) -> (tokens, width), where the picture is."""
        if self.model is None:
            self.model = load_encoder(self.encoder, self.dtype, KEY)
        self.model.to(picture.device)
        pixels = self.processor(images=picture, return_tensors="pt")["pixel_values"].to(picture.device)
        with torch.autocast(picture.device.type, enabled=False):
            states = self.model(pixel_values=pixels.to(self._dtype), output_hidden_states=True).hidden_states
        return states[-(self.skipping + 1)][0]

    @property
    def _dtype(self) -> torch.dtype:
        assert self.model is not None
        return next(self.model.parameters()).dtype
