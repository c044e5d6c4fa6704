"""What a run samples with while it trains, and the prompts of its previews."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch

from dit.config.build import build
from dit.diffusion.loss import Objective
from dit.engine import captions, pictures
from dit.engine.module import VideoDiffusion
from dit.sampling.origin import Origin
from dit.sampling.pipeline import Pipeline
from dit.sampling.settings import Settings, Shape


def pipeline(module: VideoDiffusion, data: Any, sampling: Mapping[str, Any], precision: torch.dtype | None) -> Pipeline:
    """The sampler over the modules that are being trained.

    data: `data.module.VideoData`, whose shape samples have. sampling: `sampling` of the config.
    """
    objective = cast(Objective, module.objective)
    made = {name: build(sampling[name]) for name in ("schedule", "solver", "guidance")}
    return Pipeline(
        net=module.net,
        codec=module.codec,
        text=module.text,
        path=objective.path,
        prediction=objective.prediction,
        signals=module.signals,
        settings=Settings(**made, num_steps=sampling["num_steps"], precision=precision),
        shape=Shape(data.num_frames, data.height, data.width, data.fps),
        origin=Origin(per_frame=objective.levels.per_frame),
        given=objective.given,
    )


def preview_of(
    module: VideoDiffusion, data: Any, prompts: list[str] | None
) -> tuple[pictures.Pictures | None, list[str]]:
    """What previews are given, and their prompts: those of the config, or else captions of the same clips."""
    count = captions.SOME if prompts is None else max(len(prompts), 1)
    shown = pictures.of_clips(data, count, cast(Objective, module.objective).conditioning)
    if prompts is None:
        return shown, some_prompts(module, data) if shown is None else shown.captions
    return shown, prompts


def some_prompts(module: VideoDiffusion, data: Any) -> list[str]:
    """Prompts for a preview that is given none: some classes or captions of the data."""
    if module.classes and module.text is None:
        return captions.spread(module.classes)
    return captions.some(data.train)
