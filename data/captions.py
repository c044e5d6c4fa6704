"""Captions in files beside the clips."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
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
                return captions_of({str(file): read_text(file)}, str(clip), str(clip.with_suffix("")))
    return ()


def captions_of(texts: Mapping[str, str], clip: str, stem: str) -> tuple[str, ...]:
    """The same of texts that lie beside a clip, by the names of their files: `clip` and `stem`, without its ending, are
    what the name begins with."""
    for ending in (".txt", ".json"):
        for name in (f"{clip}{ending}", f"{stem}{ending}"):
            if name in texts:
                found = [texts[name]] if ending == ".txt" else from_json(texts[name], name)
                return tuple(caption for each in found if (caption := " ".join(each.split())))
    return ()


def rights_beside(clip: Path) -> dict[str, str]:
    """Licence and source of a clip, by the JSON object beside it (`clip.mp4.json` or `clip.json`): `licence` (or
    `license`) and `source`. Without one, or where it does not say, "".
    """
    texts = {}
    for file in (clip.with_name(clip.name + ".json"), clip.with_suffix(".json")):
        if file.is_file():
            with suppress(ValueError):  # where its captions are wanted, `captions_beside` says so
                texts[str(file)] = read_text(file)
            break
    return rights_of(texts, str(clip), str(clip.with_suffix("")))


def rights_of(texts: Mapping[str, str], clip: str, stem: str) -> dict[str, str]:
    """The same of texts that lie beside a clip, as `captions_of`."""
    said: dict[str, str] = dict.fromkeys(RIGHTS, "")
    text = next((texts[name] for name in (f"{clip}.json", f"{stem}.json") if name in texts), "null")
    try:
        content = _parsed(text, "")
    except ValueError:
        return said
    for key, value in content.items() if isinstance(content, dict) else ():
        if (name := OTHER_NAMES.get(key, key)) in RIGHTS and isinstance(value, str):
            said[name] = value
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
