"""How samples are made, as plain values: what `Samples.info` holds, and the JSON beside each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dit.sampling.job import Job
from dit.sampling.origin import Origin
from dit.sampling.record import as_config, fingerprint
from dit.sampling.request import Request
from dit.sampling.runtime import device_name
from dit.sampling.settings import Settings

OF_SAMPLES = ("prompts", "negative_prompts", "labels", "signals", "seeds")  # lists, one entry a sample


def about(
    job: Job,
    wanted: Sequence[Request],
    settings: Settings,
    origin: Origin,
    device: torch.device,
    boundary: float | None,
) -> dict[str, Any]:
    """Of the samples `wanted` of a job; parts of the sampler are configs, which build them again.

    boundary: noise level at which two networks meet; None where there is one.
    """
    canvas = job.canvas
    return {
        "prompts": [each.prompt for each in wanted],
        "negative_prompts": [each.negative_prompt for each in wanted],
        "labels": [each.label for each in wanted],
        "signals": [each.signals for each in wanted],
        "seeds": [each.seed for each in wanted],
        "weights": origin.weights,
        "task": as_config(job.task),
        "schedule": as_config(settings.schedule),
        "solver": as_config(settings.solver),
        "guidance": as_config(settings.guidance),
        "num_steps": job.num_steps,
        "steps_taken": len(job.levels[0]) - 1,
        "num_frames": canvas.num_frames,
        "height": canvas.height,
        "width": canvas.width,
        "fps": canvas.fps,
        "context_level": settings.context_level,
        "precision": None if settings.precision is None else str(settings.precision).removeprefix("torch."),
        "device": device_name(device),
        **({"parts": origin.parts} if origin.parts else {}),
        **({} if boundary is None else {"boundary": boundary}),
        **({} if job.noise is None else {"noise": as_config(job.noise)}),
    }


def sources(origin: Origin, boundary: float | None) -> dict[str, dict[str, Any]]:
    """The checkpoints of one network, or of two, with the fingerprints of their files."""
    files: dict[str, Mapping[str, Any]] = {"checkpoint": origin.checkpoint}
    if boundary is not None:
        files["low_noise_ckpt"] = origin.low_noise
    return {
        name: {**file, "sha256": fingerprint(file["path"])} if "path" in file else dict(file)
        for name, file in files.items()
    }
