"""Captions in files beside the clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.columns import OTHER_NAMES, RIGHTS
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
                found = [text] if ending == ".txt" else from_json(text, str(file))
                return tuple(caption for each in found if (caption := " ".join(each.split())))
    return ()


def rights_beside(clip: Path) -> dict[str, str]:
    """Licence and source of a clip, by the JSON object beside it (`clip.mp4.json` or `clip.json`): `licence` (or
    `license`) and `source`. Without one, or where it does not say, "".
    """
    said: dict[str, str] = dict.fromkeys(RIGHTS, "")
    for file in (clip.with_name(clip.name + ".json"), clip.with_suffix(".json")):
        if file.is_file():
            try:
                content = _parsed(read_text(file), str(file))
            except ValueError:  # where its captions are wanted, `captions_beside` says so
                break
            for key, value in content.items() if isinstance(content, dict) else ():
                if (name := OTHER_NAMES.get(key, key)) in RIGHTS and isinstance(value, str):
                    said[name] = value
            break
    return said


def from_json(text: str, file: str = "") -> list[str]:
    """The captions that a JSON text holds. Raises ValueError for anything else, naming `file`, if it is given."""
    content = _parsed(text, file)
    if isinstance(content, dict):
        content = next((content[key] for key in KEYS if key in content), [])
    found = content if isinstance(content, list) else [content]
    if wrong := [each for each in found if not isinstance(each, str)]:
        raise ValueError(f"{f'{file}: ' if file else ''}the caption {json.dumps(wrong[0])[:60]} is no text")
    return found


def _parsed(text: str, file: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{file}, line {error.lineno}: " if file else ""
        raise ValueError(f"{where}not JSON ({error.msg})") from None
    except RecursionError:
        where = f"{file}: " if file else ""
        raise ValueError(f"{where}not JSON that holds captions: nested too deeply") from None
