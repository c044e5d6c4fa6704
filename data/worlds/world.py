"""The procedural world: clip number `i` with its caption and exact state, the same bytes everywhere.

A meaning (`lexicon`, words) becomes a scene (`scene`, numbers), which moves (`simulate`), is seen (`camera`) and
painted (`render`). What is true of it beside the state, masks, depth and flow, is made of the same geometry on request
(`truth`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data.worlds.camera import view
from data.worlds.caption import ANY, LENGTHS, PLAIN, ObjectSpec, Spec, check_words, read, say
from data.worlds.lexicon import ALONE, Combination, Lexicon, above_0
from data.worlds.motion import DIRECTIONS
from data.worlds.numbered import check_numbers, rights
from data.worlds.outline import SHAPES, Floats
from data.worlds.render import ground, picture, plate, surface
from data.worlds.scene import Stage
from data.worlds.scenery import Colour, rgb
from data.worlds.simulate import simulate
from data.worlds.state import Clip, State
from data.worlds.steer import ACTIONS, PRESSES, Keyboard, check_presses, columns, draw_presses
from data.worlds.stream import Stream
from data.worlds.truth import Truth

MEDIUM: Mapping[str, float] = {"medium": 1.0}
_LONGER_LANE = 1  # of random numbers: longer clips are no continuations of those that are trained on


class World(Dataset[dict[str, object]]):
    """A map-style data set of `num_clips` simulated clips.

    Args:
        seed: clips of another seed are other draws from the same world.
        num_clips: length of the data set; clip `i` does not depend on it.
        num_frames, height, width, fps: how a scene is seen; the scene itself depends on its duration
            `num_frames / fps` and on the aspect ratio only.
        shapes: names out of `outline.SHAPES`.
        colours: word -> (red, green, blue), 0 to 255.
        directions: words out of `motion.DIRECTIONS`.
        sizes: word -> radius in frame heights (of the circle of equal area); "plain" is left unsaid.
        speeds: word -> frame heights a second; "plain" is left unsaid.
        speed_jitter: speeds vary by at most this share around the word's value; 0 makes the speed exactly the word's.
        motions: name out of `motion.MOTIONS` -> weight.
        num_objects: number of objects in a scene -> weight.
        gravity: frame heights per second squared.
        background: (red, green, blue).
        split: out of `splits.SPLITS`.
        heldout_fraction: share of the combinations (colour, shape, direction) that only split "heldout" shows.
        labels: parts of an object out of `caption.ObjectSpec` that make its class, for networks with labels:
            [colour, shape] makes "red circle" one. Scenes of several objects have no class.

    What follows is plain in configs of before it was there:
        textures, materials: "plain" and words out of `pattern.TEXTURES` and `motion.MATERIALS`, all equally likely.
        sceneries, backgrounds, cameras, events: "plain" and words out of `scenery.SCENERIES`, `pattern.BACKGROUNDS`,
            `camera.CAMERAS` and `caption.EVENTS` -> weight.
        size_jitter: as `speed_jitter`, of radii.
        outside_sizes, outside_speeds: words and values outside the range of `sizes` and `speeds`, below and above,
            which the splits "smaller", "larger", "slower" and "faster" show and no other.
        longer_frames: frames of the clips of split "longer".
        keys: names out of `steer.KEYS` that move the first object, whose motion is then a steered one.
        caption_lengths: length out of `caption.LENGTHS` -> weight.

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
        textures: Sequence[str] = (PLAIN,),
        materials: Sequence[str] = (PLAIN,),
        sceneries: Mapping[str, float] = ALONE,
        backgrounds: Mapping[str, float] = ALONE,
        cameras: Mapping[str, float] = ALONE,
        events: Mapping[str, float] = ALONE,
        size_jitter: float = 0.0,
        outside_sizes: Mapping[str, float] = {},  # noqa: B006 never changed
        outside_speeds: Mapping[str, float] = {},  # noqa: B006
        longer_frames: int | None = None,
        keys: Sequence[str] = (),
        caption_lengths: Mapping[str, float] = MEDIUM,
    ) -> None:
        check_numbers(seed=seed, num_clips=num_clips, num_frames=num_frames, height=height, width=width, fps=fps)
        if split == "longer":
            if longer_frames is None or longer_frames <= num_frames:
                raise ValueError(
                    f'split "longer" has clips of longer_frames={longer_frames}; give more than num_frames={num_frames}'
                )
            num_frames = longer_frames
        self.seed, self.num_clips, self.split = seed, num_clips, split
        self.num_frames, self.height, self.width, self.fps = num_frames, height, width, fps
        self.shapes, self.directions, self.gravity = list(shapes), list(directions), gravity
        self.colours: dict[str, Colour] = {word: rgb(value) for word, value in colours.items()}
        self.background = rgb(background)
        check_words("caption length", caption_lengths, LENGTHS)
        self.caption_lengths = above_0("caption_lengths", caption_lengths)
        self.lexicon = Lexicon(
            shapes=shapes,
            colours=list(self.colours),
            directions=directions,
            sizes=sizes,
            speeds=speeds,
            motions=motions,
            num_objects=num_objects,
            textures=textures,
            materials=materials,
            sceneries=sceneries,
            backgrounds=backgrounds,
            cameras=cameras,
            events=events,
            outside_sizes=outside_sizes,
            outside_speeds=outside_speeds,
            keys=keys,
            size_jitter=size_jitter,
            speed_jitter=speed_jitter,
            split=split,
            heldout_fraction=heldout_fraction,
        )
        self.keys = self.lexicon.keys
        self.columns = [ACTIONS, PRESSES] if self.keys else []  # of the items, beside pixels and caption
        self.stage = Stage(
            width / height,
            num_frames / fps,
            self.lexicon.sizes,
            self.lexicon.speeds,
            speed_jitter,
            size_jitter,
            careful=self.lexicon.rich,
        )
        self._make_classes(labels)
        self._check_paths()

    def _make_classes(self, labels: Sequence[str]) -> None:
        words = self.lexicon
        parts: dict[str, list[str]] = {
            "colour": words.colours,
            "shape": words.shapes,
            "size": words.trained_sizes,
            "motion": list(words.motions),
            "direction": words.directions,
            "speed": words.trained_speeds,
            "texture": words.textures,
            "material": words.materials,
        }
        check_words("label", labels, parts)
        self.labels = list(labels)
        self.classes = [" ".join(each) for each in product(*(parts[part] for part in labels))] if labels else []

    def _check_paths(self) -> None:
        """Raises ValueError for what does not fit into the room; splits beyond training leave such motions out."""
        words = self.lexicon
        beyond = self.split not in ("train", "heldout")
        misfits: dict[str, ValueError] = {}
        for motion in words.motions:  # all combinations, since a prompt may ask for those of the other split
            directions = words.possible_directions(motion)
            choices = product(self.shapes, directions, words.shown_sizes, words.speed_words(motion))
            try:
                for shape, direction, size, speed in choices:
                    item = ObjectSpec("", shape, size, motion, direction, speed)
                    self.stage.check(item)
                    for scenery in words.sceneries_of(motion):
                        self.stage.check_around(item, scenery)
            except ValueError as misfit:
                if not beyond:
                    raise
                misfits[motion] = misfit
        if "collide" in words.events:
            self.stage.check_meeting(self.shapes, words.shown_sizes)
        if len(misfits) == len(words.motions):
            raise next(iter(misfits.values()))
        if misfits:
            words.drop(list(misfits))

    def document(self) -> dict[str, Any]:
        """For the data card: whose the clips are, and which."""
        return {
            "rights": rights(World, self.num_clips, self.num_frames, self.fps),
            "chosen_by": {"seed": str(self.seed), "split": self.split},
            "classes": list(self.classes),
        }

    def __len__(self) -> int:
        return self.num_clips

    def clip(self, index: int, actions: object = None) -> Clip:
        """Clip number `index` (0 to `num_clips - 1`; IndexError beyond).

        actions: `(F, K)` of 0 and 1 in the place of the presses that the clip has; None: its own.
        """
        if not 0 <= index < self.num_clips:
            raise IndexError(f"clip {index} of a world of {self.num_clips}")
        stream = Stream(self.seed, index, _LONGER_LANE if self.split == "longer" else 0)
        return self._film(self.lexicon.draw(stream), stream, None, actions)

    def film(self, caption: str, seed: int, actions: object = None) -> Clip:
        """A clip of a given caption; `seed` decides what the caption leaves open (where things start).

        actions: as those of `clip`; None: some that `seed` decides.
        """
        spec, length = self.parse(caption), read(caption)[1]
        stream = Stream(seed, 0)
        spec = self.lexicon.complete(spec, stream)
        for item in spec.objects:
            self.stage.check(item)
        return self._film(spec, stream, length, actions)

    def parse(self, caption: str) -> Spec:
        """The meaning of a caption; raises ValueError for a word that this world does not know."""
        return self.lexicon.parse(caption)

    def _film(self, spec: Spec, stream: Stream, length: str | None, actions: object) -> Clip:
        if actions is not None:
            actions = check_presses(actions, self.keys, self.num_frames)
        scene = self.stage.scene(spec, stream)
        length = length or stream.pick(self.caption_lengths)
        keyboard, presses = None, np.zeros((self.num_frames, 0), np.uint8)
        if self.keys:
            presses = draw_presses(self.keys, self.num_frames, self.fps, stream)
            presses = presses if actions is None else np.asarray(actions)
            radii = [start.radius for start in scene.starts]
            hero = scene.starts[0]
            keyboard = Keyboard(self.keys, presses, hero.motion, hero.speed, radii, self.gravity)
        seen = simulate(scene.starts, self.gravity, self.stage.aspect, self.num_frames, self.fps, scene.slabs, keyboard)
        colour_words = self.lexicon.colours
        state = State(
            spec=spec,
            positions=seen.positions,
            velocities=seen.velocities,
            radii=np.array([start.radius for start in scene.starts]),
            colours=np.array([colour_words.index(item.colour) for item in spec.objects]),
            shapes=np.array([self.shapes.index(item.shape) for item in spec.objects]),
            visibility=np.empty(0),
            contacts=seen.contacts,
            masses=np.array([start.mass for start in scene.starts]),
            textures=tuple(item.texture for item in spec.objects),
            slabs=scene.slabs,
            view=view(spec.camera, self.stage.aspect, self.num_frames, self.fps),
            actions=presses,
        )
        pixels, visibility = self._painted(state)
        return Clip(pixels.transpose(1, 2, 3, 0), say(spec, length), replace(state, visibility=visibility))

    def _painted(self, state: State, present: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.uint8], Floats]:
        colours = list(self.colours.values())
        return picture(
            state.positions,
            state.radii.tolist(),
            self.outlines(state),
            [surface(colours[colour], word) for colour, word in zip(state.colours, state.textures, strict=True)],
            state.slabs,
            ground(self.background, state.spec.background),
            state.view,
            self.height,
            self.width,
            present,
        )

    def paint(self, state: State, present: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """The pixels `(F, H, W, 3)` that show a state, one that never was, too: `paint(clip.state)` is `clip.pixels`.

        Of a state, its positions, radii, colours, shapes, textures, slabs, view and `spec.background` are seen.
        present: `(F, N)`, False where an object is not there; None: all are.
        """
        return self._painted(state, present)[0].transpose(1, 2, 3, 0)

    def plate(self, state: State) -> NDArray[np.uint8]:
        """The pixels `(F, H, W, 3)` of a state without its objects and without walls in front of them."""
        behind = ground(self.background, state.spec.background)
        found = plate(behind, state.slabs, state.view, self.height, self.width)
        return np.broadcast_to(found, (3, len(state.positions), self.height, self.width)).transpose(1, 2, 3, 0)

    def outlines(self, state: State) -> list[str]:
        """The names of the shapes of a state's objects."""
        return [self.shapes[number] for number in state.shapes]

    def truth(self, state: State) -> Truth:
        """Masks, depth and optical flow of a state, as this world shows it; computed as they are asked for."""
        return Truth(
            state.positions, state.radii, self.outlines(state), state.slabs, state.view, self.height, self.width
        )

    def __getitem__(self, index: int) -> dict[str, object]:
        """`pixels` uint8 tensor `(3, F, H, W)`, `caption`, `id`, `fps`; where there are keys `columns`: of each frame
        `presses`, 0 or 1 for each of `keys`, and `actions`, the number that these make as bits, the first the lowest.
        """
        clip = self.clip(index)
        return {
            "pixels": torch.from_numpy(np.ascontiguousarray(clip.pixels.transpose(3, 0, 1, 2))),
            "caption": clip.caption,
            "id": f"world-{self.seed}-{index}",
            "fps": float(self.fps),
            **({"label": self.label(clip.state.spec)} if self.labels else {}),
            **({"columns": columns(clip.state.actions)} if self.keys else {}),
        }

    def span(self, column: str) -> tuple[float, float]:
        """The least and the largest number of a column."""
        return 0.0, 2.0 ** len(self.keys) - 1.0 if column == ACTIONS else 1.0

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
        spec = self.parse(caption)
        item = spec.objects[0]
        if (
            len(spec.objects) != 1
            or item.motion != "straight"
            or spec.camera != PLAIN
            or ANY in (item.size, item.speed)
        ):
            raise ValueError(f'"{caption}" is not one object in straight motion, so it promises no single velocity')
        step = self.stage.speeds[item.speed] * self.height / self.fps
        dx, dy = DIRECTIONS[item.direction]
        return {
            "colour": item.colour,
            "shape": item.shape,
            "radius": self.stage.sizes[item.size] * self.height,
            "velocity": (step * dx, step * dy),
        }

    @property
    def is_plain(self) -> bool:
        """Whether prompts are of one object each, in straight motion on an empty ground: then `expect` says all of
        them."""
        return not self.lexicon.rich and list(self.lexicon.motions) == ["straight"]

    @property
    def combinations(self) -> set[Combination]:
        """Colour, shape and direction of everything that this split shows."""
        return self.lexicon.combinations

    def specs(self) -> list[Spec]:
        """Every meaning of one object that this split can show, in a fixed order."""
        return list(self.lexicon.specs())

    def prompts(self, count: int) -> list[str]:
        """`count` captions from this split, all words balanced, of the likeliest length (medium where several are).

        Where scenes are no more than objects, of one object each, and none twice before all have been given.
        """
        length = max(self.caption_lengths, key=lambda each: (self.caption_lengths[each], each == "medium"))
        return [say(spec, length) for spec in self.lexicon.prompts(count)]
