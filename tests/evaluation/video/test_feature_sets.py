"""FVD, KVD and FID: spoilt clips are farther away, features are kept, ranks share them, bad clips hear why."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit.evaluation.video.clips import key_of
from dit.evaluation.video.features import Extractor, FeatureSet, distances
from dit.evaluation.video.protocol import Score
from tests.evaluation.films import blurred, discs, frozen, noisy, shuffled
from tests.evaluation.parts import part

COUNT = 80


def extractor(group: str = "features", folder: Path | None = None) -> Extractor:
    return Extractor(part(group, "random")("cpu"), folder)


def as_set(clips: Tensor, of: Extractor, name: str = "samples") -> FeatureSet:
    made = FeatureSet(of, name)
    for index, clip in enumerate(clips):
        made.add(index, clip)
    return made


@cache
def real(seed: int = 0) -> Tensor:
    return discs(COUNT, seed=seed)


@cache
def real_set(group: str) -> FeatureSet:
    return as_set(real(), extractor(group), "real clips")


@cache
def scores(spoilt: str, group: str) -> dict[str, Score]:
    made = {
        "others": lambda: real(1),
        "noise": lambda: noisy(real(1), 8),
        "more noise": lambda: noisy(real(1), 20),
        "blur": lambda: blurred(real(1)),
        "frozen": lambda: frozen(real(1)),
        "shuffled": lambda: torch.stack([shuffled(clip, seed) for seed, clip in enumerate(real(1))]),
        "dark": lambda: real(1) // 2,
        "faster": lambda: discs(COUNT, seed=1, speed=3.0),
    }[spoilt]()
    against = real_set(group)
    return {each.name: each for each in distances(as_set(made, against.extractor), against, "test", 8.0)}


@pytest.mark.parametrize("spoilt", ["noise", "blur", "frozen", "shuffled", "faster", "dark"])
def test_spoilt_clips_are_farther_than_other_real_ones(spoilt: str) -> None:
    """Each is outside the other's interval: what is spoilt is seen, and not by chance."""
    floor, found = scores("others", "features"), scores(spoilt, "features")
    for name in ("fvd[random]", "kvd[random]"):
        one, two = floor[name], found[name]
        assert two.low > one.value and two.value > one.high, (name, str(one), str(two))  # type: ignore[operator]


def test_more_noise_is_farther() -> None:
    for name in ("fvd[random]", "kvd[random]"):
        assert scores("more noise", "features")[name].value > 2 * scores("noise", "features")[name].value


def test_frames_alone_see_blur_and_noise_and_no_order() -> None:
    floor = scores("others", "frame_features")["fid[random]"]
    for spoilt in ("more noise", "blur", "dark"):
        found = scores(spoilt, "frame_features")["fid[random]"]
        assert found.low > floor.high, (str(floor), str(found))  # type: ignore[operator]
    assert scores("shuffled", "frame_features")["fid[random]"].value == pytest.approx(floor.value, rel=1e-6)


def test_other_real_clips_are_at_the_bias_and_the_note_says_so() -> None:
    """Between two sets of one kind it is nearly all bias; the kernel distance has none, and its interval holds 0."""
    found = scores("others", "features")
    fvd, kvd = found["fvd[random]"], found["kvd[random]"]
    said = float(fvd.note.split("about ")[1].split(" ")[0])
    assert 0.5 * fvd.value < said < 2 * fvd.value
    assert kvd.low < 0 < kvd.high  # type: ignore[operator]


def test_a_set_is_at_distance_0_from_itself_and_the_protocol_says_all() -> None:
    of = real_set("features").extractor
    found = distances(real_set("features"), real_set("features"), "val of the test", 8.0)
    assert found[0].value == pytest.approx(0, abs=1e-9) and abs(found[1].value) < 1e-1
    said = found[0].protocol.as_dict()
    assert said == {
        "split": "val of the test", "clips": COUNT, "reference": COUNT, "frames": 8, "height": 32, "width": 32,
        "fps": 8.0, "resize": "bilinear to 64x64, with antialias", "network": "random",
        "sha256": of.network.sha256, "features": 51,
    }  # fmt: skip
    assert len(of.network.sha256) == 64


def test_too_few_clips_for_the_features_are_said() -> None:
    of = extractor()
    found = distances(as_set(real()[:20], of), as_set(real(1)[:20], of), "test", None)
    assert "20 clips for 51 features: the covariances are singular" in found[0].note


def test_features_are_computed_once_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = extractor(folder=tmp_path)
    before = as_set(real()[:6], first).table()
    again = extractor(folder=tmp_path)
    assert torch.equal(as_set(real()[:6], again).table(), before)
    assert (first.computed, again.computed) == (6, 0)
    floats = as_set(real()[:3].float() / 127.5 - 1, again)  # the same clips in another dress
    assert torch.equal(floats.table(), before[:3]) and again.computed == 0
    as_set(noisy(real()[:6], 1), again).table()
    assert again.computed == 6
    strange = Extractor(part("features", "random", antialias=False)("cpu"), tmp_path)
    as_set(real()[:6], strange).table()
    assert strange.computed == 6  # another protocol has features of its own
    assert first.store is not None
    damaged = first.store.file(key_of(real()[2]))
    damaged.write_bytes(damaged.read_bytes()[:-8])
    third = extractor(folder=tmp_path)
    torch.testing.assert_close(as_set(real()[:6], third).table(), before)
    assert third.computed == 1 and "made anew" in caplog.text


class Rank:
    """One of several processes that gather, all within this one."""

    def __init__(self, everyone: list[Any]) -> None:
        self.everyone = everyone

    def gather(self, own: Any) -> list[Any]:
        return self.everyone


def test_ranks_share_the_clips() -> None:
    for group in ("features", "frame_features"):
        of = extractor(group)
        whole = real_set(group)
        parts = [FeatureSet(of, "samples") for _ in range(3)]
        for index, clip in enumerate(real()):
            parts[index % 3].add(index, clip)
        for mine in parts:
            mine.flush()
        everyone = [(mine.shape, mine._seen, mine.rows, mine.groups) for mine in parts]
        for mine in parts:
            mine.gather(Rank(everyone))
        assert all(mine.count == COUNT for mine in parts)
        other = as_set(real(1)[:40], of)
        wanted = distances(whole, other, "test", 8.0)
        for mine in parts:
            for one, two in zip(distances(mine, other, "test", 8.0), wanted, strict=True):
                assert one.value == pytest.approx(two.value, rel=1e-6) and one.low == pytest.approx(two.low, rel=1e-4)


def test_memory_holds_features_not_clips() -> None:
    """However many clips come, no more than a batch of them waits."""
    of = extractor()
    made = FeatureSet(of, "samples")
    for index, clip in enumerate(real()):
        made.add(index, clip)
        assert len(made.waiting) < of.network.batch
    made.add(3, real()[3])  # once more
    assert made.count == COUNT and len(made.table()) == COUNT


def test_bad_clips_hear_why() -> None:
    of = extractor()
    made = as_set(real()[:4], of)
    bad = real()[0].float() / 127.5 - 1
    bad[:, 2] = torch.nan
    for clip, said in (
        (bad, "clip 9 of the samples has values that are not finite, in frame 2: it cannot be scored"),
        (real()[0, :, :, :16], "clip 9 of the samples has 8 frames of 16x32, and those before 8 frames of 32x32"),
        (real()[0, 0], "is (3, frames, height, width)"),
        (real()[0].long(), "holds torch.int64; a clip is uint8, or float"),
    ):
        with pytest.raises(ValueError) as error:
            made.add(9, clip)
        assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"1 clip\(s\) of the real clips: a distance between sets needs at least 2"):
        distances(made, as_set(real()[:1], of, "real clips"), "test", None)
    with pytest.raises(ValueError, match="samples have 8 frames of 32x32, and real clips 8 frames of 24x24: sizes"):
        distances(made, as_set(discs(4, seed=0, side=24), of, "real clips"), "test", None)
