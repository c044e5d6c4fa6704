"""Shards of a latent cache: safetensors files of entries in a fixed order, and an index that says where each lies.

An entry is what is kept of a clip in one view, or of a prompt. Which entries a shard holds follows from its number
alone, and it appears whole or not at all: whoever makes shards may be killed at any moment and begin again, and any
number of processes may make some each. The bytes are the same in all cases. The index is made of the shards' headers
when all are there.

The files are written here rather than by the library, whose order of metadata differs from process to process.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

SUFFIX = ".safetensors"
INDEX = "index.arrow"
PART = ".part"
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}
METADATA, ENTRIES = "__metadata__", "entries"
LONGEST_HEADER = 100_000_000  # bytes, as the library has it
BATCH = 65536  # entries of the index that are Python's objects at a time

TENSOR = pa.struct(
    {"name": pa.string(), "dtype": pa.string(), "shape": pa.list_(pa.int32()), "bytes": pa.int64(), "crc": pa.int64()}
)
SCHEMA = pa.schema(
    {
        "name": pa.string(),  # a clip's id, a prompt's hash
        "why": pa.string(),  # it cannot be read; "": it can
        "num_frames": pa.int32(),  # of the clip in pixels
        "height": pa.int32(),
        "width": pa.int32(),
        "repeated": pa.int32(),  # frames of it that are shown again
        "shard": pa.int32(),
        "offset": pa.int64(),  # of its tensors, which follow one another, in the file
        "tensors": pa.list_(TENSOR),
    }
)


class Entry(NamedTuple):
    """What is kept of a clip or prompt, by name; nothing of one that cannot be read, where `why` says the reason."""

    name: str
    tensors: Mapping[str, Tensor]
    why: str = ""
    num_frames: int = 0
    height: int = 0
    width: int = 0
    repeated: int = 0


class Unfinished(ValueError):
    """A cache of which shards are missing."""


class ShardSet:
    """The entries of one folder.

    Args:
        folder: of the shards.
        entries: how many there are to be.
        per_shard: how many are in each shard; the last one may have fewer.
    """

    def __init__(self, folder: Path, entries: int, per_shard: int) -> None:
        self.folder = folder
        self.entries = entries
        self.per_shard = per_shard

    def __len__(self) -> int:
        """How many shards there are."""
        return -(-self.entries // self.per_shard)

    def file(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}{SUFFIX}"

    def numbers(self, shard: int) -> range:
        """Of the entries that a shard holds."""
        return range(shard * self.per_shard, min((shard + 1) * self.per_shard, self.entries))

    # -- making

    def missing(self) -> list[int]:
        """The shards that are not there, or not whole."""
        return [shard for shard in range(len(self)) if not self._is_whole(shard)]

    def _is_whole(self, shard: int) -> bool:
        try:
            return len(_header(self.file(shard))[0]) == len(self.numbers(shard))
        except (OSError, ValueError):
            return False

    def write(self, shard: int, entries: Sequence[Entry]) -> None:
        """Writes a shard, whole or not at all. Raises ValueError, in one line, where it cannot be written."""
        assert len(entries) == len(self.numbers(shard))
        told: list[dict[str, Any]] = []
        header: dict[str, Any] = {METADATA: {}}
        content: list[memoryview] = []
        at = 0
        for place, entry in enumerate(entries):
            crcs = {}
            for key, tensor in entry.tensors.items():
                raw = _bytes(tensor)
                crcs[key] = zlib.crc32(raw)
                offsets = [at, at := at + len(raw)]
                shape = list(tensor.shape)
                header[f"{place}.{key}"] = {"dtype": CODES[tensor.dtype], "shape": shape, "data_offsets": offsets}
                content.append(raw)
            told.append({**entry._asdict(), "tensors": crcs})
        header[METADATA] = {ENTRIES: json.dumps(told)}
        head = json.dumps(header).encode()
        head += b" " * (-len(head) % 8)
        with written(self.file(shard)) as file:
            file.write(len(head).to_bytes(8, "little"))
            file.write(head)
            for raw in content:
                file.write(raw)

    def finish(self) -> bool:
        """Writes the index, if all shards are there; whether they are."""
        if self.missing():
            return False
        with written(self.folder / INDEX) as file, pa.ipc.new_file(file, SCHEMA) as index:
            rows: list[dict[str, Any]] = []
            for shard in range(len(self)):
                rows += _rows(self.file(shard), shard)
                while len(rows) >= BATCH:
                    index.write_batch(pa.RecordBatch.from_pylist(rows[:BATCH], SCHEMA))
                    rows = rows[BATCH:]
            index.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
        return True

    # -- reading

    @cached_property
    def table(self) -> pa.Table:
        """The index, a row for each entry. It stays in the file, which processes share.

        Raises Unfinished where there is none, ValueError where it is damaged; in one line.
        """
        file = self.folder / INDEX
        if not file.is_file():
            missing = len(self.missing())
            raise Unfinished(
                f"{self.folder} is not finished: {missing} of {len(self)} shards are missing; the same command of"
                " scripts/cache_latents.py goes on with it"
            )
        try:
            table = pa.ipc.open_file(pa.memory_map(os.fspath(file))).read_all()
            whole = table.schema == SCHEMA and table.num_rows == self.entries
        except (pa.ArrowException, OSError):
            whole = False
        if not whole:
            raise ValueError(
                f"{file} is damaged, or of another cache; remove it: scripts/cache_latents.py makes it of the shards"
            )
        return table

    def about(self, number: int) -> dict[str, Any]:
        """The row of the index of an entry."""
        row: dict[str, Any] = self.table.slice(number, 1).to_pylist()[0]
        return row

    def read(self, about: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of the entry with this row of the index.

        Raises:
            ValueError: the shard is missing, or what is there is not what was written; in one line.
        """
        file = self.file(about["shard"])
        try:
            with file.open("rb") as opened:
                opened.seek(about["offset"])
                return {each["name"]: _tensor(opened, each) for each in about["tensors"]}
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ValueError(
                f"{file} is damaged at {about['name']!r:.200} ({why}): remove it, and the command of"
                " scripts/cache_latents.py that made it makes it again"
            ) from None


def _bytes(tensor: Tensor) -> memoryview:
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return plain.numpy().data


def _tensor(file: IO[bytes], about: Mapping[str, Any]) -> Tensor:
    if not about["bytes"]:
        return torch.empty(about["shape"], dtype=DTYPES[about["dtype"]])
    raw = np.empty(about["bytes"], np.uint8)
    if file.readinto(raw.data) != len(raw):  # type: ignore[attr-defined]
        raise ValueError("it ends too early")
    if zlib.crc32(raw.data) != about["crc"]:
        raise ValueError("another checksum")
    return torch.from_numpy(raw).view(DTYPES[about["dtype"]]).reshape(about["shape"])


def _header(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """What a shard says of its entries, the places of its tensors, and where these begin. Raises ValueError for a file
    that is not whole."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > min(size, LONGEST_HEADER):
            raise ValueError(f"{file} is no shard")
        header = json.loads(opened.read(length))
    try:
        told: list[dict[str, Any]] = json.loads(header.pop(METADATA)[ENTRIES])
        end = max((each["data_offsets"][1] for each in header.values()), default=0)
    except (LookupError, TypeError, AttributeError):
        raise ValueError(f"{file} is no shard") from None
    if size != 8 + length + end:
        raise ValueError(f"{file} has {size:,} bytes, and its header says {8 + length + end:,}: it was cut off")
    return told, header, 8 + length


def _rows(file: Path, shard: int) -> Iterator[dict[str, Any]]:
    """Rows of the index."""
    told, places, begin = _header(file)
    at = begin
    for number, entry in enumerate(told):
        tensors = []
        for key, crc in entry["tensors"].items():
            place = places[f"{number}.{key}"]
            first, last = place["data_offsets"]
            tensors.append(
                {"name": key, "dtype": place["dtype"], "shape": place["shape"], "bytes": last - first, "crc": crc}
            )
        yield {**entry, "shard": shard, "offset": at, "tensors": tensors}
        at += sum(each["bytes"] for each in tensors)


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place when the body succeeds, on the disk by then.

    Raises ValueError, in one line, where it cannot be written, as on a full disk.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {error.strerror or error}. What is there stays: see to that, and the same"
            " command goes on"
        ) from None
    finally:
        part.unlink(missing_ok=True)
