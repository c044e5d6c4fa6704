"""What is known of a run's captions before its first step."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from data.batch import CaptionedClips
from dit.text.base import TextEncoder

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
            "bytes, %r...: put what matters first, or raise text.max_bytes in a new run",
            cut,
            count,
            len(longest),
            longest[:40].decode("utf-8", errors="ignore"),
        )


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
