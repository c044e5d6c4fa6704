"""`PhyWorld`: clip number `i` of a scenario with its exact state, the same bytes everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data.worlds.numbered import check_numbers, rights
from data.worlds.outline import Floats
from data.worlds.phyworld.picture import SIZE, SIZES, paint
from data.worlds.phyworld.scenario import OUT_OF_DISTRIBUTION, SCENARIOS, SPLITS, UNSEEN, Scene
from data.worlds.stream import Stream

GIVEN = 3  # first frames that a model is shown


@dataclass(frozen=True)
class PhyClip:
    """A clip of F frames and N balls. Units of the world, y up; seconds."""

    pixels: NDArray[np.uint8]  # (3, F, H, W)
    scene: Scene
    split: str  # one of which the ranges are known: "out_of_distribution" is made of three
    positions: Floats  # (F, N, 2)
    velocities: Floats  # (F, N, 2)


class PhyWorld(Dataset[dict[str, object]]):
    """A map-style data set of `num_clips` clips of Kang et al. 2024 (arXiv 2411.02385): `scenario.py` has the ranges
    and their sources, `picture.py` the pictures.

    Args:
        scenario: uniform, collision or parabola.
        seed: clips of another seed are other draws.
        num_clips: length of the data set; clip `i` does not depend on it. The authors train on 30 thousand, 300
            thousand and 3 million.
        num_frames: of a clip; the authors have 32 and compare 31 of them.
        height, width: equal, one of 16, 32, 64, 128 and 256 pixels; the authors draw 256 and train on 128.
        fps: frames a second of the world's time; the authors' is 10. What happens does not depend on it.
        split: train | in_distribution (other draws of the same ranges) | unseen_radius | unseen_speed |
            unseen_radius_and_speed | out_of_distribution (these three in turn).
        small_balls: whether unseen radii are also those below training's. The authors' data has them, their evaluation
            leaves them out (`Ranges.counted`).

    Raises ValueError, in one line, for anything else.
    """

    def __init__(
        self,
        *,
        scenario: str,
        seed: int,
        num_clips: int,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
        split: str,
        small_balls: bool,
    ) -> None:
        check_numbers(seed=seed, num_clips=num_clips, num_frames=num_frames, height=height, width=width, fps=fps)
        if scenario not in SCENARIOS:
            raise ValueError(f"scenario={scenario} is none of {', '.join(SCENARIOS)}")
        if split not in SPLITS:
            raise ValueError(f"split={split} is none of {', '.join(SPLITS)}")
        if height != width or height not in SIZES:
            raise ValueError(
                f"height={height}, width={width}: the world is square, and its pictures of {SIZE} pixels are averaged"
                f" to {', '.join(map(str, SIZES))}; give one of these as both"
            )
        self.scenario, self.seed, self.num_clips, self.split = SCENARIOS[scenario], seed, num_clips, split
        self.num_frames, self.size, self.fps, self.small_balls = num_frames, height, fps, small_balls

    def document(self) -> dict[str, Any]:
        """For the data card: whose the clips are, and which."""
        return {
            "rights": rights(PhyWorld, self.num_clips, self.num_frames, self.fps),
            "chosen_by": {"scenario": self.scenario.name, "seed": str(self.seed), "split": self.split},
        }

    def __len__(self) -> int:
        return self.num_clips

    def scene(self, index: int) -> tuple[Scene, str]:
        """Scene number `index` and the split of which it is (IndexError beyond `num_clips`)."""
        if not 0 <= index < self.num_clips:
            raise IndexError(f"clip {index} of {self.num_clips}")
        split = UNSEEN[index % len(UNSEEN)] if self.split == OUT_OF_DISTRIBUTION else self.split
        # A stream for each split: clip i of one shares no number with clip i of another.
        stream = Stream(self.seed * len(SPLITS) + SPLITS.index(self.split), index)
        return self.scenario.draw(stream, split, self.small_balls), split

    def clip(self, index: int) -> PhyClip:
        """Clip number `index`."""
        scene, split = self.scene(index)
        positions, velocities = scene.at(np.arange(self.num_frames) / self.fps)
        return PhyClip(paint(positions, scene.radii, self.size), scene, split, positions, velocities)

    def __getitem__(self, index: int) -> dict[str, object]:
        """`pixels` uint8 tensor `(3, F, H, W)`, `caption`, `id`, `fps`."""
        return {
            "pixels": torch.from_numpy(self.clip(index).pixels),
            "caption": self.scenario.caption,
            "id": f"phyworld-{self.scenario.name}-{self.split}-{self.seed}-{index}",
            "fps": float(self.fps),
        }
