"""Predictions against the true future: each measure equals an independent reference, and spoilt ones are worse."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from dit.evaluation.video import pairs
from dit.evaluation.video.pairs import LPIPS, MSE, PSNR, SSIM, FrameMeasure
from dit.evaluation.video.prediction import Prediction
from tests.evaluation.films import blurred, discs, frozen, noisy

Floats = NDArray[np.float64]


@cache
def truth() -> Tensor:
    return discs(6, seed=11, frames=8)


def frames(clip: Tensor) -> Tensor:
    return clip.movedim(0, 1).float() / 255


def arrays(clip: Tensor) -> Floats:
    """(F, H, W) of grey."""
    return np.asarray(frames(clip).double().mean(1))


def structure(one: Floats, two: Floats, window: Floats, span: float, unbiased: float) -> float:
    """SSIM of two grey pictures, window by window, as Wang et al. 2004 write it."""
    size = len(window)
    c1, c2, found = (0.01 * span) ** 2, (0.03 * span) ** 2, []
    for row in range(one.shape[0] - size + 1):
        for column in range(one.shape[1] - size + 1):
            a, b = (each[row : row + size, column : column + size] for each in (one, two))
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (unbiased * (window * (x - m) ** 2).sum() for x, m in ((a, ma), (b, mb)))
            cov = unbiased * (window * (a - ma) * (b - mb)).sum()
            found.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(found))


def test_ssim_is_the_formula_written_out() -> None:
    away = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(away, away) / away.sum() ** 2
    one, two = frames(truth()[0])[:2, :, :20, :24], frames(noisy(truth()[0], 12))[:2, :, :20, :24]
    found = SSIM()(two, one)
    for place in range(2):
        colours = [
            structure(np.asarray(two[place, c], np.float64), np.asarray(one[place, c], np.float64), window, 1.0, 1.0)
            for c in range(3)
        ]
        assert float(found[place]) == pytest.approx(np.mean(colours), abs=1e-8)
    _, whole = structural_similarity_index_measure(
        two.double(), one.double(), reduction="none", data_range=1.0, return_full_image=True
    )  # its map; its mean counts windows over the border too
    assert found.tolist() == pytest.approx(whole[..., 5:-5, 5:-5].flatten(1).mean(1).tolist(), abs=1e-9)


def test_psnr_is_of_each_frame() -> None:
    one, two = frames(truth()[0]), frames(noisy(truth()[0], 5))
    wanted = [-10 * math.log10(float(((a - b) ** 2).mean())) for a, b in zip(one.double(), two.double(), strict=True)]
    assert PSNR()(two, one).tolist() == pytest.approx(wanted)
    assert MSE()(two, one).tolist() == pytest.approx([10 ** (-each / 10) for each in wanted])
    assert PSNR()(one, one).tolist() == [pairs.MOST_PSNR] * 8


def test_openstl_is_its_definition() -> None:
    """Sums over pixels of grey frames, SSIM of even windows at a range of 2, PSNR of frames, and that of bytes."""
    one, two = truth()[0], noisy(truth()[0], 12)
    a, b = arrays(one), arrays(two)
    found = {each.measure.name: each(frames(two), frames(one)) for each in pairs.openstl()}
    assert found["openstl mse"].tolist() == pytest.approx(((a - b) ** 2).sum((1, 2)))
    assert found["openstl mae"].tolist() == pytest.approx(np.abs(a - b).sum((1, 2)))
    assert found["openstl psnr"].tolist() == pytest.approx(-10 * np.log10(((a - b) ** 2).mean((1, 2))))
    window = np.full((7, 7), 1 / 49)
    assert float(found["openstl ssim"][1]) == pytest.approx(structure(a[1], b[1], window, 2.0, 49 / 48), abs=1e-9)
    with np.errstate(over="ignore"):
        wrapped = (np.uint8(b * 255) - np.uint8(a * 255)) ** 2
    wanted = 20 * np.log10(255) - 10 * np.log10(wrapped.mean((1, 2)))
    assert found["openstl psnr, bytes"].tolist() == pytest.approx(wanted)
    assert wrapped.dtype == np.uint8 and float(found["openstl psnr, bytes"].mean()) > float(
        found["openstl psnr"].mean()
    )


def measures() -> list[FrameMeasure]:
    return [*pairs.standard(), *pairs.openstl()]


def better(measure: FrameMeasure, one: float, two: float) -> bool:
    return one > two if measure.measure.larger_is_better else one < two


@pytest.mark.parametrize("name", [each.measure.name for each in measures()])
def test_spoilt_predictions_are_worse_in_each_measure(name: str) -> None:
    (measure,) = [each for each in measures() if each.measure.name == name]
    whole = truth()

    def score(made: Tensor) -> float:
        own = Prediction([measure], given=2, samples=1)
        for index, clip in enumerate(whole):
            own.add(index, clip, [made[index]])
        return own.scores("test", 8.0)[0].value

    perfect = score(whole)
    slight, strong = score(noisy(whole, 4)), score(noisy(whole, 16))
    assert better(measure, perfect, slight)
    if name != "openstl psnr, bytes":  # bytes that wrap: what is worse may look better
        assert better(measure, slight, strong)
        for spoilt in (blurred(whole), frozen(whole, 1), whole.flip(2), whole.roll(1, 0)):  # the last: other clips
            assert better(measure, slight, score(spoilt))


def test_mean_and_best_of_several_samples() -> None:
    own = Prediction([PSNR(), MSE()], given=3, samples=3)
    for index, clip in enumerate(truth()):
        own.add(index, clip, [noisy(clip, strength, seed=index) for strength in (12, 3, 6)])
    found = {each.name: each for each in own.scores("test", 8.0)}
    assert list(found) == ["psnr", "psnr, best of 3", "mse", "mse, best of 3"]
    alone = Prediction([PSNR(), MSE()], given=3, samples=1)
    for index, clip in enumerate(truth()):
        alone.add(index, clip, [noisy(clip, 3, seed=index)])
    best = {each.name: each.value for each in alone.scores("test", 8.0)}
    assert found["psnr, best of 3"].value == best["psnr"] > found["psnr"].value
    assert found["mse, best of 3"].value == best["mse"] < found["mse"].value
    assert found["psnr"].protocol.as_dict()["samples"] == 3 and found["psnr"].low < found["psnr"].value  # type: ignore[operator]


def test_given_frames_do_not_count_and_later_frames_have_a_curve() -> None:
    clip = truth()[0]
    made = clip.clone()
    made[:, :3] = 0  # of the given frames nothing is asked
    made[:, 5:] = noisy(made[:, 5:], 9)
    own = Prediction([PSNR()], given=3, samples=1)
    own.add(0, clip, [made])
    curve = own.by_frame()["psnr"]
    assert curve[:2] == [pairs.MOST_PSNR] * 2 and len(curve) == 5 and max(curve[2:]) < 40


def test_floats_beyond_the_range_are_cut_off() -> None:
    clip = truth()[0]
    made = clip.float() / 127.5 - 1
    loud = made + torch.where(clip == 0, -0.5, 0.0)  # blacker than black
    own = Prediction([MSE()], given=0, samples=2)
    own.add(0, clip, [made, loud])
    assert own.values[0]["mse"] < 1e-12


class Rank:
    def __init__(self, others: list[Any]) -> None:
        self.others = others

    def gather(self, own: Any) -> list[Any]:
        other = self.others.pop(0)
        return [own, other]


def test_ranks_share_predictions() -> None:
    whole, one, two = (Prediction([PSNR()], given=2, samples=1) for _ in range(3))
    for index, clip in enumerate(truth()):
        for own in (whole, (one, two)[index % 2]):
            own.add(index, clip, [noisy(clip, 5, seed=index)])
    one.gather(Rank([(two.shape, two.values), two.curves]))
    assert one.scores("test", 8.0) == whole.scores("test", 8.0) and one.by_frame() == whole.by_frame()


def test_predictions_that_cannot_be_compared_hear_why() -> None:
    clip = truth()[0]
    nan = clip.float() / 127.5 - 1
    nan[:, 5] = torch.inf
    own = Prediction([SSIM()], given=2, samples=1)
    for true, samples, said in (
        (clip, [clip, clip], "clip 0 has 2 samples, and 1 were announced"),
        (clip, [clip[:, :6]], "sample 0 of clip 0 is 6 frames of 32x32, and clip 0 8 frames of 32x32"),
        (clip, [nan], "sample 0 of clip 0 has values that are not finite, in frame 5"),
        (clip[:, :2], [clip[:, :2]], "clip 0 has 2 frames, of which 2 are given: none is predicted"),
        (clip[..., :9, :9], [clip[..., :9, :9]], "SSIM takes frames of at least 11 pixels, not 9x9"),
    ):
        with pytest.raises(ValueError) as error:
            own.add(0, true, samples)
        assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="given=-1 must be at least 0, and samples=0 at least 1"):
        Prediction([], given=-1, samples=0)
    with pytest.raises(ValueError, match="no clip was scored"):
        own.scores("test", None)


def test_lpips_is_its_formula_on_the_files_weights(tmp_path: Path) -> None:
    """On random weights of the smallest backbone: features of each layer to length 1, squared differences, weighed by
    the published linear weights, summed over channels and averaged over places."""
    import torchmetrics
    import torchvision

    torch.manual_seed(0)
    backbone = torchvision.models.squeezenet1_1(weights=None).eval()
    torch.save(backbone.state_dict(), tmp_path / "squeeze.pth")
    own = LPIPS("cpu", file=str(tmp_path / "squeeze.pth"), net="squeeze", batch=3)
    one, two = frames(truth()[0])[:4], frames(noisy(truth()[0], 20))[:4]
    found = own(two, one)
    published = Path(torchmetrics.__file__).parent / "functional/image/lpips_models/squeeze.pth"
    linear = torch.load(published, map_location="cpu", weights_only=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    maps: list[list[Tensor]] = []
    with torch.no_grad():
        for pixels in (one, two):
            x, kept = (pixels * 2 - 1 - shift.view(3, 1, 1)) / scale.view(3, 1, 1), []
            for place, layer in enumerate(backbone.features):
                x = layer(x)
                if place in (1, 4, 7, 9, 10, 11, 12):
                    kept.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
            maps.append(kept)
    wanted = torch.zeros(4)
    for place, (a, b) in enumerate(zip(*maps, strict=True)):
        wanted += ((a - b).square() * linear[f"lin{place}.model.1.weight"]).sum(1).mean((1, 2))
    torch.testing.assert_close(found.float(), wanted, rtol=1e-4, atol=1e-6)
    assert (
        float(own(one, one).abs().max()) == 0 and own.measure.name == "lpips[squeeze]" and len(own.measure.sha256) == 64
    )
    score = Prediction([own], given=4, samples=1)
    score.add(0, truth()[0], [noisy(truth()[0], 20)])
    assert score.scores("test", 8.0)[0].protocol.as_dict()["sha256"] == own.measure.sha256
    with pytest.raises(ValueError, match="LPIPS with net=squeeze takes frames of at least 17 pixels, not 16x32"):
        own(one[:, :, :16], two[:, :, :16])
    for file, net, said in (
        (None, "squeeze", "lpips.file is missing"),
        ("nowhere.pth", "alex", "lpips.file=nowhere.pth is not there"),
        (str(tmp_path / "squeeze.pth"), "alex", "does not hold the weights of torchvision's network of net=alex"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
            LPIPS("cpu", file=file, net=net, batch=1)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
