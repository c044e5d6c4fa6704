"""Features of sets of clips, and the distances between two sets: FVD, KVD, and FID of frames.

Clips come one by one, are put through the network a few at a time and let go of; what stays is a row of numbers for
each, or, of frames, sums. Features are kept on the disk under the network's mark and the clip's content, so that real
clips are looked at once and a run that was interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dit.evaluation.video import kernel as kvd
from dit.evaluation.video.clips import Shape, checked, in_words, key_of, levels, one_shape
from dit.evaluation.video.frechet import Moments, few_clips, frechet
from dit.evaluation.video.jackknife import GROUPS, Distance, groups_for
from dit.evaluation.video.networks import Network
from dit.evaluation.video.protocol import Protocol, Score
from dit.evaluation.video.ranks import Ranks
from dit.feature_store import FeatureStore

KEPT = "features"


class Extractor:
    """A feature network, and where its features are kept.

    folder: for files that other runs and ranks find again; None keeps nothing.
    """

    def __init__(self, network: Network, folder: Path | None) -> None:
        self.network = network
        self.store = FeatureStore(folder, f"{network.name}-{network.mark}") if folder else None
        self.computed = 0  # clips that were put through the network

    def __call__(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Features of clips of one shape, float32 on the CPU: `(d,)` of each, `(F, d)` where frames are looked at.

        Raises ValueError, in one line, for clips of too few frames.
        """
        taken = [levels(self.network.taken(clip)) for clip in clips]
        keys = [key_of(clip) for clip in taken] if self.store else []
        found = [self._read(key) for key in keys] or [None] * len(taken)
        missing = [place for place, features in enumerate(found) if features is None]
        if missing:
            made = self.network(torch.stack([taken[place] for place in missing]))
            self.computed += len(missing)
            for place, features in zip(missing, made, strict=True):
                found[place] = features
                if self.store:
                    self.store.write(keys[place], {KEPT: features})
        return [features for features in found if features is not None]

    def keep(self, clips: Sequence[Tensor], names: Sequence[str]) -> list[str]:
        """Makes sure that the features of clips of one shape are kept, and says by which names `kept` finds them.

        names: of the clips, for messages. Raises ValueError as `FeatureSet.add` does.
        """
        taken = [self.network.taken(checked(clip, name)) for clip, name in zip(clips, names, strict=True)]
        self(taken)
        return [key_of(clip) for clip in taken]

    def kept(self, name: str) -> Tensor:
        """What `keep` kept. ValueError, in one line, where it is no longer there."""
        features = self._read(name)
        if features is None:
            where = self.store.folder if self.store else "memory"
            raise ValueError(f"features of a clip that was measured are no longer in {where}: measure it anew")
        return features

    def _read(self, name: str) -> Tensor | None:
        kept = self.store.read(name) if self.store else None
        return None if kept is None else kept.get(KEPT)


class FeatureSet:
    """The features of one set of clips, streamed in by `add`.

    Attributes:
        shape: (frames, height, width) of its clips, None before the first.
        count: clips that were added, on this rank until `gather`.
    """

    def __init__(self, extractor: Extractor, name: str) -> None:
        """name: of the set, for messages: "samples", "real clips"."""
        self.extractor, self.name = extractor, name
        self.shape: Shape | None = None
        self.rows: dict[int, Tensor] = {}  # of clips, by index
        self.groups: dict[int, Moments] = {}  # of frames: by the group of their clip
        self._seen: set[int] = set()
        self.waiting: list[tuple[int, Tensor]] = []

    @property
    def count(self) -> int:
        return len(self._seen)

    def add(self, index: int, clip: Tensor) -> None:
        """Clip `index` of the set, (3, F, H, W), uint8 or float in [-1, 1]; one that is there already changes nothing.

        Raises ValueError, in one line: not finite, of another shape than those before, or of too few frames.
        """
        clip = self.extractor.network.taken(checked(clip, f"clip {index} of the {self.name}"))
        if self._is_new(index, clip.shape[1:]):
            self.waiting.append((index, levels(clip)))
            if len(self.waiting) >= self.extractor.network.batch:
                self.flush()

    def put(self, index: int, features: Tensor, shape: Sequence[int]) -> None:
        """The features of clip `index`, whose frames, height and width are `shape`, as the extractor gives them."""
        if self._is_new(index, shape):
            self._take(index, features)

    def _is_new(self, index: int, shape: Sequence[int]) -> bool:
        self.shape = one_shape(self.shape, shape, f"clip {index} of the {self.name}")
        is_new = index not in self._seen
        self._seen.add(index)
        return is_new

    def _take(self, index: int, features: Tensor) -> None:
        if not self.extractor.network.pictures:
            self.rows[index] = features
            return
        group, own = index % GROUPS, Moments.of(features)
        self.groups[group] = self.groups[group].joined(own) if group in self.groups else own

    def gather(self, ranks: Ranks) -> None:
        """Afterwards all ranks have the features of all."""
        self.flush()
        parts = ranks.gather((self.shape, self._seen, self.rows, self.groups))
        shapes = {shape for shape, *_ in parts if shape is not None}
        if len(shapes) > 1:
            raise ValueError(f"clips of the {self.name} differ in shape: {sorted(shapes)}")
        self.shape = next(iter(shapes), None)
        self._seen = set[int]().union(*(seen for _, seen, _, _ in parts))
        self.rows = {index: row for _, _, rows, _ in parts for index, row in rows.items()}
        joined: dict[int, Moments] = {}
        for _, _, _, groups in parts:
            for group, moments in groups.items():
                joined[group] = joined[group].joined(moments) if group in joined else moments
        self.groups = joined

    def table(self) -> Tensor:
        """`(n, d)`, one row a clip, in the order of their indices."""
        self.flush()
        return torch.stack([self.rows[index] for index in sorted(self.rows)])

    def moments(self, groups: int) -> list[Moments]:
        """Of each group of clips: of every `groups`-th, or, of frames, of the groups that there are."""
        self.flush()
        if self.extractor.network.pictures:
            return [self.groups[group] for group in sorted(self.groups)]
        rows = self.table()
        return [Moments.of(rows[group::groups]) for group in range(groups)]

    def flush(self) -> None:
        """Puts the clips that wait through the network."""
        waiting, self.waiting = self.waiting, []
        if waiting:
            for (index, _), features in zip(waiting, self.extractor([clip for _, clip in waiting]), strict=True):
                self._take(index, features)


def distances(made: FeatureSet, real: FeatureSet, split: str, fps: float | None) -> list[Score]:
    """How far samples are from real clips: FVD and KVD, or, of a network of pictures, FID over all frames.

    Args:
        made, real: of one network, gathered, equally many clips where the number is to be told to others.
        split: which clips the real ones are, for the protocol.

    Raises ValueError, in one line: fewer than two clips, or clips that differ in shape.
    """
    network = made.extractor.network
    for each in (made, real):
        if each.count < 2:
            raise ValueError(
                f"{each.count} clip(s) of the {each.name}: a distance between sets needs at least 2 of each"
            )
    assert made.shape is not None and real.shape is not None
    if made.shape != real.shape:
        shapes = [in_words(each) for each in (made.shape, real.shape)]
        raise ValueError(f"{made.name} have {shapes[0]}, and {real.name} {shapes[1]}: sizes must be equal")
    frames, height, width = made.shape

    def protocol(**settings: str | float) -> Protocol:
        return Protocol(
            split, made.count, real.count, frames, height, width, fps, network.resize, network.name, network.sha256,
            tuple(sorted(settings.items())),
        )  # fmt: skip

    groups = groups_for(made.count, real.count)
    pairs = [made.moments(groups), real.moments(groups)]
    if network.pictures:  # of fewer clips than groups each is one; equally many of both sets, the last ones joined
        fewest = min(len(pair) for pair in pairs) if frames * min(made.count, real.count) > 2 * GROUPS else 1
        pairs = [[*pair[: fewest - 1], _all(pair[fewest - 1 :])] for pair in pairs]
    found = frechet(*pairs)
    features = len(pairs[0][0].mean)
    rows = min(sum(group.count for group in pair) for pair in pairs)
    note = "; ".join(filter(None, [few_clips(rows, features, "frames" if network.pictures else "clips"), _bias(found)]))
    kind = "fid" if network.pictures else "fvd"
    own = protocol(features=features)
    scores = [Score(f"{kind}[{network.name}]", found.value, found.low, found.high, own, False, "", note)]
    if not network.pictures:
        found = kvd.kernel(made.table(), real.table())
        own = protocol(features=features, subsets=kvd.SUBSETS, subset_size=kvd.SUBSET_SIZE)
        scores.append(Score(f"kvd[{network.name}]", found.value, found.low, found.high, own, False))
    return scores


def _all(groups: Sequence[Moments]) -> Moments:
    whole = groups[0]
    for group in groups[1:]:
        whole = whole.joined(group)
    return whole


def _bias(found: Distance) -> str:
    if found.bias is None or found.value <= 0:
        return ""
    return f"about {found.bias:.3g} of it is due to the number of clips"
