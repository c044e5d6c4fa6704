"""The captions of the data, before the first step: which are too long, which serve as prompts, and their encoding."""

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
SOME = 4  # captions that a preview takes as prompts


def report_long(clips: Any, text: TextEncoder | None) -> None:
    """Warns of captions that are longer than the encoder reads. Clips that are generated have no list of captions, and
    are left out."""
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


def encode_ahead(
    text: nn.Module | None,
    every: Sequence[Any],
    prompts: Sequence[str],
    device: torch.device,
    rank: int,
    ranks: int,
) -> None:
    """Encodes all captions with a text encoder that keeps its results on disk (`text_cache`), then frees the encoder:
    the network trains without it in memory.

    every: sets of clips; generated ones have no list of captions, and are encoded in the steps. prompts: of previews.
    rank, ranks: each rank begins with a part of its own, and finds the parts of the others in the cache.
    """
    if not isinstance(text, Pretrained) or text.store is None or text.sees_pictures:
        return
    known = [clips.captions() for clips in every if isinstance(clips, CaptionedClips)]
    captions = list(dict.fromkeys(["", *prompts, *(caption for each in known for caption in each)]))
    first = len(captions) * rank // ranks
    text.to(device)
    made = 0
    for caption in tqdm(
        [*captions[first:], *captions[:first]], "captions", unit="caption", delay=1.0, disable=rank > 0
    ):
        made += text.fill([caption])
    text.release()
    text.to("cpu")  # where the trainer finds all parts
    if known:
        log.info("captions: %d of %d were encoded now, which are kept in %s", made, len(captions), text.store.folder)


def some(clips: Any) -> list[str]:
    """A few different captions, from all over the clips, as prompts; "" where they have none.

    Raises:
        ValueError: the clips are generated, and have no list of captions.
    """
    if not isinstance(clips, CaptionedClips):
        raise ValueError("preview.prompts=null takes captions of files, and this data has none; give prompts")
    different = [caption for caption in dict.fromkeys(clips.captions()) if caption] or [""]
    return spread(different)


def spread(texts: Sequence[str]) -> list[str]:
    """At most `SOME` of the texts, evenly spaced."""
    return list(texts[:: math.ceil(len(texts) / SOME)])
