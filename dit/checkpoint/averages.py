"""Averages of weights under power-function profiles, and any width rebuilt from those that were kept.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models" (EDM2), arXiv 2312.02696,
section 3 and appendix C. A run with `ema=power` tracks two widths; its checkpoints hold both as they stood, and with
`ema.snapshot_every` there are snapshots of before in `<run>/ema`. An average of any other width is a weighted sum of
all of these: that whose profile comes nearest to the one that is wanted, by least squares.

A profile says how much the weights of each step count, so all that is done here but the sum itself is done on profiles.
Steps are whole: the average after t updates counts the weights behind update i by
(i / t)^(gamma + 1) - ((i - 1) / t)^(gamma + 1), which is what `decay` adds up to, so that with a snapshot for each step
the sum is exact.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dit.checkpoint import archive, files

log = logging.getLogger(__name__)
SNAPSHOTS = "ema"  # folder inside the run directory
PROFILE = "dit.engine.profiles.PowerProfile"  # in a run's config, with its `sigma_rel`
PLACES = 4000  # runs of steps in which profiles are compared; of fewer steps each one
FARTHEST = 0.1  # of a profile that is wanted, by which the nearest one may differ

Floats = NDArray[np.float64]


def power_exponent(sigma_rel: float) -> float:
    """gamma of the profile `tau ** gamma` whose relative width is `sigma_rel` (EDM2, algorithm 2).

    The width is `sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3))`, so gamma is the largest real root of
    `g^3 + 7 g^2 + (16 - s^-2) g + (12 - s^-2)`.
    """
    widest = 12**-0.5  # gamma = 0, all steps alike
    if not 0 < sigma_rel <= widest:
        said = f"sigma_rel={sigma_rel} (ema@{sigma_rel:g}, the width of an average)"
        raise ValueError(f"{said} must be above 0 and at most {widest:.3f}; usual: 0.05, 0.1")
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return max(0.0, float(roots.real.max()))


@dataclass(frozen=True)
class Snapshot:
    """An average as it stood after `step` updates under a power profile of width `sigma_rel`."""

    step: int
    sigma_rel: float
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class Sum:
    """How an average is rebuilt. away: by how much its profile differs from the one that is wanted, as a share of that
    one (root of the sum of squares)."""

    coefficients: Floats
    away: float


def nearest(stored: Sequence[tuple[int, float]], sigma_rel: float, step: int) -> Sum:
    """Coefficients (n,), summing to 1, of stored averages `(step, sigma_rel)` whose sum comes nearest to the average of
    width `sigma_rel` after `step` updates (EDM2, section 3.2, algorithm 3)."""
    even = np.linspace(0, step, min(step, PLACES) + 1).round()
    edges: Floats = np.unique(np.concatenate([even, [float(last) for last, _ in stored]]))
    scale = np.sqrt(np.diff(edges))  # so that squares are summed over steps

    def profile(last: int, width: float) -> Floats:
        made: Floats = np.diff((np.minimum(edges, last) / last) ** (power_exponent(width) + 1)) / scale
        return made

    columns = np.stack([profile(*each) for each in stored], axis=1)
    wanted = profile(step, sigma_rel)
    # The last one takes what the others leave of 1: otherwise all weights would be too large or too small.
    last = columns[:, -1:]
    others = np.linalg.lstsq(columns[:, :-1] - last, wanted - last[:, 0], rcond=1e-12)[0]
    solved: Floats = np.append(others, 1 - others.sum())
    return Sum(solved, float(np.linalg.norm(columns @ solved - wanted) / np.linalg.norm(wanted)))


def rebuilt(snapshots: Sequence[Snapshot], sigma_rel: float, step: int) -> tuple[dict[str, Tensor], Sum]:
    """The average that a profile of width `sigma_rel` would have had after `step` updates, from stored ones: float32
    tensors under the snapshots' keys, and how they were summed.

    Raises:
        ValueError: none reaches back from `step`, they are of different networks, or come nowhere near such a profile.
    """
    used = [snapshot for snapshot in snapshots if snapshot.step <= step]
    if not used:
        steps = sorted({snapshot.step for snapshot in snapshots})
        raise ValueError(f"no EMA snapshot at or before step {step}; there are {steps}")
    for each in used:
        if {key: value.shape for key, value in each.weights.items()} != {
            key: value.shape for key, value in used[0].weights.items()
        }:
            raise ValueError(f"EMA snapshots of steps {used[0].step} and {each.step} are of different networks")
    found = nearest([(s.step, s.sigma_rel) for s in used], sigma_rel, step)
    if found.away > FARTHEST:
        there = ", ".join(f"{width:g}" for width in sorted({s.sigma_rel for s in used}))
        raise ValueError(
            f"an average of width {sigma_rel:g} cannot be rebuilt from {len(used)} of widths {there}: the nearest one"
            f" is {100 * found.away:.0f} % off, at most {100 * FARTHEST:.0f} % may be; take a width nearer to these, or"
            " train with more snapshots (ema.snapshot_every)"
        )
    result = {}
    for key in used[0].weights:
        # In float64: the coefficients are large and of both signs.
        parts = (weight * s.weights[key].double() for weight, s in zip(found.coefficients.tolist(), used, strict=True))
        result[key] = sum(parts, torch.zeros((), dtype=torch.float64)).float()
    return result, found


def of_width(
    sigma_rel: float, step: int | None, averages: Mapping[str, dict[str, Tensor]], config: Mapping[str, Any], file: Path
) -> dict[str, Tensor]:
    """The average of a width behind a checkpoint's step, from its own averages and the snapshots of its run.

    Args:
        step, averages, config: of the checkpoint. file: where it lies.

    Raises ValueError, in one line, where there is none from which it can be rebuilt.
    """
    power_exponent(sigma_rel)  # says what a width may be
    widths = _widths(config)
    own = [(widths[name], weights) for name, weights in averages.items() if name in widths]
    for width, weights in own:
        if width == sigma_rel:
            return weights
    if not own or step is None:
        raise ValueError(
            f"{file} holds no average under a power profile, so none of width {sigma_rel:g} can be rebuilt: train with"
            " ema=power, and ema.snapshot_every=100 for widths that are farther away"
        )
    there = [Snapshot(step, width, weights) for width, weights in own]
    folder = files.run_of(file) / SNAPSHOTS
    kept = load_snapshots(folder.parent) if any(folder.glob(f"{files.STEP}*")) else []
    weights, found = rebuilt([*there, *(each for each in kept if each.step < step)], sigma_rel, step)
    log.info(
        "ema@%g of %s is rebuilt from %d averages; its profile is %.2g %% off",
        *(sigma_rel, file, len(found.coefficients), 100 * found.away),
    )
    return weights


def _widths(config: Mapping[str, Any]) -> dict[str, float]:
    """Name -> width of the power profiles that a run tracked."""
    ema = config.get("ema")
    profiles = ema.get("profiles") if isinstance(ema, Mapping) else None
    listed = profiles.items() if isinstance(profiles, Mapping) else ()
    return {
        str(name): float(node["sigma_rel"])
        for name, node in listed
        if isinstance(node, Mapping)
        and node.get("_target_") == PROFILE
        and isinstance(node.get("sigma_rel"), (int, float))
    }


def load_snapshots(run: str | Path) -> list[Snapshot]:
    """The snapshots that a run has left, by step. FileNotFoundError when there are none, ValueError when one of them is
    damaged, or no snapshot."""
    found = sorted((Path(run) / SNAPSHOTS).glob(f"{files.STEP}*.ckpt"))
    if not found:
        raise FileNotFoundError(f"no EMA snapshots in {Path(run) / SNAPSHOTS}; train with ema.snapshot_every=1000")
    return [_snapshot(file) for file in found]


def _snapshot(file: Path) -> Snapshot:
    try:
        content = archive.load(file)
    except archive.Damaged as error:
        raise ValueError(
            f"{file} cannot be read ({error}); without it the others can still be used: move it away"
        ) from None
    match content:
        case {"step": int(step), "sigma_rel": float(sigma_rel), "weights": dict(weights)} if step > 0 and all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
        ):
            power_exponent(sigma_rel)
            return Snapshot(step, sigma_rel, weights)
    raise ValueError(f"{file} is no EMA snapshot of this project: move it away")
