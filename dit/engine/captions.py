"""What is known of a run's captions, and done with them, before its first step."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

from data.batch import CaptionedClips
from dit.text.base import TextEncoder
from dit.text.pretrained import Pretrained

log = logging.getLogger(__name__)
SOME = 4  # captions that serve as prompts


def report_long(clips: Any, text: TextEncoder | None) -> None:
    """Says how many captions are longer than the encoder reads. Clips that make up their captions are not asked."""
    if text is None or not isinstance(clips, CaptionedClips):
        return
    count, cut, longest = 0, 0, b""
    for caption in clips.captions():
        count += 1
        if text.readable(caption) != caption:
            cut += 1
            longest = max(longest, caption.encode("utf-8", errors="replace"), key=len)
    if cut:
        log.warning(
            "%d of %d captions are longer than the text encoder reads, and only their beginning is; the longest has %d "
            "bytes, %r...: %s",
            cut,
            count,
            len(longest),
            longest[:40].decode("utf-8", errors="ignore"),
            text.longer,
        )


def encode_ahead(text: nn.Module | None, every: Sequence[Any], device: torch.device, rank: int, ranks: int) -> None:
    """Has a text encoder that keeps what it says on disk (`text_cache`) say it of all captions, and lets go of it: then
    the network trains without the encoder beside it.

    every: sets of clips; those that make up their captions are left to the steps. rank, ranks: each begins with a part
    of its own, and finds the others' done.
    """
    if not isinstance(text, Pretrained) or text.store is None:
        return
    told = [clips.captions() for clips in every if isinstance(clips, CaptionedClips)]
    captions = list(dict.fromkeys(["", *(caption for each in told for caption in each)]))
    first = len(captions) * rank // ranks
    text.to(device)
    made = 0
    for caption in tqdm(
        [*captions[first:], *captions[:first]], "captions", unit="caption", delay=1.0, disable=rank > 0
    ):
        made += text.fill([caption])
    text.release()
    text.to("cpu")  # where the trainer finds all parts
    if told:
        log.info("captions: %d of %d were encoded now, all are in %s", made, len(captions), text.store.folder)


def some(clips: Any) -> list[str]:
    """A few different captions of the clips, spread over them, as prompts; "" where they have none.

    Raises:
        ValueError: these clips make up their captions.
    """
    if not isinstance(clips, CaptionedClips):
        raise ValueError("preview.prompts=null takes captions of files, and this data has none; give prompts")
    different = [caption for caption in dict.fromkeys(clips.captions()) if caption] or [""]
    return spread(different)


def spread(texts: Sequence[str]) -> list[str]:
    """At most `SOME` of the texts, from all over them."""
    return list(texts[:: math.ceil(len(texts) / SOME)])
