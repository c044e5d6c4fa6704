"""Real clips: a random or fixed excerpt of each file, cut and scaled to one shape. An image is a clip that stands
still, or one of fewer frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.batch import Excerpt, Item, Shape
from data.decode import Ladder, Timeline
from data.epochs import Mixture
from data.excerpts import MiddleView, RandomView, View, fit, of_frames, pick_caption, pick_frames
from data.extents import extents
from data.filter import Filter
from data.fingerprint import fingerprint
from data.images import open_image
from data.labels import classify
from data.latents.listing import read_list
from data.manifest import Manifest, Row, chosen, read_manifest, told_apart
from data.measured import measured
from data.module import VideoData
from data.rights import allowed, ledger
from data.shapes import Extents, Ints, Shapes
from data.shards import are_shards
from data.skipping import first_readable
from data.sources import SOURCE, longer, mixture_of

log = logging.getLogger(__name__)

# A latent cache is used only where this is what made its clips: raise the number when a file gives other pixels.
MAKING = "1: frames nearest in time, the largest crop of the aspect, bilinear with antialiasing"


class ClipDataset(Dataset[Item]):
    """Clips of a manifest, of one frame rate, and of one shape but for images of another length; or each in a shape
    that it is asked for.

    A clip that cannot be read is replaced by another of the same manifest, chosen by (index, epoch) alone among those
    that have its shape, and travels along in the item's `skipped` (`data/skipping.py`).

    Args:
        manifest: which clips.
        decoder: reads them.
        view: which excerpt and crop.
        num_frames, height, width: of every item, unless it is asked for in another shape.
        fps: of every item; each frame is the source frame nearest in time. Sources slower than this repeat frames,
            which the item counts.
        classes: names of the classes that the manifest's rows name by number; none for clips without.
        image_frames: for how many frames an image is shown; None: for `num_frames`.
        mixture: how often the clips of which source are shown; None: all alike. weighted: the setting, for the card.
    """

    making = MAKING

    def __init__(
        self,
        manifest: Manifest,
        decoder: Ladder,
        view: View,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
        classes: Sequence[str] = (),
        image_frames: int | None = None,
        mixture: Mixture | None = None,
        weighted: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.manifest = manifest
        self.decoder = decoder
        self.view = view
        self.num_frames = num_frames
        self.height = height
        self.width = width
        self.fps = fps
        self.classes = classes
        self.columns = list(manifest.columns)
        self.frame_columns = list(manifest.frame_columns)
        self.image_frames = num_frames if image_frames is None else image_frames
        self.mixture = mixture
        self.weighted = weighted or {}
        self.number: Ints | None = None  # which shape each clip has, where there are several

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Item:
        return self.draw(index, epoch=0)

    def draw(self, index: int, epoch: int, shape: Shape | None = None) -> Item:
        """Clip `index` in its `epoch`-th showing, or a stand-in, in a shape; None: in the one that all have.

        Raises:
            BadClips: the clip and all stand-ins tried are unreadable.
        """
        return first_readable(
            index,
            epoch,
            name=lambda index: self.manifest[index].id,
            read=lambda index: self.read(index, epoch, shape),
            others=lambda: self.alike(index),
        )

    def read(self, index: int, epoch: int, shape: Shape | None = None) -> Item:
        """The same without a stand-in. Raises BadClip where the clip cannot be read."""
        row = self.manifest[index]
        item = self._read(row, self.view(index, epoch), pick_caption(row.captions, index, epoch), shape)
        return self._with_columns(item, row)

    def without_pixels(self, index: int, epoch: int, excerpt: Excerpt | None = None) -> Item:
        """The same without `pixels` and `repeated`. No file is opened.

        excerpt: the frames that were shown. Raises BadClip where `frame_columns` do not fit it.
        """
        row = self.manifest[index]
        item: Any = {"caption": pick_caption(row.captions, index, epoch), "id": row.id, "fps": self.fps}
        if excerpt is not None:
            item["excerpt"] = excerpt
        return self._with_columns(item, row)

    def _with_columns(self, item: Item, row: Row) -> Item:
        if self.classes:
            item["label"] = row.label
        if self.columns:
            whole: Any = row.columns
            cut = {name: of_frames(whole[name], item["excerpt"], name, row) for name in self.frame_columns}
            item["columns"] = {**whole, **cut}
        return item

    def span(self, column: str) -> tuple[float, float] | None:
        """The least and the greatest number in a column; None where it holds none."""
        held = self.manifest.table.column(column).combine_chunks()
        numbers = held.flatten() if pa.types.is_list(held.type) else held
        if not pa.types.is_floating(numbers.type) or numbers.null_count == len(numbers):
            return None
        found = pc.min_max(numbers).as_py()
        return found["min"], found["max"]

    def alike(self, index: int) -> Sequence[int]:
        """Clips that may stand in for one: those of its shape, where there are several."""
        if self.number is None:
            return range(len(self))
        alike: Sequence[int] = np.flatnonzero(self.number == self.number[index])  # type: ignore[assignment]
        return alike

    def ids(self) -> pa.Array:
        """What each clip is called."""
        return self.manifest.ids()

    def extents(self) -> Extents:
        """How large each clip is, as far as the manifest says."""
        return extents(self.manifest, self.fps)

    def shaped(self, number: Ints, left_out: dict[str, int]) -> ClipDataset:
        """The clips that have a shape, by the number of each (rows,), negative where it has none. left_out: how many
        those are, by the reason."""
        clips = copy(self)
        kept = number >= 0
        left_out = {**self.manifest.left_out, **left_out}
        clips.manifest = replace(self.manifest.taken(pa.array(kept)), left_out=left_out)
        if self.mixture is not None:
            clips.mixture = self.mixture._replace(source=self.mixture.source[kept])
        clips.number = number[kept].astype(np.int16)  # each loading process has a copy
        return clips

    def fingerprint(self) -> str:
        """Ids and captions in their order, wherever the files lie."""
        return fingerprint(self.manifest.root, self.manifest.stated)

    def document(self) -> dict[str, Any]:
        """For the data card: what the clips are, whose, and how they were chosen."""
        return {
            "files": pc.count_distinct(self.manifest.files()).as_py(),
            "without_caption": pc.sum(self.manifest.uncaptioned()).as_py() or 0,
            "classes": list(self.classes),
            "left_out": dict(self.manifest.left_out),
            "chosen_by": {**self.manifest.chosen_by, **self.weighted},
            "rights": ledger(self.manifest),
        }

    def captions(self) -> Iterator[str]:
        """Every caption that items may carry."""
        return self.manifest.captions()

    def _read(self, row: Row, view: tuple[float, float, float], caption: str, shape: Shape | None = None) -> Item:
        with row.opened() as path:
            frames = self.image_frames if row.is_image else self.num_frames
            return self._read_file(row, path, view, caption, shape or Shape(frames, self.height, self.width))

    def _read_file(self, row: Row, path: Path, view: tuple[float, float, float], caption: str, shape: Shape) -> Item:
        time, y, x = view
        num_frames, height, width = shape
        if row.is_image:
            still = torch.from_numpy(np.array(open_image(path)))  # (h, w, 3)
            pixels = fit(still[None], height, width, y, x).expand(-1, num_frames, -1, -1).contiguous()
            return self._item(row, pixels, caption, Excerpt([0] * num_frames, 1), repeated=0)
        excerpt = Excerpt([], 0)

        def pick(timeline: Timeline) -> Sequence[int]:
            nonlocal excerpt
            excerpt = Excerpt(pick_frames(timeline, row, num_frames, self.fps, time), len(timeline.times))
            return excerpt.frames

        frames = self.decoder.read(path, pick)
        pixels = fit(torch.from_numpy(frames), height, width, y, x)
        return self._item(row, pixels, caption, excerpt, repeated=num_frames - len(set(excerpt.frames)))

    def _item(self, row: Row, pixels: Tensor, caption: str, excerpt: Excerpt, repeated: int) -> Item:
        item = Item(pixels=pixels, caption=caption, id=row.id, fps=self.fps, repeated=repeated)
        if self.frame_columns:
            item["excerpt"] = excerpt
        return item


def clip_data(
    root: str | None,
    manifest: str | None,
    shard_cache: str | None,
    filter: str | None,
    licences: list[str] | None,
    labels: str | None,
    columns: list[str] | None,
    val_clips: int,
    decoder: Ladder,
    batch_size: int,
    val_batch_size: int,
    num_workers: int | None,
    seed: int,
    num_frames: int,
    image_frames: int | None,
    height: int,
    width: int,
    fps: float,
    timeout: float,
    pin_memory: bool,
    max_bad_share: float,
    shapes: Shapes | None = None,
    weights: dict[str, float] | None = None,
    weights_by: str | None = None,
    epoch_clips: int | None = None,
    val_filter: str | None = None,
    made_by: str | None = None,
    cache: str | None = None,
    frame_columns: list[str] | None = None,
) -> VideoData:
    """Real clips as training and validation data.

    Args:
        root: folder that the manifest's paths are relative to; None: the folder that the manifest is in.
        manifest: .csv, .jsonl or .parquet (`data.columns` says which columns), WebDataset shards (`data.shards`), or
            None for all videos and images in `root`.
        shard_cache: folder for shards that are fetched, or the indices of those that are streamed.
        filter: which rows are taken (`filter.py`), or None for all. Those that a check found a fault with never are.
        licences: those that are allowed (`rights.py`), or None for all.
        labels: where a clip's class is from, `column`, `folder` or None (`labels.py`).
        columns: of the manifest, that signals are made from; None is no further one.
        frame_columns: likewise, lists of numbers, equally many for each frame of the file; clips carry those of the
            frames that they show.
        val_clips: how many clips are held out, whole files by a hash of their path; 0 trains without validation.
        val_filter: clips that are not trained on (`filter.py`), `val_clips` of which are validated on; None: any.
        made_by: command that makes the manifest, for the message where it is not there.
        decoder: reads the files.
        image_frames: for how many frames an image is shown; None: for `num_frames`. Another number beside videos makes
            clips of two lengths, which do not share a batch: then the batch sizes are 1.
        weights, weights_by: how often the clips of which source are shown, and the column that says it (`sources.py`).
        shapes: of clips that do not all have one (`data.shapes`), images among them.
        epoch_clips: clips that an epoch shows at least, each equally often, where there are `shapes`: a batch of one
            shape holds no more clips of it than its epoch shows. None: each clip once, or as `weights` say.
        cache: folder of a latent cache, which is read in the place of the files (`data/latents`). Without `root` and
            `manifest`, the list of clips that lies in it is taken. None: clips are read from files.
        batch_size, ..., max_bad_share: as in `data.module.VideoData`.

    Raises FileNotFoundError or ValueError, in one line, for clips that are not there or cannot be batched.
    """
    if made_by is not None and manifest is not None and not are_shards(manifest) and not Path(manifest).exists():
        raise FileNotFoundError(f"data.manifest={manifest} is not there, or not whole yet; make it: {made_by}")
    asked = None if filter is None else Filter(filter)
    held_out = None if val_filter is None else Filter(val_filter, "data.val_filter")
    by = weights_by or SOURCE
    filters = [each for each in (asked, held_out) if each is not None]
    also = [*dict.fromkeys(name for each in filters for name in each.columns), *([by] if weights else ())]
    if cache is not None and root is None and manifest is None:
        listed = read_list(Path(cache), columns or (), also, frame_columns or ())
    else:
        listed = read_manifest(
            root, manifest, columns or (), also, shard_cache=shard_cache, opened=cache is None,
            frame_columns=frame_columns or (),
        )  # fmt: skip
    clips = allowed(chosen(listed, asked), licences)
    if manifest is None and (lists := sorted(name.name for name in clips.root.glob("manifest.*"))):
        log.warning("%s is not read, the folder is; data.manifest=%s reads it", lists[0], clips.root / lists[0])
    _check_images(clips, num_frames, image_frames, shapes, max(batch_size, val_batch_size))
    clips, classes = classify(clips, labels, manifest or root or str(clips.root))
    _check_frame_columns(clips, fps)
    if shapes is not None and (root is not None or manifest is not None):  # the list of a cache knows all sizes
        clips = measured(clips, decoder)
    train, val = clips.split(val_clips) if held_out is None else told_apart(clips, held_out, val_clips)
    mixture = mixture_of(train, weights, by)
    if shapes is not None and epoch_clips is not None:
        mixture = longer(mixture, len(train), epoch_clips)
    weighted = {f"weights by {by}": [f"{name} {weight:g}" for name, weight in weights.items()]} if weights else None
    shape = (num_frames, height, width, fps)
    return VideoData(
        train=ClipDataset(train, decoder, RandomView(seed), *shape, classes, image_frames, mixture, weighted),
        val=ClipDataset(val, decoder, MiddleView(), *shape, classes, image_frames) if val_clips else None,
        batch_size=batch_size,
        val_batch_size=val_batch_size,
        num_workers=num_workers,
        seed=seed,
        num_frames=num_frames,
        height=height,
        width=width,
        fps=fps,
        timeout=timeout,
        pin_memory=pin_memory,
        max_bad_share=max_bad_share,
        shapes=shapes,
        cache=cache,
    )


def _check_frame_columns(clips: Manifest, fps: float) -> None:
    """Raises ValueError for a list that has not equally many numbers for each frame, where the manifest says how many
    frames a file has. Warns where frames are never shown, as of actions between those that are."""
    for name in clips.frame_columns if "frames" in clips.table.column_names else ():
        numbers = np.asarray(pc.list_value_length(clips.table.column(name)))
        frames = np.asarray(clips.table.column("frames"), np.float64)  # nan where it is not known
        wrong = (frames > 0) & ((numbers == 0) | (numbers % np.where(frames > 0, frames, 1) != 0))
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(
                f"{clips[at].id}: column {name} has {numbers[at]} numbers for {frames[at]:g} frames: give equally many"
                f" for each ({int(wrong.sum())} of {len(clips)} clips are so)"
            )
    if not clips.frame_columns or "fps" not in clips.table.column_names:
        return
    fastest = pc.max(clips.table.column("fps")).as_py()
    if fastest is not None and fastest > 1.01 * fps:
        log.warning(
            "clips have up to %g frames a second and data.fps=%g shows fewer: what %s says of the frames in between is"
            " not seen",
            fastest, fps, " and ".join(clips.frame_columns),
        )  # fmt: skip


def _check_images(clips: Manifest, num_frames: int, image_frames: int | None, shapes: Shapes | None, most: int) -> None:
    """Says how many clips are images. most: in a batch. Raises ValueError for an `image_frames` that cannot be."""
    shown = num_frames if image_frames is None else image_frames
    if not 1 <= shown <= num_frames:
        raise ValueError(f"data.image_frames={image_frames} must be from 1 to data.num_frames={num_frames}, or null")
    if shapes is not None and image_frames is not None:
        raise ValueError(
            f"data.image_frames={image_frames} is for clips of one shape: with data.shapes images have the shortest"
            " length (data.shapes.lengths); data.image_frames=null"
        )
    if clips.report() == len(clips) and shown > 1 and shapes is None:
        log.warning(
            "all clips are images, and each is shown for %d frames, as a video that stands still; data.num_frames=1"
            " trains on images, where codec and network take them",
            shown,
        )
    if shown != num_frames and most > 1:
        raise ValueError(
            f"data.image_frames={image_frames} beside data.num_frames={num_frames} makes clips of two lengths, which"
            " share no batch: data/shapes=buckets, or data.batch_size=1 data.val_batch_size=1 and trainer.accumulate=N"
        )
