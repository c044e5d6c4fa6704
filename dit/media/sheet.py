"""Contact sheets: many clips on one picture, each as a strip of its frames with its caption."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dit.media.files import atomic
from dit.media.video import as_uint8

PAPER, CARD, BORDER = (240, 242, 245), (255, 255, 255), (221, 225, 231)
INK, FAINT = (28, 33, 40), (110, 118, 129)
CAPTION_LINES = 2
CHARACTERS_A_ROW = 105  # sets the text size: so many would fit across the sheet, at whatever width it is shown

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    path: str | os.PathLike[str],
    videos: Sequence[Tensor],  # each (3, F, H, W), uint8 or float in [-1, 1]
    captions: Sequence[str],  # one a video
    columns: int,  # cards side by side
    frames_per_video: int,  # spread evenly over a video, first and last included
    scale: int,  # each pixel becomes scale x scale pixels
    metadata: Mapping[str, str],  # written into the file as PNG text
    title: str = "",
) -> None:
    """Writes a PNG with one card for each video: frames from left to right in time order, the caption below.

    `metadata` is read back by `PIL.Image.open(path).text`. The file appears whole or not at all.

    Raises:
        ValueError: nothing to show, another number of captions than videos, or a count or scale below 1.
    """
    if not videos or len(videos) != len(captions):
        raise ValueError(
            f"a contact sheet needs a caption for each video: {len(videos)} videos, {len(captions)} captions"
        )
    if min(columns, frames_per_video, scale) < 1:
        raise ValueError(
            f"columns={columns}, frames_per_video={frames_per_video} and scale={scale} must be at least 1 each"
        )
    strips = [_strip(video, frames_per_video, scale) for video in videos]
    columns = min(columns, len(strips))

    strip_width = max(strip.width for strip in strips)
    unit = max(14, round(1.9 * strip_width * columns / CHARACTERS_A_ROW))  # text size; all distances follow from it
    font, title_font = ImageFont.load_default(unit), ImageFont.load_default(round(1.5 * unit))
    line, padding, gap = round(1.35 * unit), round(0.75 * unit), round(0.8 * unit)
    card_width = strip_width + 2 * padding
    texts = [_wrap(caption, font, strip_width) for caption in captions]

    rows = [range(start, min(start + columns, len(strips))) for start in range(0, len(strips), columns)]
    heights = [
        2 * padding + max(strips[i].height for i in row) + padding // 2 + line * max(len(texts[i]) for i in row)
        for row in rows
    ]
    header = round(2.6 * unit) if title else 0
    size = (
        columns * card_width + (columns + 1) * gap,
        header + sum(heights) + (len(rows) + 1) * gap,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((gap + padding, gap + header // 2), title, INK, title_font, anchor="lm")
    top = gap + header
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = gap + column * (card_width + gap)
            _card(sheet, (left, top, left + card_width, top + height), radius=unit // 2)
            sheet.paste(strips[i], (left + padding, top + padding))
            y = top + padding + max(strips[k].height for k in row) + padding // 2
            for text in texts[i]:
                draw.text((left + padding, y), text, INK if captions[i] else FAINT, font)
                y += line
        top += height + gap

    words = PngInfo()
    for key, value in metadata.items():
        words.add_itxt(key, value)
    with atomic(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=words, optimize=True)


def _strip(video: Tensor, frames_per_video: int, scale: int) -> Image.Image:
    """The frames of one clip side by side with thin gaps between them."""
    if video.ndim != 4 or video.shape[0] != 3 or 0 in video.shape:
        raise ValueError(f"a video is (3, frames, height, width), none of them 0; got {tuple(video.shape)}")
    pixels = as_uint8(video.detach()).cpu().permute(1, 2, 3, 0).numpy()  # (F, H, W, 3)
    picked = np.linspace(0, len(pixels) - 1, min(frames_per_video, len(pixels))).round().astype(int)
    frames = pixels[picked].repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, _ = frames.shape
    gap = max(2, width // 32)
    strip = np.full((height, count * (width + gap) - gap, 3), CARD, np.uint8)
    for i, frame in enumerate(frames):
        strip[:, i * (width + gap) : i * (width + gap) + width] = frame
    return Image.fromarray(strip)


def _card(sheet: Image.Image, box: tuple[int, int, int, int], radius: int) -> None:
    """A rounded rectangle with a thin border, drawn four times too large and shrunk, for smooth corners."""
    width, height = box[2] - box[0], box[3] - box[1]
    large = Image.new("L", (4 * width, 4 * height))
    mask = ImageDraw.Draw(large)
    mask.rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * radius, fill=255)
    sheet.paste(BORDER, box, large.resize((width, height), Image.Resampling.BOX))
    large.paste(0, (0, 0, 4 * width, 4 * height))
    mask.rounded_rectangle((5, 5, 4 * width - 6, 4 * height - 6), 4 * radius - 5, fill=255)
    sheet.paste(CARD, box, large.resize((width, height), Image.Resampling.BOX))


def _wrap(caption: str, font: Font, width: int) -> list[str]:
    """A caption as lines that fit `width` pixels, the last one cut with dots where it does not."""
    words = caption.split() or ["(no prompt)"]
    lines = [""]
    for i, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif lines[-1] and len(lines) < CAPTION_LINES:
            lines.append(_cut(word, font, width))
        else:
            lines[-1] = _cut(" ".join([lines[-1], *words[i:]]).strip(), font, width)
            break
    return lines


def _cut(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
