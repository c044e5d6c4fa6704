"""The table of spoilt clips in docs/measures.md: `python -m tests.evaluation.spoilt`, two minutes of one core."""

from __future__ import annotations

from collections.abc import Mapping

import hydra
import torch
from hydra.utils import instantiate
from torch import Tensor

from dit.evaluation.harness.table import markdown
from dit.evaluation.video.features import Extractor, FeatureSet, distances
from dit.evaluation.video.motion import Motion
from dit.evaluation.video.pairs import PSNR, SSIM
from dit.evaluation.video.prediction import Prediction
from dit.evaluation.video.protocol import Score
from tests.evaluation.films import blurred, frozen, noisy, shuffled
from tests.evaluation.parts import CONFIGS, part

COUNT, GIVEN = 200, 1


def clips(data: str) -> Tensor:
    """Held-out clips of a world, twice `COUNT`, uint8 (n, 3, F, H, W)."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = hydra.compose("train", overrides=["name=x", "experiment=demo", f"data={data}"])
    composed.data.val.num_clips = 2 * COUNT
    world = instantiate(composed.data.val, _convert_="all")
    return torch.stack([world[index]["pixels"] for index in range(2 * COUNT)])


def spoilt(true: Tensor) -> Mapping[str, Tensor]:
    return {
        "nothing": true,
        "noise of 4 levels": noisy(true, 4),
        "noise of 16 levels": noisy(true, 16),
        "blur, 5x5": blurred(true),
        "frozen": frozen(true),
        "frames shuffled": torch.stack([shuffled(clip, seed) for seed, clip in enumerate(true)]),
        "clips swapped": true.roll(1, 0),
    }


def scores(made: Tensor, true: Tensor, real: Mapping[str, FeatureSet]) -> list[Score]:
    found: list[Score] = []
    for against in real.values():
        own = FeatureSet(against.extractor, "samples")
        for index, clip in enumerate(made):
            own.add(index, clip)
        found += distances(own, against, "held out", 8.0)
    predicted, motion = Prediction([PSNR(), SSIM()], GIVEN, 1), Motion(part("flow", "pyramid")("cpu"), 8.0)
    for index, clip in enumerate(made):
        predicted.add(index, true[index], [clip])
        motion.add(index, clip)
    return [*found, *predicted.scores("held out", 8.0), *motion.scores("held out", 8.0)]


def main(data: str) -> None:
    both = clips(data)
    real = {}
    for group in ("features", "frame_features"):
        real[group] = FeatureSet(Extractor(part(group, "random")("cpu"), None), "real clips")
        for index, clip in enumerate(both[:COUNT]):
            real[group].add(index, clip)
    true = both[COUNT:]
    rows = {name: {each.name: each for each in scores(made, true, real)} for name, made in spoilt(true).items()}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = [[row, *(f"{own[name].value:.3g}" if name in own else "-" for name in names)] for row, own in rows.items()]
    print(markdown([f"{data}: spoilt by", *names], cells))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main("demo")
