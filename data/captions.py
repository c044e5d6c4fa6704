"""Captions in files beside the clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.textfile import read_text

KEYS = ("caption", "captions", "text", "prompt")  # of a JSON object; the first that is there


def captions_beside(clip: Path) -> tuple[str, ...]:
    """What the file beside a clip says of it, for `clip.mp4` the first that is there of `clip.mp4.txt`, `clip.txt`,
    `clip.mp4.json` and `clip.json`; () without any.

    A text file is one caption, whatever its lines. A JSON file holds a text, a list of texts (several captions of the
    same clip), or an object with one of these under `caption`, `captions`, `text` or `prompt`; an object with none of
    them is about something else and gives no caption.

    Raises:
        ValueError: the file is not UTF-8 or not JSON, naming it and the line.
    """
    for ending in (".txt", ".json"):
        for file in (clip.with_name(clip.name + ending), clip.with_suffix(ending)):
            if file.is_file():
                text = read_text(file)
                found = [text] if ending == ".txt" else _from_json(text, file)
                return tuple(caption for each in found if (caption := " ".join(each.split())))
    return ()


def _from_json(text: str, file: Path) -> list[str]:
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {error.lineno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{file}: not JSON that holds captions: nested too deeply") from None
    if isinstance(content, dict):
        content = next((content[key] for key in KEYS if key in content), [])
    found = content if isinstance(content, list) else [content]
    if wrong := [each for each in found if not isinstance(each, str)]:
        raise ValueError(f"{file}: the caption {json.dumps(wrong[0])[:60]} is no text")
    return found
