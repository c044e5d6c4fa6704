"""WebDataset shards as a list of clips: tar files in which members with one name and different endings are one sample.

A shard is a row for each of its clips, whose path is that of the member behind that of the shard,
`train-000.tar/a.mp4`. Rows say where in the file the member lies, so a clip is read by itself, in any order: the order
of training, ranks, workers and resuming are those of clips in files (`sampler.py`).

Shards elsewhere (`https://...`) are fetched whole, each once, into a folder; `pipe:` and other schemes are refused, and
no text of a list ever reaches a shell.
"""

from __future__ import annotations

import logging
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
from tqdm import tqdm  # type: ignore[import-untyped]

from data.captions import captions_of, rights_of
from data.columns import NUMBER, TEXT, TEXTS
from data.decode import BadClip
from data.folder import VIDEOS
from data.images import EXTENSIONS

log = logging.getLogger(__name__)

TAR = ".tar"
SCHEMES = ("http", "https")
NOTES = (".txt", ".json", ".cls")  # members that say something of a clip
LONGEST_NOTE = 2**20  # bytes
CHUNK = 2**20  # bytes that are fetched at a time
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
        pattern: a path or address, in which `{000..031}` and `{a,b}` stand for several.
        root: folder that a path is relative to; None: it is as it is.
        cache: folder for shards that are fetched.

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
    names: list[str] = [name for name in expand(pattern) if name]
    for name in names:
        scheme = name.partition(":")[0] if "://" in name or name.startswith("pipe:") else "file"
        if scheme == "pipe":
            raise ValueError(f"data.manifest={name}: a pipe would run a command; run it yourself, and name its files")
        if scheme not in (*SCHEMES, "file") or (scheme == "file" and "://" in name):
            raise ValueError(f"data.manifest={name}: cannot read {scheme}://; use files, or {' or '.join(SCHEMES)}")
        if not urlsplit(name).path.endswith(TAR):
            raise ValueError(f"data.manifest={name}: a shard is an uncompressed .tar file")
    return names


def _local(name: str, root: Path | None, cache: str | None) -> Path:
    if "://" in name:
        if cache is None:
            raise ValueError(
                f"data.manifest={name}: data.shard_cache=FOLDER says where shards are kept that are fetched"
            )
        return fetched(name, Path(cache))
    path = Path(name) if root is None else root / name
    if not path.is_file():
        raise FileNotFoundError(f"data.manifest={path}: no such file")
    return path


def fetched(address: str, cache: Path) -> Path:
    """The shard of an address in the folder `cache`, fetched if it is not there yet.

    Several processes may ask for the same one: each writes a file of its own, which takes its place when it is whole.
    """
    parts = urlsplit(address)
    target = cache / (parts.hostname or "") / parts.path.lstrip("/").replace("/", "_")
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, part.open("wb") as file:  # noqa: S310
            length = answer.headers.get("Content-Length")
            total = int(length) if length is not None and length.isdigit() else None
            with tqdm(total=total, desc=target.name, unit="B", unit_scale=True, delay=1.0, disable=None) as bar:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        if total is not None and part.stat().st_size != total:
            raise ValueError(f"{part.stat().st_size} of {total} bytes came")
        os.replace(part, target)
    except (OSError, ValueError) as error:
        raise ValueError(f"data.manifest={address}: {getattr(error, 'reason', None) or error}") from None
    finally:
        part.unlink(missing_ok=True)
    log.info("fetched %s: %s", address, target)
    return target


def _members(shard: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and bytes of each ordinary file in a shard."""
    size, last = shard.stat().st_size, "its beginning"
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse():
                    name = member.name.removeprefix("./")
                    if name.startswith("/") or ".." in name.split("/"):
                        raise ValueError(f"the name {name!r} leads out of the shard")
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("unexpected end of data")
                    yield name, member.offset_data, member.size
                last = member.name.removeprefix("./")
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{shard}: {error} behind {last}; the shard is cut off, damaged, or no .tar file") from None
    except ValueError as error:
        raise ValueError(f"{shard}: {error}") from None


def _rows(shard: Path, named: str) -> Iterator[dict[str, Any]]:
    """The clips of a shard. Members of a sample follow one another, as WebDataset writes them."""
    split = import_module("webdataset.tariterators").base_plus_ext
    with shard.open("rb") as file:
        sample: list[tuple[str, int, int]] = []
        key: str | None = None
        for member in _members(shard):
            its: str | None = split(member[0])[0]
            if its != key:
                yield from _sample(file, shard, named, sample)
                sample, key = [], its
            if its is not None:
                sample.append(member)
        yield from _sample(file, shard, named, sample)


def _sample(
    file: IO[bytes], shard: Path, named: str, members: Sequence[tuple[str, int, int]]
) -> Iterator[dict[str, Any]]:
    endings = {name: os.path.splitext(name)[1].lower() for name, _, _ in members}
    videos = [each for each in members if endings[each[0]] in VIDEOS]
    clips = videos or [each for each in members if endings[each[0]] in EXTENSIONS]  # beside a video it is a thumbnail
    if not clips:
        return
    notes = {name: _note(file, shard, *each) for name, *each in members if endings[name] in NOTES}
    for name, offset, size in clips:
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


def _note(file: IO[bytes], shard: Path, offset: int, size: int) -> str:
    if size > LONGEST_NOTE:
        raise ValueError(f"{shard}: a text of {size} bytes at {offset}; captions are shorter than {LONGEST_NOTE}")
    file.seek(offset)
    content = file.read(size)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{shard}: the text at byte {offset} is not UTF-8; make the shard with UTF-8") from None


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
    return {name: (offset, size) for name, offset, size in _members(shard)}


@contextmanager
def opened(path: Path, member: Member | None) -> Iterator[Path]:
    """A path under which decoders can read a clip: its own, or that of a copy in memory (elsewhere than on Linux: on
    the disk), which is gone afterwards. Raises BadClip where the shard ends before the member does."""
    if member is None:
        yield path
        return
    with member.shard.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    if len(content) < member.size:
        raise BadClip(path, f"{member.shard.name} ends before it does")
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
