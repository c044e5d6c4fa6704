"""Follows each object of a scene through its frames, from pieces of colour to places in the room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from dit.evaluation.objects.layers import Layers, Piece, Setting
from dit.evaluation.segment import Bools, Floats, grown
from dit.evaluation.shape import Templates

HIDDEN = 0.4  # share of an object's disc that has to be covered, or outside, where it is allowed not to be seen
REACH = 1.35  # radii around an object in which nothing else may be, for its area to be judged
WHOLE = (0.9, 1.12)  # area over the usual one, within which an object counts as whole beside others, too
USUAL = 0.7  # quantile of an object's areas that is about all of it: what is covered has less
PER_AREA = 0.05  # pixels that an object may be farther from where it should be, for each pixel that it is larger
MOST = 5  # pieces of one colour in a frame that are looked at
LOOKS = 4  # frames before and behind one piece of several objects, in which each is looked at
ALIKE = 0.2  # by how much less objects have to differ before and behind it, to be others than their ways say
SHAPES_READ = 4  # frames of each half of a clip in which the shape is read


@dataclass(frozen=True)
class Thing:
    """What is known of one object; lengths in pixels of the room, velocities in pixels a frame.

    None where nothing is promised. velocity: at the start, before anything is met. gravity: pixels a frame squared.
    straight: it keeps to its line and passes through everything. paced: the length of `velocity` is promised, too.
    """

    colour: str
    shape: str | None
    radius: float | None  # of the circle of equal area
    velocity: tuple[float, float] | None
    gravity: float
    straight: bool
    paced: bool = True


@dataclass(frozen=True)
class Track:
    """One object over F frames; lengths in pixels of the room, NaN where it is not seen."""

    pieces: tuple[Piece | None, ...]
    places: Floats  # (F, 2) of what is seen of it
    areas: Floats  # (F,)
    predicted: Floats  # (F, 2) where it is, or would be; NaN if it was never seen
    hidden: Bools  # (F,) what hides it there, or the frame's edge, excuses that it is not seen
    whole: Bools  # (F,) all of it is seen
    usual: float  # its area where nothing is near; 0 if it was never seen

    @property
    def seen(self) -> Bools:
        """(F,)."""
        return np.array([piece is not None for piece in self.pieces], np.bool_)

    @property
    def radius(self) -> float:
        """Of the circle of its usual area."""
        return float(np.sqrt(self.usual / np.pi))

    @property
    def unseen(self) -> bool:
        """Whether something hides it in all frames, so that nothing can be asked of it."""
        return bool(self.hidden.all())

    def shapes(self, setting: Setting, templates: Templates, least: float) -> tuple[str | None, ...]:
        """The shape in the first half of the frames and in the second one; None where none scores `least`."""
        middle = (len(self.pieces) + 1) // 2
        halves: list[str | None] = []
        frames = np.flatnonzero(self.whole)
        for half in (frames[frames < middle], frames[frames >= middle]):
            scores = []
            for frame in half[np.unique(np.linspace(0, len(half) - 1, SHAPES_READ).astype(int))] if len(half) else []:
                piece = self.pieces[frame]
                if piece is not None:
                    scores.append(templates.scores(piece.mask, piece.centroid, piece.area))
            if scores:
                mean = np.mean(scores, axis=0)
                halves.append(templates.names[int(mean.argmax())] if mean.max() >= least else None)
        return tuple(halves)


def follow(
    layers: Layers, things: Sequence[Thing], setting: Setting, templates: Templates
) -> tuple[list[Track], list[list[Piece]]]:
    """A track for each thing, and of each frame the strangers: pieces that are none of them.

    Things are known by colour. Those of one colour are linked from frame to frame by their ways, and told apart by
    shape, size and velocity.
    """
    frames = len(layers.pieces)
    chosen: list[list[Piece | None]] = [[None] * frames for _ in things]
    for colour in dict.fromkeys(thing.colour for thing in things):
        group = [number for number, thing in enumerate(things) if thing.colour == colour]
        seen = [[piece for piece in each if piece.colour == colour][:MOST] for each in layers.pieces]
        linked = _link(seen, len(group), setting)
        if len(group) > 1:
            linked = _parted(linked, layers, setting, templates)
            linked = _named(linked, [things[number] for number in group], setting, templates)
        for number, pieces in zip(group, linked, strict=True):
            chosen[number] = pieces
    colours = {thing.colour for thing in things}
    strangers: list[list[Piece]] = []
    others: list[Bools] = []  # what may hide an object: walls, and other objects that were promised
    for frame, found in enumerate(layers.pieces):
        own = [piece for each in chosen if (piece := each[frame]) is not None]
        beside = np.logical_or.reduce([layers.walls[frame], *(piece.mask > 0.0 for piece in own)])
        # What another object cuts off of one is no stranger; it touches both.
        strangers.append(
            [
                piece
                for piece in found
                if not any(piece is each for each in own)
                and not (piece.colour in colours and (grown(grown(piece.solid)) & beside).any())
            ]
        )
        others.append(beside)
    tracks = []
    for number, thing in enumerate(things):
        alike = [each for like, each in zip(things, chosen, strict=True) if like.colour == thing.colour]
        # Where one of a colour is missing, the other one's piece may be both of them.
        alone = np.array([all(each[frame] is not None for each in alike) for frame in range(frames)], np.bool_)
        # A wall is in the way of the first object; it may hide another one all the time.
        tracks.append(_finished(chosen[number], layers, setting, np.stack(others), alone, number > 0))
    return tracks, strangers


def _link(seen: Sequence[Sequence[Piece]], count: int, setting: Setting) -> list[list[Piece | None]]:
    """The pieces of one colour, linked to `count` tracks; the largest ones begin them."""
    tracks: list[list[Piece | None]] = [[None] * len(seen) for _ in range(count)]
    places: list[list[tuple[int, Floats]]] = [[] for _ in range(count)]
    for frame, pieces in enumerate(seen):
        here = [setting.room(piece.centroid, frame) for piece in pieces]
        slots: list[int | None] = [*range(len(pieces)), *[None] * max(0, count - len(pieces))]
        costs = {}
        for choice in set(permutations(slots, count)):
            total = 0.0
            for track, number in enumerate(choice):
                if number is not None:
                    where = _ahead(places[track], frame)
                    total += 0.0 if where is None else float(np.linalg.norm(here[number] - where))
                    total -= PER_AREA * pieces[number].area
            costs[choice] = total
        best = min(costs, key=lambda choice: (costs[choice], str(choice)))
        for track, piece in enumerate(best):
            if piece is not None:
                tracks[track][frame] = pieces[piece]
                places[track].append((frame, here[piece]))
    return tracks


def _parted(
    linked: list[list[Piece | None]], layers: Layers, setting: Setting, templates: Templates
) -> list[list[Piece | None]]:
    """Tracks of one colour that went on where some of them had been one piece, or had not been seen: each goes on as
    what looks like it did before, by shape and area, in frames that show all of each."""
    found = [list(track) for track in linked]
    apart = [all(track[frame] is not None for track in linked) for frame in range(len(linked[0]))]

    def in_view(frames: Iterable[int]) -> list[int]:
        return [each for each in frames if apart[each] and all(_in_view(track[each], each, layers) for track in linked)]  # type: ignore[arg-type]

    for frame in range(1, len(apart)):
        if apart[frame - 1] or not apart[frame]:
            continue
        together = [each for each in range(frame, len(apart)) if not apart[each]]
        before = in_view(range(frame))[-LOOKS:]
        behind = in_view(range(frame, together[0] if together else len(apart)))[:LOOKS]
        if not before or not behind:
            continue
        looks = [np.array([_look(track, frames, setting, templates) for track in found]) for frames in (before, behind)]
        as_they_are = tuple(range(len(found)))

        def unlike(order: Sequence[int], looks: Sequence[Floats] = looks) -> float:
            return float(np.abs(looks[0] - looks[1][list(order)]).sum())

        best = min(permutations(as_they_are), key=unlike)
        if unlike(best) + ALIKE < unlike(as_they_are):
            found = [[*track[:frame], *found[other][frame:]] for track, other in zip(found, best, strict=True)]
    return found


def _in_view(piece: Piece, frame: int, layers: Layers) -> bool:
    """Whether nothing that could hide a part of a piece is next to it: no wall, nothing of another colour."""
    near = grown(piece.solid)
    others = (other.solid for other in layers.pieces[frame] if other.colour != piece.colour)
    return not any((near & each).any() for each in (layers.walls[frame], *others))


def _look(track: Sequence[Piece | None], frames: Sequence[int], setting: Setting, templates: Templates) -> Floats:
    """The scores of all shapes, and the logarithm of the area in the room, means over frames in which it is seen."""
    pieces = [(frame, piece) for frame in frames if (piece := track[frame]) is not None]
    looks = [
        [*templates.scores(piece.mask, piece.centroid, piece.area), np.log(piece.area / setting.scale[frame] ** 2)]
        for frame, piece in pieces
    ]
    return np.asarray(np.mean(looks, axis=0), np.float64)


def _ahead(places: Sequence[tuple[int, Floats]], frame: int) -> Floats | None:
    """Where what was seen at some places goes on to be."""
    if not places:
        return None
    last, place = places[-1]
    if len(places) == 1:
        return place
    before, start = places[-2]
    return np.asarray(place + (place - start) * (frame - last) / (last - before))


def _named(
    linked: list[list[Piece | None]], things: Sequence[Thing], setting: Setting, templates: Templates
) -> list[list[Piece | None]]:
    """The tracks in the order of the things of their colour that they are most like."""
    costs = np.zeros((len(linked), len(things)))
    for row, pieces in enumerate(linked):
        frames = [frame for frame, piece in enumerate(pieces) if piece is not None]
        if not frames:
            continue
        middle = pieces[frames[len(frames) // 2]]
        assert middle is not None
        scores = templates.scores(middle.mask, middle.centroid, middle.area)
        radius = float(np.sqrt(middle.area / np.pi)) / setting.scale[frames[len(frames) // 2]]
        first, second = frames[0], frames[min(2, len(frames) - 1)]
        ends = [setting.room(pieces[frame].centroid, frame) for frame in (first, second)]  # type: ignore[union-attr]
        velocity = (ends[1] - ends[0]) / max(second - first, 1)
        for column, thing in enumerate(things):
            if thing.shape in templates.names:
                costs[row, column] += scores.max() - scores[templates.names.index(thing.shape)]
            if thing.radius is not None:
                costs[row, column] += abs(np.log(max(radius, 1e-6) / thing.radius))
            if thing.velocity is not None:
                costs[row, column] += 0.2 * float(np.linalg.norm(velocity - np.array(thing.velocity)))
    best = min(
        permutations(range(len(linked))), key=lambda order: sum(costs[row, col] for col, row in enumerate(order))
    )
    return [linked[row] for row in best]


def _finished(
    pieces: Sequence[Piece | None], layers: Layers, setting: Setting, promised: Bools, alone: Bools, may_hide: bool
) -> Track:
    frames = len(pieces)
    places, areas = np.full((frames, 2), np.nan), np.full(frames, np.nan)
    for frame, piece in enumerate(pieces):
        if piece is not None:
            places[frame] = setting.room(piece.centroid, frame)
            areas[frame] = piece.area / setting.scale[frame] ** 2
    seen = np.isfinite(areas)
    none = np.zeros(frames, np.bool_)
    if not seen.any():
        hidden = none | (may_hide and bool(layers.walls.any()))
        return Track(tuple(pieces), places, areas, places, hidden, none, 0.0)
    others = layers.walls.copy()
    for frame, each in enumerate(layers.pieces):
        for piece in each:
            if piece is not pieces[frame]:
                others[frame] |= piece.solid
    others = grown(others)
    radius = float(np.sqrt(np.quantile(areas[seen], USUAL) / np.pi))
    clear = none.copy()
    for frame in np.flatnonzero(seen & alone).tolist():
        place, scale = setting.picture(places[frame], frame), float(setting.scale[frame])
        clear[frame] = _covered(others[frame], place, REACH * radius * scale, edge=False) == 0.0
    usual, whole = np.pi * radius * radius, clear
    if clear.any():
        usual = float(np.median(areas[clear]))
        with np.errstate(invalid="ignore"):
            share = areas / usual
            whole = clear | (alone & (share >= WHOLE[0]) & (share <= WHOLE[1]))
    predicted = _predicted(places, seen, np.flatnonzero(whole if whole.any() else seen))
    hidden = none.copy()
    for frame in np.flatnonzero(~seen).tolist():
        place, scale = setting.picture(predicted[frame], frame), float(setting.scale[frame])
        reach = float(np.sqrt(usual / np.pi)) * scale
        # Half of a row of pixels across the disc is mixed with what covers it, which is much of a small one.
        mixed = 1.0 / (np.pi * reach)
        hidden[frame] = _covered(promised[frame], place, reach, edge=True) >= HIDDEN - mixed
    return Track(tuple(pieces), places, areas, predicted, hidden, whole, usual)


def _predicted(places: Floats, seen: Bools, good: np.ndarray) -> Floats:
    """Places of all frames: where an object is not seen, on straight ways from where it was, in the frames `good`."""
    found = places.copy()
    for frame in np.flatnonzero(~seen):
        before, after = good[good < frame], good[good > frame]
        if len(before) and len(after):
            share = (frame - before[-1]) / (after[0] - before[-1])
            found[frame] = places[before[-1]] + share * (places[after[0]] - places[before[-1]])
            continue
        end, start = (before[-1], before[-3:][0]) if len(before) else (after[0], after[:3][-1])
        velocity = (places[end] - places[start]) / (end - start) if end != start else np.zeros(2)
        found[frame] = places[end] + velocity * (frame - end)
    return found


def _covered(others: Bools, place: Floats, radius: float, *, edge: bool) -> float:
    """The share of a disc (picture, pixels) that lies on `others` (H, W), or outside the picture if `edge`."""
    height, width = others.shape
    reach = int(radius) + 1
    column, row = np.floor(place).astype(np.int64)
    rows, columns = np.arange(row - reach, row + reach + 1), np.arange(column - reach, column + reach + 1)
    disc = (rows[:, None] + 0.5 - place[1]) ** 2 + (columns[None] + 0.5 - place[0]) ** 2 <= radius * radius
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    on = others[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)[None]] & inside
    if edge:
        on = on | ~inside
    return float((on & disc).sum() / max(disc.sum(), 1))
