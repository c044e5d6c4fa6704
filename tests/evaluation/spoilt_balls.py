"""Real and spoilt clips of balls, for docs/phyworld.md: `python -m tests.evaluation.spoilt_balls`, a few minutes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from data.worlds.phyworld.dataset import GIVEN, PhyWorld
from data.worlds.phyworld.scenario import SCENARIOS
from dit.evaluation.suites.floors import floors
from dit.evaluation.suites.phyworld import SPLITS, TITLES, WRONG, PhyWorldSuite, Shot
from dit.evaluation.velocity import MEASURES, Verdict
from dit.evaluation.verdicts import Report
from tests.evaluation.spoilt_plain import table

COUNT, FEWER, SIZE, FRAMES = 200, 50, 32, 32


def _behind(clip: Tensor, frames: Sequence[int]) -> Tensor:
    """The given frames, then others of the clip by their numbers."""
    return torch.cat([clip[:, :GIVEN], clip[:, list(frames)]], 1)


# Ways of spoiling what follows the given frames, beside those of the suite.
SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "half as fast": lambda clip: _behind(clip, [GIVEN - 1 + (step + 1) // 2 for step in range(clip.shape[1] - GIVEN)]),
    "backwards": lambda clip: _behind(clip, range(clip.shape[1] - 1, GIVEN - 1, -1)),
    "balls vanish half-way": lambda clip: torch.cat(
        [clip[:, : clip.shape[1] // 2], torch.full_like(clip[:, clip.shape[1] // 2 :], 255)], 1
    ),
}


def rows(scenario: str) -> dict[str, dict[str, float]]:
    data = PhyWorld(
        scenario=scenario, seed=0, num_clips=1, num_frames=FRAMES, height=SIZE, width=SIZE, fps=10.0,
        split="train", small_balls=False,
    )  # fmt: skip
    suite = PhyWorldSuite(num_clips=COUNT, seed=1000, sheet_clips=1)
    made: dict[str, list[Verdict]] = {}
    shots: list[Shot] = []
    for split in SPLITS:
        found = suite.shots(data, split)
        shots = shots or found
        made[f"real, {TITLES[split]}"] = [shot.judged(shot.pixels) for shot in found]
    for index, shot in enumerate(shots[:FEWER]):
        for name, clip in floors(lambda number: shots[number].pixels, index, FEWER, GIVEN).items():
            made.setdefault(WRONG[name], []).append(shot.judged(clip))
    for name, spoil in SPOILT.items():
        made[name] = [shot.judged(spoil(shot.pixels)) for shot in shots[:FEWER]]
    return {name: {"clips": len(each), **Report(tuple(each), MEASURES).metrics()} for name, each in made.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in SCENARIOS:
        print(table(f"{name}, {SIZE} pixels", rows(name), MEASURES), end="\n\n", flush=True)
