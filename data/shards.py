"""WebDataset shards as a list of clips: tar files in which members with one name and different endings are one sample.

A shard is a row for each of its clips, whose path is that of the member behind that of the shard,
`train-000.tar/a.mp4`. Rows say where in the file the member lies, so a clip is read by itself, in any order: the order
of training, ranks, workers and resuming are those of clips in files (`sampler.py`).

Shards elsewhere (`https://...`) are fetched whole, or streamed (`remote.py`); `pipe:` and other schemes are refused,
and no text of a list ever reaches a shell.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
from tqdm import tqdm  # type: ignore[import-untyped]

from data.captions import captions_of, rights_of
from data.columns import NUMBER, TEXT, TEXTS
from data.decode import BadClip
from data.folder import VIDEOS
from data.images import EXTENSIONS
from data.remote import (
    SCHEMES,
    STREAM,
    Entry,
    Unreachable,
    address_of,
    entries_of,
    fetched,
    index_of,
    indexed,
    part_of,
)

TAR = ".tar"
NOTES = (".txt", ".json", ".cls")  # members that say something of a clip
LONGEST_NOTE = 2**20  # bytes
KNOWN = 16  # shards whose members are remembered, for lists that do not say where they lie


class Member(NamedTuple):
    """Where a clip lies in a shard: the file, and bytes."""

    shard: Path
    offset: int
    size: int


def are_shards(manifest: str | os.PathLike[str]) -> bool:
    """Whether what a run was given for a manifest names shards: it ends with .tar, or is an address."""
    name = os.fspath(manifest)
    return name.endswith(TAR) or "://" in name or name.startswith("pipe:")


def read_shards(pattern: str, root: Path | None, cache: str | None) -> tuple[Path, pa.Table]:
    """The clips of one or several shards, in their order, and the folder that their paths are relative to.

    Args:
        pattern: a path or address, in which `{000..031}` and `{a,b}` stand for several; with `stream:` in front of an
            address its clips are read where they lie.
        root: folder that a path is relative to; None: it is as it is.
        cache: folder for shards that are fetched, or the indices of those that are streamed.

    Returns:
        Columns `path`, `caption`, `offset`, `bytes`, and `label`, `licence` and `source` where a member says them: of
        `a.mp4` the caption is in `a.txt`, `a.json`, `a.mp4.txt` or `a.mp4.json`, the class in `a.cls`.

    Raises:
        ValueError, FileNotFoundError: in one line, naming the shard.
    """
    shards = [_local(each, root, cache) for each in expanded(pattern)]
    folder = Path(os.path.commonpath([os.path.abspath(each.parent) for each in shards]))
    rows: list[dict[str, Any]] = []
    for shard in tqdm(shards, "shards", unit="shard", delay=1.0, disable=None):
        rows += _rows(shard, os.path.relpath(os.path.abspath(shard), folder))
    if not rows:
        raise ValueError(f"data.manifest={pattern}: no videos and no images in {len(shards)} shards")
    kinds = {"path": TEXT, "caption": TEXTS, "offset": NUMBER, "bytes": NUMBER}
    kinds |= {name: TEXT for name in ("label", "licence", "source") if any(row[name] for row in rows)}
    return folder, pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()})


def expanded(pattern: str) -> list[str]:
    """The shards that a pattern names. Raises ValueError without the webdataset library, and for other schemes."""
    try:
        expand = import_module("webdataset.shardlists").expand_urls
    except ImportError as error:
        raise ValueError(f"data.manifest={pattern} needs {error.name}: pip install -r requirements-data.txt") from None
    streamed = STREAM if pattern.startswith(STREAM) else ""
    names: list[str] = [name for name in expand(pattern.removeprefix(STREAM)) if name]
    for name in names:
        scheme = name.partition(":")[0] if "://" in name or name.startswith("pipe:") else "file"
        if scheme == "pipe":
            raise ValueError(f"data.manifest={name}: a pipe would run a command; run it yourself, and name its files")
        if scheme not in (*SCHEMES, "file") or (scheme == "file" and "://" in name):
            raise ValueError(f"data.manifest={name}: cannot read {scheme}://; use files, or {' or '.join(SCHEMES)}")
        if not urlsplit(name).path.endswith(TAR):
            raise ValueError(f"data.manifest={name}: a shard is an uncompressed .tar file")
        if streamed and scheme == "file":
            raise ValueError(f"data.manifest={pattern}: {STREAM} is for addresses; a file is read where it lies anyway")
    return [streamed + name for name in names]


def _local(name: str, root: Path | None, cache: str | None) -> Path:
    if "://" in name:
        if cache is None:
            what = "the indices of streamed shards" if name.startswith(STREAM) else "shards that are fetched"
            raise ValueError(f"data.manifest={name}: data.shard_cache=FOLDER says where {what} are kept")
        if name.startswith(STREAM):
            return indexed(name.removeprefix(STREAM), Path(cache), _entries)
        return fetched(name, Path(cache))
    path = Path(name) if root is None else root / name
    if not path.is_file():
        raise FileNotFoundError(f"data.manifest={path}: no such file")
    return path


def _members(shard: Path) -> Iterator[Entry]:
    """Each ordinary file in a shard, or in one that is streamed."""
    if (about := index_of(shard)) is not None:
        yield from entries_of(about)
        return
    last = "its beginning"
    try:
        with tarfile.open(shard, "r:") as archive:
            for entry in _entries(archive, shard.stat().st_size):
                last = entry.name
                yield entry
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{shard}: {error} behind {last}; the shard is cut off, damaged, or no .tar file") from None
    except ValueError as error:
        raise ValueError(f"{shard}: {error}") from None


def _entries(archive: tarfile.TarFile, size: int | None) -> Iterator[Entry]:
    """Each ordinary file in an open shard of so many bytes; texts that are too long to be notes are not read."""
    for member in archive:
        if member.isreg() and not member.issparse():
            name = member.name.removeprefix("./")
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"the name {name!r} leads out of the shard")
            if size is not None and member.offset_data + member.size > size:
                raise tarfile.ReadError("unexpected end of data")
            note = None
            if os.path.splitext(name)[1].lower() in NOTES and member.size <= LONGEST_NOTE:
                opened = archive.extractfile(member)
                note = None if opened is None else opened.read()
            yield Entry(name, member.offset_data, member.size, note)
        archive.members = []  # type: ignore[attr-defined]  # it would keep them all


def _rows(shard: Path, named: str) -> Iterator[dict[str, Any]]:
    """The clips of a shard. Members of a sample follow one another, as WebDataset writes them."""
    split = import_module("webdataset.tariterators").base_plus_ext
    sample: list[Entry] = []
    key: str | None = None
    for member in _members(shard):
        its: str | None = split(member.name)[0]
        if its != key:
            yield from _sample(shard, named, sample)
            sample, key = [], its
        if its is not None:
            sample.append(member)
    yield from _sample(shard, named, sample)


def _sample(shard: Path, named: str, members: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    endings = {each.name: os.path.splitext(each.name)[1].lower() for each in members}
    videos = [each for each in members if endings[each.name] in VIDEOS]
    clips = videos or [each for each in members if endings[each.name] in EXTENSIONS]  # beside a video it is a thumbnail
    if not clips:
        return
    notes = {each.name: _text(shard, each) for each in members if endings[each.name] in NOTES}
    for name, offset, size, _ in clips:
        stem = os.path.splitext(name)[0]
        beside = {f"{of}{ending}": notes.get(f"{of}{ending}") for ending in NOTES for of in (name, stem)}
        texts = {place: text for place, text in beside.items() if text is not None}
        try:
            name.encode()
            said = captions_of(texts, name, stem)
            rights = rights_of(texts, name, stem)
        except UnicodeEncodeError:
            raise ValueError(f"{shard}: {name!r}: the name is not UTF-8") from None
        except ValueError as error:
            raise ValueError(f"{shard}: {error}") from None
        label = texts.get(f"{stem}.cls", "").strip()
        yield {
            "path": f"{named}/{name}",
            "caption": list(said),
            "offset": offset,
            "bytes": size,
            "label": label,
            **rights,
        }


def _text(shard: Path, member: Entry) -> str:
    if member.note is None:
        raise ValueError(
            f"{shard}: a text of {member.size} bytes at {member.offset}; captions are shorter than {LONGEST_NOTE}"
        )
    try:
        return member.note.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{shard}: the text at byte {member.offset} is not UTF-8; make the shard with UTF-8") from None


def inside(path: Path, offset: float | None, size: float | None) -> Member | None:
    """Where a clip lies whose path leads into a shard; None for a file of its own. What the list does not say is looked
    up in the shard. Raises BadClip where there is no such member."""
    if path.suffix == TAR or TAR not in "".join(path.parts):
        return None
    shard = next((parent for parent in path.parents if parent.suffix == TAR), None)
    if shard is None or not shard.is_file():
        return None
    if offset is not None and size is not None:
        return Member(shard, int(offset), int(size))
    name = path.relative_to(shard).as_posix()
    try:
        found = _places(shard, shard.stat().st_mtime_ns).get(name)
    except ValueError as error:
        raise BadClip(path, str(error)) from None
    if found is None:
        raise BadClip(path, f"{shard.name} has no member {name}")
    return Member(shard, *found)


@lru_cache(KNOWN)
def _places(shard: Path, changed: int) -> dict[str, tuple[int, int]]:
    return {name: (offset, size) for name, offset, size, _ in _members(shard)}


@contextmanager
def opened(path: Path, member: Member | None) -> Iterator[Path]:
    """A path under which decoders can read a clip: its own, or that of a copy in memory (elsewhere than on Linux: on
    the disk), which is gone afterwards. Raises BadClip where its bytes are not to be had."""
    if member is None:
        yield path
        return
    content = _content(path, member)
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        number = os.memfd_create("clip")
        try:
            with open(number, "wb", closefd=False) as copy:
                copy.write(content)
            yield Path(f"/proc/self/fd/{number}")
        finally:
            os.close(number)
        return
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / f"clip{path.suffix}"
        copied.write_bytes(content)
        yield copied


def _content(path: Path, member: Member) -> bytes:
    try:
        if (elsewhere := address_of(member.shard)) is not None:
            address, total = elsewhere
            return part_of(address, member.offset, member.size, total)
    except (Unreachable, ValueError) as error:
        raise BadClip(path, str(error)) from None
    with member.shard.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    if len(content) < member.size:
        raise BadClip(path, f"{member.shard.name} ends before it does")
    return content
