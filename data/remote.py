"""Shards that lie at an address: fetched whole, each once, or streamed, clip by clip where they lie.

Of a streamed shard only an index is kept: one pass over it, in which no clip is stored, says where each member lies and
what its texts are. A clip is then one request for its bytes. So order, ranks, workers and resuming are those of clips
in files; the price is a request for each showing of a clip.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, NamedTuple, cast
from urllib.parse import urlsplit

from tqdm import tqdm  # type: ignore[import-untyped]

log = logging.getLogger(__name__)

STREAM = "stream:"  # in front of an address
SCHEMES = ("http", "https")
CHUNK = 2**20  # bytes that are fetched at a time
MARK = b'{"streamed": '  # the beginning of an index, which no .tar file has
DAMAGED = "is a damaged index of a streamed shard; remove it, and the same list makes it again"
WAITS = (0.5, 2.0, 8.0)  # seconds between attempts
TIMEOUT = 60  # seconds that a server may say nothing,
TIMEOUT_OF_PART = 20  # and where a training waits: with all attempts less than data.timeout


class Entry(NamedTuple):
    """An ordinary file in a shard: where it lies, and what it says where it is a text of a clip."""

    name: str
    offset: int
    size: int
    note: bytes | None


class Unreachable(Exception):
    """What cannot be had from an address, and why."""


def fetched(address: str, cache: Path) -> Path:
    """The shard of an address in the folder `cache`, fetched if it is not there yet; of several processes that ask for
    it one does. Raises ValueError, in one line."""
    target = _place(address, cache)
    with _making(target, address) as part:
        if part is None:
            return target
        with _answer(address) as answer, part.open("wb") as file:
            total = _length(answer)
            with _bar(target, total) as bar:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        if total is not None and part.stat().st_size != total:
            raise ValueError(f"{part.stat().st_size} of {total} bytes came")
    log.info("fetched %s: %s", address, target)
    return target


def indexed(address: str, cache: Path, entries: Callable[[tarfile.TarFile, int | None], Iterator[Entry]]) -> Path:
    """The index of a streamed shard in the folder `cache`, made by one pass over the shard if it is not there yet.

    Where it was made with another query behind the same address, as signed addresses have, it takes the new one.

    entries: of an open shard, and of how many bytes it is. Raises ValueError, in one line.
    """
    target = _place(address, cache / "streamed")
    if target.is_file() and (before := index_of(target)) is not None and before["streamed"] != address:
        anew = target.with_name(f".{target.name}.{os.getpid()}.part")
        anew.write_text(json.dumps({**before, "streamed": address}), encoding="utf-8")
        os.replace(anew, target)
    with _making(target, address) as part:
        if part is None:
            return target
        with _answer(address, (0, 1)) as answer:
            total = _total(answer)
        with (
            _answer(address) as answer,
            _bar(target, total) as bar,
            tarfile.open(fileobj=cast(Any, _Counted(answer, bar)), mode="r|") as shard,
        ):
            listed = [[*each[:3], _as_text(each.note)] for each in entries(shard, total)]
        about = {"streamed": address, "bytes": total, "entries": listed}
        part.write_text(json.dumps(about), encoding="utf-8")
    log.info("%s has %d members, which are read where they lie; %s says where", address, len(listed), target)
    return target


def index_of(shard: Path) -> dict[str, Any] | None:
    """What an index says; None for a shard. Raises ValueError for one that is damaged."""
    with shard.open("rb") as file:
        if file.read(len(MARK)) != MARK:
            return None
        try:
            about: dict[str, Any] = json.loads(MARK + file.read())
        except ValueError:
            raise ValueError(f"{shard} {DAMAGED}") from None
    return about


def entries_of(about: dict[str, Any]) -> Iterator[Entry]:
    """The members that an index lists."""
    for name, offset, size, note in about["entries"]:
        yield Entry(name, offset, size, None if note is None else note.encode("latin-1"))


def address_of(shard: Path) -> tuple[str, int] | None:
    """Address and bytes of a streamed shard, by its index; None for a shard that is there. Raises ValueError for a
    damaged index."""
    with shard.open("rb") as file:
        beginning = file.read(len(MARK) + 8192)
    if not beginning.startswith(MARK):
        return None
    head, _, rest = beginning.partition(b', "bytes": ')
    try:
        return json.loads(head[len(MARK) :]), int(rest.partition(b",")[0])
    except ValueError:
        raise ValueError(f"{shard} {DAMAGED}") from None


def part_of(address: str, offset: int, size: int, total: int) -> bytes:
    """So many bytes of a file at an address, which has `total`. Raises Unreachable."""
    if not size:
        return b""
    for wait in (*WAITS, None):
        try:
            with _answer(address, (offset, size)) as answer:
                if _total(answer) != total:
                    raise Unreachable(f"{address} is another file by now, of {_total(answer)} bytes")
                content: bytes = answer.read()
            if len(content) == size:
                return content
            why = f"{len(content)} of {size} bytes came"
        except (OSError, HTTPException, ValueError) as error:
            why = _why(error)
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                break
        if wait is not None:
            time.sleep(wait)
    raise Unreachable(f"{address}: {why}")


def _place(address: str, cache: Path) -> Path:
    parts = urlsplit(address)
    return cache / (parts.hostname or "") / parts.path.lstrip("/").replace("/", "_")


@contextmanager
def _making(target: Path, address: str) -> Iterator[Path | None]:
    """A file to be written, which takes the place of `target` when the body succeeds; None where that is there. Of
    several processes the others wait. Raises ValueError, in one line, for what goes wrong."""
    if target.is_file():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with (target.parent / ".lock").open("w") as lock:
        with suppress(OSError):  # of file systems that know none: then each writes a file of its own
            fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_file():
            yield None
            return
        try:
            yield part
            os.replace(part, target)
        except (OSError, HTTPException, tarfile.TarError, ValueError) as error:
            raise ValueError(f"data.manifest={address}: {_why(error)}") from None
        finally:
            part.unlink(missing_ok=True)


def _answer(address: str, part: tuple[int, int] | None = None) -> Any:
    """What a server answers, of a part (offset, size) alone. Raises ValueError where it has no parts."""
    request = urllib.request.Request(address)  # noqa: S310 the scheme was looked at
    if part is not None:
        request.add_header("Range", f"bytes={part[0]}-{part[0] + part[1] - 1}")
    answer = urllib.request.urlopen(request, timeout=TIMEOUT if part is None else TIMEOUT_OF_PART)  # noqa: S310
    if part is not None and answer.status != 206:
        answer.close()
        raise ValueError("this server gives no parts of a file; without stream: in front the shards are fetched whole")
    return answer


def _total(answer: Any) -> int:
    """Bytes of the whole file, of which the answer is a part."""
    _, _, total = (answer.headers.get("Content-Range") or "").rpartition("/")
    if not total.isdecimal():
        raise ValueError("the server does not say how large the file is")
    return int(total)


def _length(answer: Any) -> int | None:
    length = answer.headers.get("Content-Length")
    return int(length) if length is not None and length.isdigit() else None


def _why(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__


def _as_text(note: bytes | None) -> str | None:
    return None if note is None else note.decode("latin-1")


def _bar(target: Path, total: int | None) -> Any:
    return tqdm(total=total, desc=target.name, unit="B", unit_scale=True, delay=1.0, disable=None)


class _Counted:
    """A file that is read to its end, with a bar."""

    def __init__(self, file: IO[bytes], bar: Any) -> None:
        self.file, self.bar = file, bar

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.bar.update(len(content))
        return content
