"""The clips that a run was validated on, which samples are held against: those of its world, or out of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from data.batch import NO_CLASS, Item
from data.clips import ClipDataset, clip_data
from data.decode import Ladder
from data.worlds.world import World
from dit.config.kinds import fitted
from dit.evaluation.suites.of_world import ENDLESS, exact_flow, worlds
from dit.foreign import Kind, build
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.request import Request

FILES = f"{clip_data.__module__}.{clip_data.__qualname__}"
DECODER = Kind(Ladder, "data.decode")


@dataclass(frozen=True)
class RealClips:
    """Clips that a run did not train on.

    Attributes:
        split: which they are, in words, with a hash of what decides them.
        fps: frames a second.
        count: how many there are; None: as many as are asked for.
        item: the clip of a number.
        flow: its exact flow, and what is visible in both frames, as `of_world.exact_flow` has them; None where nobody
            knows.
    """

    split: str
    fps: float
    count: int | None
    item: Callable[[int], Item]
    flow: Callable[[int], tuple[Tensor, Tensor]] | None = None

    def at_most(self, wanted: int) -> int:
        """How many there are of those that are wanted."""
        return wanted if self.count is None else min(wanted, self.count)

    def pixels(self, index: int) -> Tensor:
        """uint8 (3, F, H, W)."""
        return self.item(index)["pixels"]

    def request(self, index: int, seed: int, with_label: bool) -> Request:
        """The sample of what is said of a clip. with_label: for a network that reads classes."""
        item = self.item(index)
        label = item.get("label", NO_CLASS)
        return Request(item["caption"], None, seed, label if with_label and label != NO_CLASS else None)


def real_clips(
    checkpoint: Checkpoint,
    trusted: Sequence[str],
    manifest: str | None,
    root: str | None,
    wanted: int,
    frames: int | None = None,
) -> RealClips:
    """The clips that a run was validated on.

    Args:
        manifest, root: where files lie, if not where the run's config says.
        wanted: how many are asked for. Of files that a filter holds out (`data.val_filter`) there may be more than the
            run validated on; without a filter all others were trained on.
        frames: of clips that are longer than those of training, which worlds alone have (their split "longer").

    Raises ValueError or FileNotFoundError, in one line: data that a checkpoint's config cannot bring back, files that
    are not there, or that have several shapes, longer clips of what has none.
    """
    data = checkpoint.value("data")
    if frames is not None:
        return _longer(checkpoint, trusted, frames)
    if isinstance(data, Mapping) and data.get("_target_") == FILES:
        return _of_files(checkpoint, data, manifest, root, wanted)
    if not isinstance(data, Mapping) or not isinstance(data.get("val"), Mapping):
        raise ValueError(f"{checkpoint.file} was validated on no clips that can be held beside samples")
    clips = checkpoint.part("data", "val", trusted=trusted)
    split = f"{getattr(clips, 'split', 'val')} clips of {type(clips).__name__} {_hash(data['val'])}"
    fps = float(checkpoint.clip()["fps"])
    if not isinstance(clips, World):
        return RealClips(split, fps, len(clips), clips.__getitem__)
    clips.num_clips = ENDLESS  # clip n does not depend on it
    item: Callable[[int], Any] = clips.__getitem__
    return RealClips(split, fps, None, item, lambda index: exact_flow(clips, clips.clip(index).state))


def _longer(checkpoint: Checkpoint, trusted: Sequence[str], frames: int) -> RealClips:
    worlds(checkpoint, trusted)  # or it is an error in one line
    try:
        clips = checkpoint.part("data", "val", trusted=trusted, changes={"split": "longer", "longer_frames": frames})
    except ValueError as error:
        raise ValueError(f"no clips of {frames} frames can be made, and windows= says how many: {error}") from None
    clips.num_clips = ENDLESS
    split = f"longer clips of {type(clips).__name__} {_hash(checkpoint.value('data')['val'])}"
    return RealClips(split, float(checkpoint.clip()["fps"]), None, clips.__getitem__)


def _of_files(
    checkpoint: Checkpoint, data: Mapping[str, Any], manifest: str | None, root: str | None, wanted: int
) -> RealClips:
    if data.get("shapes") is not None:
        raise ValueError(f"{checkpoint.file} was trained on clips of several shapes: sets of one shape can be compared")
    settings = {key: value for key, value in fitted(data, path="data").items() if not key.startswith("_")}
    if manifest is None and root is None and "://" in str(settings["manifest"]):
        said = f"the config in {checkpoint.file} names clips at {settings['manifest']}"
        raise ValueError(f"{said}: nothing is fetched for a checkpoint's config, name the set: manifest=")
    if manifest is not None or root is not None:
        settings |= {"manifest": manifest, "root": root}
    if settings.get("val_filter") is not None:
        settings["val_clips"] = max(wanted, int(settings["val_clips"]))
    settings |= {
        "decoder": build(settings["decoder"], DECODER, "data.decoder"), "shapes": None, "cache": None, "num_workers": 0,
        "shard_cache": None,
    }  # fmt: skip
    clips = clip_data(**settings).val
    if not isinstance(clips, ClipDataset):
        raise ValueError(f"{checkpoint.file} was validated on no clips (data.val_clips=0): name a set, manifest=FILE")
    said = settings["manifest"] or settings["root"]
    split = (
        f"{settings['val_filter'] or 'held-out clips'} of {str(said).rpartition('/')[2]}, {clips.fingerprint()[:12]}"
    )
    return RealClips(split, float(clips.fps), len(clips), clips.__getitem__)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
