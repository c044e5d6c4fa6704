"""Files that are either whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part"


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path beside `path` (folders are made) and renames it to `path` if the body succeeds.

    A reader, or a run that is killed half-way, never meets half a file; after an error the old file is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    temporary.unlink(missing_ok=True)  # a link of that name would be written through
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def unfinished_files(path: Path) -> list[Path]:
    """What processes that were killed inside `atomic(path)` have left beside it, and one that is inside now."""
    return [file for file in path.parent.glob(f".*{PART}") if file.name.startswith(f".{path.name}.")]
