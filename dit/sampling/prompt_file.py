"""Files of prompts: plain text with a prompt a line, or a table with a negative prompt, a seed and signals for each."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.textfile import read_text
from dit.checkpoint.opened import missing

COLUMNS = ("prompt", "negative_prompt", "seed")
MAX_SEED = 2**63 - 1  # torch.Generator takes no more


@dataclass(frozen=True)
class Line:
    """A prompt as a file gives it; None where the file says nothing and the command line decides.

    more: what other columns say; which of them the network is told is not known here.
    """

    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def read_prompt_file(path: str | Path) -> list[Line]:
    """Prompts from a file, by its ending.

    - `.csv`: a header with `prompt` and, if wanted, `negative_prompt`, `seed` and names of signals; an empty cell says
      nothing.
    - `.jsonl`: on each line an object with these keys, or a text.
    - anything else: a prompt a line. Empty lines and lines that begin with `#` are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8, no prompt, or a line that cannot be read, by its number.
    """
    file = Path(path)
    if not file.is_file():
        raise missing(file, "prompt file")
    text = read_text(file)
    readers = {".csv": _csv, ".jsonl": _jsonl}
    lines = list(readers.get(file.suffix.lower(), _plain)(text, file))
    if not lines:
        raise ValueError(f"prompt file {file} holds no prompt; write one a line")
    return lines


def _plain(text: str, file: Path) -> Iterator[Line]:
    for line in text.split("\n"):
        if (prompt := line.strip()) and not prompt.startswith("#"):
            yield Line(prompt)


def _csv(text: str, file: Path) -> Iterator[Line]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = _header([cell.strip() for cell in cells], file)
                continue
            if len(cells) != len(names):
                raise ValueError(
                    f"prompt file {file}, line {reader.line_num}: {len(cells)} cells under {len(names)} columns; "
                    'put a prompt that holds commas in quotes: "a red circle, quickly"'
                )
            # What stands in a cell is text; a cell without any says nothing, but for the prompt, which may be "".
            row = {name: cell.strip() or None for name, cell in zip(names, cells, strict=True)}
            yield _line({**row, "prompt": row["prompt"] or ""}, file, reader.line_num)
    except csv.Error as error:
        raise ValueError(f"prompt file {file}, line {reader.line_num}: {error}") from None


def _header(names: list[str], file: Path) -> list[str]:
    if "prompt" not in names:
        raise ValueError(
            f"prompt file {file}, line 1: no column prompt; it has {', '.join(names)}. The first line of a CSV names "
            f"its columns: {','.join(COLUMNS)}"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"prompt file {file}, line 1: two columns {twice[0]}; leave one")
    return names


def _jsonl(text: str, file: Path) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"prompt file {file}, line {number}: not JSON ({error}); one object a line") from None
        if isinstance(row, str):
            row = {"prompt": row}
        if not isinstance(row, dict) or "prompt" not in row:
            raise ValueError(
                f'prompt file {file}, line {number}: no "prompt" in it; write {{"prompt": "...", "seed": 3}}, or a text'
            )
        yield _line(row, file, number)


def _line(row: Mapping[str, Any], file: Path, number: int) -> Line:
    prompt, negative = row["prompt"], row.get("negative_prompt")
    if type(prompt) is int:  # a class number
        prompt = str(prompt)
    for name, value in (("prompt", prompt), ("negative_prompt", "" if negative is None else negative)):
        if not isinstance(value, str):
            raise ValueError(f"prompt file {file}, line {number}: {name} is {json.dumps(value)}, which is no text")
    more = {name: value for name, value in row.items() if name not in COLUMNS and value is not None}
    return Line(prompt, negative, _seed(row.get("seed"), file, number), more)


def _seed(value: Any, file: Path, number: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAX_SEED:
        raise ValueError(
            f"prompt file {file}, line {number}: seed {json.dumps(value)} is not a whole number from 0 to {MAX_SEED}"
        )
    return value
