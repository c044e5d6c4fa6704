"""Text files of ordinary people: captions, prompts. UTF-8, with a byte order mark or without; anything else is refused
by name and line rather than guessed, since a wrong guess is learnt or sampled as gibberish."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark begins alike
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file without its byte order mark; line ends are newlines.

    Raises:
        ValueError: the file is in another encoding, or holds zero bytes, naming the file and the line.
    """
    content = Path(path).read_bytes()
    for mark, encoding in OTHER_MARKS.items():
        if content.startswith(mark):
            raise ValueError(f"{path}, line 1: the file is {encoding}; save it as UTF-8")
    content = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise ValueError(f"{path}, line {line}: a zero byte; the file is no text, or not UTF-8: save it as UTF-8")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
