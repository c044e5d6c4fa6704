"""Makes latents, and what the text encoder says of captions, before a training: decoding and encoding are done once.

    python scripts/cache_latents.py experiment=finetune init_from=wan data.root=clips out=cache   # this first,
    python train.py experiment=finetune init_from=wan data.cache=cache name=tuned                 # then this
    python scripts/cache_latents.py ... trainer=ddp trainer.devices=8 out=cache                   # on eight GPUs
    python scripts/cache_latents.py ... data.manifest=grown.csv out=more without=cache            # when a list grows

Takes the overrides of the training that one means to start: they say which clips, codec, size, frame rate and text
encoder. What is in the folder is whole at any moment: a command that was killed goes on when it is given again, and
loses at most the shard that it was at. The training needs no clips any more, since their list travels with the latents
(docs/data.md). Settings, beside overrides of train.py:
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from data.batch import CaptionedClips, Clips, RedrawnClips, WithIds
from data.clips import ClipDataset
from data.decode import listing
from data.latents.listing import CHOSEN_BY, LEFT_OUT, write_list
from data.latents.making import SHOWN, ClipViews, Making
from data.latents.reading import EXCERPT, FORMAT, OLDER, TRAIN, VAL, LatentCache, differences
from dit.engine import caching
from dit.engine.config import Config
from dit.engine.ranks import is_first_rank
from dit.entry import one_line_errors
from dit.entry.command import INTERRUPTED, composed
from dit.locks import lock
from dit.machine import size_in_words
from dit.streams import steady
from dit.text.pretrained import Pretrained
from scripts import arguments

log = logging.getLogger("cache_latents")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PROMPTS_PER_SHARD = 256


@dataclass(frozen=True)
class Asked:
    """`name=value` on the command line."""

    out: str | None = None  # folder of the cache; needed
    views: int = 1  # excerpts and crops of each training clip: those of its first showings in a training
    dtype: str = "float32"  # of latents: float32, with which training is what it is without a cache, or bfloat16
    prompts: bool = True  # also what a published text encoder says of the captions
    batch: int = 1  # clips that are encoded at once
    shard_mb: int = 256  # MiB of a shard, the most that is lost when the command is killed
    without: str | None = None  # a cache whose clips are left out; training on the new one reads them from there


def main(typed: Sequence[str]) -> None:
    if {"-h", "--help"} & set(typed):
        print(arguments.usage(__file__, str(__doc__)))
        return
    asked, overrides = parse(typed)
    make(asked, composed("train", overrides, Config))


def make(asked: Asked, config: dict[str, Any]) -> None:
    """Makes what is missing of the cache of a training's latents. config: of the training, plain containers."""
    parts = caching.build(config)
    making = plan(asked, parts)
    folder, is_first = Path(str(asked.out)), is_first_rank()
    with lock(folder, "being made by another process; wait for it") if is_first else nullcontext():
        if is_first:
            write_list_of(parts, folder)
            making.begin()
            tell(making, parts, asked)
        if making.missing():
            is_first = caching.encode(parts, making, DTYPES[asked.dtype])
        if is_first:
            report(making, folder)


def parse(typed: Sequence[str]) -> tuple[Asked, list[str]]:
    """What is asked for, and the overrides of train.py. Raises ValueError, in one line, for a value that cannot be."""
    given, overrides = arguments.parse(Asked, typed, "experiment=real_clips data.root=clips out=cache")
    asked = Asked(**given)
    if asked.out is None:
        raise ValueError("out=FOLDER is not given: where the cache is to be")
    for name in ("views", "batch", "shard_mb"):
        if getattr(asked, name) < 1:
            raise ValueError(f"{name}={getattr(asked, name)} must be at least 1")
    if asked.dtype not in DTYPES:
        raise ValueError(f"dtype={asked.dtype} must be one of {', '.join(DTYPES)}")
    return asked, overrides


def plan(asked: Asked, parts: caching.Parts) -> Making:
    """What is to be made. Raises ValueError or FileNotFoundError, in one line, where the folder holds another cache."""
    data: Any = parts.data
    sets = {name: each for name, each in sets_of(parts).items() if each is not None and len(each)}
    if not sets.get(TRAIN):
        raise ValueError("no clips to train on: data.train is empty; check its manifest, folder or size")
    views = {name: asked.views if name == TRAIN and isinstance(sets[name], RedrawnClips) else 1 for name in sets}
    if views[TRAIN] < asked.views:
        raise ValueError(f"views={asked.views}: these clips look the same in each epoch; views=1")
    about: dict[str, Any] = {
        "format": FORMAT,
        "key": parts.key,
        "posterior": parts.config["codec"].get("posterior", "mode"),
        "dtype": asked.dtype,
        "frames": parts.frames,
        "given": {"unknown": getattr(parts.objective.given, "unknown", None), "frames": [*map(list, parts.ways)]},
    }
    train = parts.listed[0]
    if isinstance(train, ClipDataset) and train.frame_columns:
        about[EXCERPT] = True
    older = None if asked.without is None else older_of(asked, about)
    rows = {name: None if older is None else lacking(older, name, each) for name, each in sets.items()}
    kept = {
        name: ClipViews(each, views[name], parts.frames, data.shapes_of(each), data.shape_numbers(each), rows[name])
        for name, each in sets.items()
    }
    kept = {name: each for name, each in kept.items() if len(each)}
    if not kept:
        raise ValueError(f"without={asked.without} holds all clips of this list: train with data.cache={asked.without}")
    per_shard = max(1, asked.shard_mb * 2**20 // bytes_of_clip(parts, DTYPES[asked.dtype]))
    about |= {
        "batch": asked.batch,
        "sets": {
            name: {"clips": len(each), "views": each.views, "per_shard": per_shard, "names": names_of(each)}
            for name, each in kept.items()
        },
    }
    if isinstance(train, ClipDataset):
        about |= {LEFT_OUT: dict(train.manifest.left_out), CHOSEN_BY: dict(train.manifest.chosen_by)}
    if older is not None:
        about[OLDER] = os.path.relpath(older.folder, str(asked.out))
    prompts = None
    if asked.prompts and isinstance(parts.text, Pretrained):
        every = [*dict.fromkeys(["", *(text for each in sets.values() for text in captions(each))])]
        there = None if older is None else older.prompts(parts.text.mark)
        if new := [text for text in every if there is None or not there.holds(text)]:
            prompts = (parts.text.mark, new)
    return Making(Path(str(asked.out)), about, kept, asked.batch, prompts, PROMPTS_PER_SHARD)


def older_of(asked: Asked, about: Mapping[str, Any]) -> LatentCache:
    """The cache whose clips are left out. Raises ValueError, in one line, where it is of other latents than `about`."""
    older = LatentCache(str(asked.without))
    if older.folder.absolute() == Path(str(asked.out)).absolute():
        raise ValueError(
            f"out={asked.out} is the cache that is to be left out: the clips that are new go into a new one"
        )
    names = [name for name in (*about, EXCERPT) if name != "format"]
    before = {name: older.about.get(name) for name in names}
    for key, was, wanted in differences(before, json.loads(json.dumps({name: about.get(name) for name in names}))):
        raise ValueError(
            f"without={asked.without} is of other latents: {key} was {was}, and is {wanted} now; give what it was made"
            " with, or make a cache of all clips"
        )
    return older


def lacking(older: LatentCache, name: str, clips: Clips) -> NDArray[np.int64]:
    """Which of the clips of a set a cache does not hold. Raises ValueError for clips that have no names."""
    if not isinstance(clips, WithIds):
        raise ValueError(f"without={older.folder}: these clips are generated; only those of a list can be told apart")
    return np.flatnonzero(older.rows(name, clips.ids()) < 0)


def sets_of(parts: caching.Parts) -> dict[str, Clips | None]:
    data: Any = parts.data
    return {TRAIN: data.train, VAL: data.val}


def names_of(kept: ClipViews) -> str | None:
    """A fingerprint of what the clips of a list are called, in their order; of others the config says it."""
    if not isinstance(kept.clips, WithIds):
        return None
    mark, names = sha256(), kept.clips.ids()
    for name in names if kept.rows is None else names.take(pa.array(kept.rows)):
        mark.update(f"{len(name.as_py())}:{name.as_py()}".encode(errors="surrogateescape"))
    return mark.hexdigest()[:16]


def captions(clips: Clips) -> Iterator[str]:
    """All that items may carry."""
    if isinstance(clips, CaptionedClips):
        yield from clips.captions()
    else:
        yield from (clips[index]["caption"] for index in range(len(clips)))


def bytes_of_clip(parts: caching.Parts, dtype: torch.dtype) -> int:
    """What is kept of a clip of full size, about."""
    data, codec = parts.config["data"], parts.codec
    frames, height, width = codec.latent_shape(data["num_frames"], data["height"], data["width"])
    latents = codec.channels * frames * height * width * dtype.itemsize
    copies = (2 if parts.config["codec"].get("posterior") == "sample" else 1) + len(parts.ways)
    return latents * copies + len(parts.frames) * 3 * data["height"] * data["width"]


def write_list_of(parts: caching.Parts, folder: Path) -> None:
    """The list of the clips, where they are of one; with those that fit no shape, or others would be held out of it."""
    lists = [each.manifest for each in parts.listed if isinstance(each, ClipDataset) and len(each)]
    if lists:
        write_list(folder, lists)


def tell(making: Making, parts: caching.Parts, asked: Asked) -> None:
    """Says what is to be made, and how much room it takes."""
    of_clip = bytes_of_clip(parts, DTYPES[asked.dtype])
    missing = making.missing()
    for name, shards in making.shards.items():
        left = [each for each in missing if each[0] == name]
        room = f", about {size_in_words(of_clip * shards.entries)}" if name in making.sets else ""
        views = f" in {making.sets[name].views} views" if name in making.sets and making.sets[name].views > 1 else ""
        what = (
            f"{making.about['sets'][name]['clips']} clips{views}" if name in making.sets else f"{shards.entries} texts"
        )
        log.info("%s: %s%s; %d of %d shards are to be made", name, what, room, len(left), len(shards))
    needed = of_clip * making.entries([each for each in missing if each[0] in making.sets])
    if needed > making.room():
        log.warning(
            "%s has %s free, and the clips that are missing take about %s: dtype=bfloat16 takes half, or give another"
            " folder",
            making.folder, size_in_words(making.room()), size_in_words(needed),
        )  # fmt: skip


def report(making: Making, folder: Path) -> None:
    """Writes the index, and says what is there."""
    entries = making.finish()
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    bad: Mapping[str, str] = making.unreadable()
    if bad:
        some = listing(dict(list(bad.items())[:SHOWN]))
        log.warning("%d clips cannot be read, and others stand in for them, as in training: %s", len(bad), some)
    counts = ", ".join(f"{count} of {name}" for name, count in entries.items())
    log.info("%s is whole: entries %s; %s. Train with data.cache=%s", folder, counts, size_in_words(held), folder)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s", stream=sys.stdout)
    with one_line_errors(), steady():
        try:
            main(sys.argv[1:])
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            sys.exit(INTERRUPTED)
