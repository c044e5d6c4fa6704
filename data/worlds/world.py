"""The procedural world: clip number `i` with its caption and exact state, the same bytes everywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data.card import share
from data.worlds.caption import DIRECTIONS, PLAIN, ObjectSpec, Spec, check_words, parse, say, says_speed
from data.worlds.render import SHAPES, Floats, render
from data.worlds.scene import Stage, Stream, is_held_out, motion_directions
from data.worlds.simulate import MOTIONS, Start, simulate

Colour = tuple[int, int, int]
MOST_MEANINGS = 1_000_000  # of one object; splits, prompts and classes are made of lists of them


@dataclass(frozen=True)
class State:
    """The exact truth beside a clip of F frames and N objects; lengths in frame heights, seconds, y down."""

    spec: Spec
    positions: Floats  # (F, N, 2) centroids (x, y)
    velocities: Floats  # (F, N, 2)
    radii: Floats  # (N,) of the circle of equal area
    colours: NDArray[np.int64]  # (N,) index into the world's colours
    shapes: NDArray[np.int64]  # (N,) index into the world's shapes
    visibility: Floats  # (F, N) share of the object that is inside the frame and not covered
    contacts: NDArray[
        np.bool_
    ]  # (F, N, N + 4) touched object j, or the left, right, top, bottom wall, since last frame


@dataclass(frozen=True)
class Clip:
    """`pixels` uint8 `(F, H, W, 3)`, the caption and the state."""

    pixels: NDArray[np.uint8]
    caption: str
    state: State


class World(Dataset[dict[str, object]]):
    """A map-style data set of `num_clips` simulated clips.

    Args:
        seed: clips of another seed are other draws from the same world.
        num_clips: length of the data set; clip `i` does not depend on it.
        num_frames, height, width, fps: how a scene is seen; the scene itself depends on its duration
            `num_frames / fps` and on the aspect ratio only.
        shapes: names out of `render.SHAPES`.
        colours: word -> (red, green, blue), 0 to 255.
        directions: words out of `caption.DIRECTIONS`.
        sizes: word -> radius in frame heights (of the circle of equal area); "plain" is left unsaid.
        speeds: word -> frame heights a second; "plain" is left unsaid.
        speed_jitter: speeds vary by at most this share around the word's value; 0 makes the speed exactly the word's.
        motions: name out of `simulate.MOTIONS` -> weight.
        num_objects: number of objects in a scene -> weight.
        gravity: frame heights per second squared.
        background: (red, green, blue).
        split: "train" or "heldout".
        heldout_fraction: share of the combinations (colour, shape, direction) that only split "heldout" shows.
        labels: parts of an object out of `caption.ObjectSpec` that make its class, for networks with labels:
            [colour, shape] makes "red circle" one. Scenes of several objects have no class. Nothing for configs of
            before there were labels.

    Raises ValueError for words that do not exist, paths that do not fit into the frame, an empty split.
    """

    def __init__(
        self,
        *,
        seed: int,
        num_clips: int,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
        shapes: Sequence[str],
        colours: Mapping[str, Sequence[int]],
        directions: Sequence[str],
        sizes: Mapping[str, float],
        speeds: Mapping[str, float],
        speed_jitter: float,
        motions: Mapping[str, float],
        num_objects: Mapping[int, float],
        gravity: float,
        background: Sequence[int],
        split: str,
        heldout_fraction: float,
        labels: Sequence[str] = (),
    ) -> None:
        for name, value in {"num_clips": num_clips, "num_frames": num_frames, "height": height, "width": width}.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        for name, words in {
            "shapes": shapes,
            "colours": colours,
            "directions": directions,
            "sizes": sizes,
            "speeds": speeds,
            "motions": [word for word, weight in motions.items() if weight > 0],
            "num_objects": [count for count, weight in num_objects.items() if weight > 0 and int(count) > 0],
        }.items():
            if not words:
                raise ValueError(f"{name} is empty: give at least one entry, and a weight above 0 where it has weights")
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0")
        if fps <= 0:
            raise ValueError(f"fps={fps} must be above 0")
        check_words("shape", shapes, SHAPES)
        check_words("direction", directions, DIRECTIONS)
        check_words("motion", motions, MOTIONS)
        check_words("split", [split], ["train", "heldout"])
        self.seed, self.num_clips, self.split = seed, num_clips, split
        self.num_frames, self.height, self.width, self.fps = num_frames, height, width, fps
        self.shapes, self.directions, self.gravity = list(shapes), list(directions), gravity
        self.colours: dict[str, Colour] = {word: _rgb(value) for word, value in colours.items()}
        self.background = _rgb(background)
        self.motions = {name: weight for name, weight in motions.items() if weight > 0}
        self.num_objects = {int(count): weight for count, weight in num_objects.items() if weight > 0}
        self.stage = Stage(width / height, num_frames / fps, dict(sizes), dict(speeds), speed_jitter)
        words = (self.colours, shapes, directions, sizes, speeds, motions)
        if (count := prod(map(len, words))) > MOST_MEANINGS:
            raise ValueError(
                f"{' x '.join(str(len(each)) for each in words)} colours, shapes, directions, sizes, speeds and "
                f"motions make {count:,} meanings; at most {MOST_MEANINGS:,} can be listed, so name fewer words"
            )
        parts: dict[str, list[str]] = {
            "colour": list(self.colours),
            "shape": self.shapes,
            "size": list(self.stage.sizes),
            "motion": list(self.motions),
            "direction": self.directions,
            "speed": list(self.stage.speeds),
        }
        check_words("label", labels, parts)
        self.labels = list(labels)
        self.classes = [" ".join(each) for each in product(*(parts[part] for part in labels))] if labels else []
        self._combinations = {
            motion: self._split_combinations(motion, split == "heldout", heldout_fraction) for motion in self.motions
        }
        for motion in self.motions:  # both splits: a prompt may ask for either
            choices = product(self.shapes, motion_directions(motion, self.directions), self.stage.sizes)
            for (shape, direction, size), speed in product(choices, self._speed_words(motion)):
                self.stage.check(ObjectSpec("", shape, size, motion, direction, speed))

    def _split_combinations(self, motion: str, heldout: bool, fraction: float) -> list[tuple[str, str, str]]:
        every = product(self.colours, self.shapes, motion_directions(motion, self.directions))
        found = [combination for combination in every if is_held_out(*combination, fraction) == heldout]
        if not found:
            raise ValueError(
                f'split "{self.split}" of motion "{motion}" has no combination of colour, shape and direction with '
                f"heldout_fraction={fraction}; name more words or choose a fraction nearer to 0.5"
            )
        return found

    def document(self) -> dict[str, Any]:
        """For the data card: made by this code, so nobody else's."""
        hours = self.num_clips * self.num_frames / self.fps / 3600
        return {
            "rights": [share("generated", World.__module__, self.num_clips, hours)],
            "chosen_by": {"seed": str(self.seed), "split": self.split},
            "classes": list(self.classes),
        }

    def __len__(self) -> int:
        return self.num_clips

    def clip(self, index: int) -> Clip:
        """Clip number `index` (0 to `num_clips - 1`; IndexError beyond)."""
        if not 0 <= index < self.num_clips:
            raise IndexError(f"clip {index} of a world of {self.num_clips}")
        stream = Stream(self.seed, index)
        spec = Spec(tuple(self._draw_object(stream) for _ in range(stream.weighted(self.num_objects))))
        return self._film(spec, stream)

    def film(self, caption: str, seed: int) -> Clip:
        """A clip of a given caption; `seed` decides what the caption leaves open (where things start)."""
        return self._film(self.parse(caption), Stream(seed, 0))

    def parse(self, caption: str) -> Spec:
        """The meaning of a caption; raises ValueError for a word that this world does not know."""
        spec = parse(caption)
        for item in spec.objects:
            check_words("colour", [item.colour], self.colours)
            check_words("shape", [item.shape], self.shapes)
            check_words("size", [item.size], self.stage.sizes)
            check_words("motion", [item.motion], self.motions)
            check_words("speed", [item.speed], self._speed_words(item.motion))
            check_words("direction", [item.direction], motion_directions(item.motion, self.directions))
        return spec

    def _draw_object(self, stream: Stream) -> ObjectSpec:
        motion = stream.weighted(self.motions)
        colour, shape, direction = stream.one_of(self._combinations[motion])
        size = stream.one_of(self._sizes)
        speed = stream.one_of(self._speed_words(motion))
        return ObjectSpec(colour, shape, size, motion, direction, speed)

    @cached_property
    def _sizes(self) -> list[str]:
        return list(self.stage.sizes)

    def _speed_words(self, motion: str) -> list[str]:
        return list(self.stage.speeds) if says_speed(motion) else [PLAIN]

    def _film(self, spec: Spec, stream: Stream) -> Clip:
        starts: list[Start] = []
        for item in spec.objects:
            starts.append(self.stage.start(item, stream, starts))
        seen = simulate(starts, self.gravity, self.stage.aspect, self.num_frames, self.fps)
        pixels, visibility = render(
            seen.positions,
            [start.radius for start in starts],
            [start.shape for start in starts],
            [self.colours[item.colour] for item in spec.objects],
            self.background,
            self.height,
            self.width,
        )
        colour_words = list(self.colours)
        state = State(
            spec=spec,
            positions=seen.positions,
            velocities=seen.velocities,
            radii=np.array([start.radius for start in starts]),
            colours=np.array([colour_words.index(item.colour) for item in spec.objects]),
            shapes=np.array([self.shapes.index(item.shape) for item in spec.objects]),
            visibility=visibility,
            contacts=seen.contacts,
        )
        return Clip(pixels.transpose(1, 2, 3, 0), say(spec), state)

    def __getitem__(self, index: int) -> dict[str, object]:
        """`pixels` uint8 tensor `(3, F, H, W)`, `caption`, `id`, `fps`."""
        clip = self.clip(index)
        return {
            "pixels": torch.from_numpy(np.ascontiguousarray(clip.pixels.transpose(3, 0, 1, 2))),
            "caption": clip.caption,
            "id": f"world-{self.seed}-{index}",
            "fps": float(self.fps),
            **({"label": self.label(clip.state.spec)} if self.labels else {}),
        }

    def label(self, spec: Spec) -> int:
        """The class of a scene, a position in `classes`; -1 where it has none."""
        name = " ".join(getattr(spec.objects[0], part) for part in self.labels)
        return self._numbers.get(name, -1) if len(spec.objects) == 1 else -1

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}

    def legend(self) -> dict[str, dict[str, Colour] | dict[str, tuple[tuple[float, float], ...]] | Colour]:
        """What a reader of pixels must know: `colours`, `outlines` (area pi, centroid at the origin), `background`."""
        outlines = {name: SHAPES[name].vertices for name in self.shapes}
        return {"colours": dict(self.colours), "outlines": outlines, "background": self.background}

    def expect(self, caption: str) -> dict[str, str | float | tuple[float, float]]:
        """What a caption of one straight-moving object promises, in pixels and frames of this world.

        Raises ValueError for captions that promise something else.
        """
        objects = self.parse(caption).objects
        if len(objects) != 1 or objects[0].motion != "straight":
            raise ValueError(f'"{caption}" is not one object in straight motion, so it promises no single velocity')
        item = objects[0]
        step = self.stage.speeds[item.speed] * self.height / self.fps
        dx, dy = DIRECTIONS[item.direction]
        return {
            "colour": item.colour,
            "shape": item.shape,
            "radius": self.stage.sizes[item.size] * self.height,
            "velocity": (step * dx, step * dy),
        }

    def specs(self) -> list[Spec]:
        """Every meaning of one object that this split can show, in a fixed order."""
        found = []
        for motion, combinations in self._combinations.items():
            for (colour, shape, direction), size, speed in product(
                combinations, self._sizes, self._speed_words(motion)
            ):
                found.append(Spec((ObjectSpec(colour, shape, size, motion, direction, speed),)))
        return found

    def prompts(self, count: int) -> list[str]:
        """`count` captions of one object from this split, all words balanced; repeats only once all have been given."""
        left: list[Spec] = []
        used: dict[tuple[str, str], int] = {}
        chosen = []
        for _ in range(count):
            left = left or self.specs()
            best = min(left, key=lambda spec: sum(used.get(pair, 0) for pair in vars(spec.objects[0]).items()))
            left.remove(best)
            for pair in vars(best.objects[0]).items():
                used[pair] = used.get(pair, 0) + 1
            chosen.append(say(best))
        return chosen


def _rgb(value: Sequence[int]) -> Colour:
    if len(value) != 3 or not all(0 <= part <= 255 for part in value):
        raise ValueError(f"colour {list(value)} is not three numbers from 0 to 255")
    red, green, blue = (int(part) for part in value)
    return red, green, blue
