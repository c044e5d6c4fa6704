"""Real clips: a random or fixed excerpt of each file, cut and scaled to one shape. An image is a clip that stands
still, or one of fewer frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from data.batch import Excerpt, Item, Shape
from data.decode import Ladder, Timeline
from data.epochs import Mixture
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


class View(Protocol):
    """Where in a file to look: (time, y, x), each in [0, 1], from the earliest, topmost, leftmost to the other end."""

    def __call__(self, index: int, epoch: int) -> tuple[float, float, float]: ...


class MiddleView:
    """Always the middle: for validation."""

    def __call__(self, index: int, epoch: int) -> tuple[float, float, float]:
        return 0.5, 0.5, 0.5


class RandomView:
    """Another place in each epoch, a pure function of (seed, index, epoch)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, index: int, epoch: int) -> tuple[float, float, float]:
        words = np.random.SeedSequence([self.seed, index, epoch]).generate_state(3)
        time, y, x = (float(word) / 2**32 for word in words)
        return time, y, x


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

    def told(self, index: int, epoch: int) -> Item:
        """The same without `pixels` and `repeated`. No file is opened."""
        row = self.manifest[index]
        item: Any = {"caption": pick_caption(row.captions, index, epoch), "id": row.id, "fps": self.fps}
        return self._with_columns(item, row)

    def _with_columns(self, item: Item, row: Row) -> Item:
        if self.classes:
            item["label"] = row.label
        if self.columns:
            item["columns"] = row.columns
        return item

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
            return Item(pixels=pixels, caption=caption, id=row.id, fps=self.fps)
        picked: list[int] = []

        def pick(timeline: Timeline) -> Sequence[int]:
            picked[:] = pick_frames(timeline, row, num_frames, self.fps, time)
            return picked

        frames = self.decoder.read(path, pick)
        pixels = fit(torch.from_numpy(frames), height, width, y, x)
        repeated = num_frames - len(set(picked))
        return Item(pixels=pixels, caption=caption, id=row.id, fps=self.fps, repeated=repeated)


def pick_caption(captions: Sequence[str], index: int, epoch: int) -> str:
    """One of a clip's captions, another in each epoch, a pure function of (index, epoch); "" without any."""
    if len(captions) < 2:
        return captions[0] if captions else ""
    return captions[int(np.random.SeedSequence([index, epoch]).generate_state(1)[0]) % len(captions)]


def pick_frames(timeline: Timeline, row: Row, num_frames: int, fps: float, time: float) -> Sequence[int]:
    """Numbers of the source frames nearest to `num_frames` moments at `fps`, inside the part that `row` names.

    `time` in [0, 1] chooses among the excerpts that fit. An excerpt begins on a source frame: between two frames,
    rounding would turn a source of the very same rate into one with frames doubled and dropped.

    Raises:
        BadClip: the part is shorter than the excerpt.
    """
    times = timeline.times
    part = timeline.part(row.start, row.end)
    needed = (num_frames - 1) / fps
    # The last frame is shown for one source frame's time, half of which is nearest to it.
    there = times[part[-1]] - times[part[0]] + 0.5 / timeline.fps if len(part) else 0.0
    if there < needed:
        most = int(there * fps + 1e-6) + 1 if len(part) else 0
        short = (
            f"{there:.2f} s are too short for {num_frames} frames at {fps:g} fps ({needed:.2f} s); {most} frames fit"
        )
        raise BadClip(row.path, short)
    last_begin = np.searchsorted(times, times[part[-1]] + 0.5 / timeline.fps - needed, side="right") - 1
    begins = max(1, int(last_begin) - int(part[0]) + 1)
    begin = int(part[0]) + min(int(time * begins), begins - 1)
    nearest = timeline.nearest(times[begin] + np.arange(num_frames) / fps)
    return [min(max(index, begin), int(part[-1])) for index in nearest]


def fit(frames: Tensor, height: int, width: int, y: float, x: float) -> Tensor:
    """Cuts frames, uint8 (F, h, w, 3), to the aspect of the target and scales them: uint8 (3, F, height, width).

    The crop is the largest of that aspect; `y` and `x` in [0, 1] choose its place. Scaling is bilinear with
    antialiasing.
    """
    h, w = frames.shape[1:3]
    scale = min(h / height, w / width)
    crop_h, crop_w = min(h, max(1, round(height * scale))), min(w, max(1, round(width * scale)))
    top, left = round(y * (h - crop_h)), round(x * (w - crop_w))
    cut = frames[:, top : top + crop_h, left : left + crop_w].permute(0, 3, 1, 2)  # (F, 3, crop_h, crop_w)
    scaled = F.interpolate(cut, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return scaled.transpose(0, 1).contiguous()


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
        listed = read_list(Path(cache), columns or (), also)
    else:
        listed = read_manifest(root, manifest, columns or (), also, shard_cache=shard_cache, opened=cache is None)
    clips = allowed(chosen(listed, asked), licences)
    if manifest is None and (lists := sorted(name.name for name in clips.root.glob("manifest.*"))):
        log.warning("%s is not read, the folder is; data.manifest=%s reads it", lists[0], clips.root / lists[0])
    _check_images(clips, num_frames, image_frames, shapes, max(batch_size, val_batch_size))
    clips, classes = classify(clips, labels, manifest or root or str(clips.root))
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
