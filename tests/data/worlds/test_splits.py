"""Splits by design: what each shows, and that none shows what another does."""

import numpy as np
import pytest
from world_settings import PRESETS, preset, rich

from data.worlds.splits import SPLITS, is_held_out

OUTSIDE = ("slower", "faster", "smaller", "larger")


@pytest.mark.parametrize("name", PRESETS)
def test_splits_show_what_they_are_for_and_nothing_of_one_another(name: str) -> None:
    captions: dict[str, set[str]] = {}
    for split in SPLITS:
        if (name, split) == ("occlusion", "longer"):
            continue  # what passes behind a wall leaves the frame after a while: below
        world = preset(name, split=split, height=8, width=8, caption_lengths={"medium": 1.0})
        clips = [world.clip(index) for index in range(15)]
        captions[split] = {clip.caption for clip in clips}
        objects = [item for clip in clips for item in clip.state.spec.objects]
        held = [is_held_out(item.colour, item.shape, item.direction, 0.2) for item in objects]
        assert all(held) if split == "heldout" else not any(held)
        sizes, speeds = {item.size for item in objects}, {item.speed for item in objects} - {"plain"}
        assert sizes <= {"smaller": {"tiny"}, "larger": {"huge"}}.get(split, {"small", "plain", "large"})
        wanted = {"slower": {"very slowly"}, "faster": {"very quickly"}}.get(split, {"slowly", "quickly"})
        assert speeds <= wanted and (split not in ("slower", "faster") or speeds)
        assert {len(clip.pixels) for clip in clips} == {32 if split == "longer" else 16}
    for one in ("train", "heldout", *OUTSIDE):
        for other in ("train", "heldout", *OUTSIDE):
            if one != other:
                assert not captions[one] & captions[other]


def test_radii_and_speeds_outside_training_really_are() -> None:
    def measured(split: str) -> tuple[np.ndarray, np.ndarray]:
        world = preset("camera", split=split, height=8, width=8)
        states = [world.clip(index).state for index in range(30)]
        radii = np.concatenate([state.radii for state in states])
        speeds = np.concatenate([np.linalg.norm(state.velocities[0], axis=-1) for state in states])
        return radii, speeds

    radii, speeds = measured("train")
    assert measured("smaller")[0].max() < radii.min() and measured("larger")[0].min() > radii.max()
    assert measured("slower")[1].max() < speeds.min() and measured("faster")[1].min() > speeds.max()


def test_longer_clips_are_other_scenes_that_stay_in_the_frame() -> None:
    world = preset("camera", split="longer", height=8, width=8)
    training = preset("camera", height=8, width=8)
    trained = {training.clip(index).state.positions[0].tobytes() for index in range(15)}
    for index in range(15):
        state = world.clip(index).state
        assert state.positions[0].tobytes() not in trained
        assert state.positions.min() > 0.0 and state.positions.max() < 1.0


def test_a_split_beyond_training_leaves_out_what_cannot_be_shown() -> None:
    world = preset("camera", split="longer", height=8, width=8)
    assert {item.motion for index in range(20) for item in world.clip(index).state.spec.objects} == {"bounce"}
    with pytest.raises(ValueError, match="leaves the frame within 2 s"):
        preset("camera", split="longer", motions={"straight": 1.0}, speeds={"plain": 0.5})
    with pytest.raises(ValueError, match="leaves the frame within 2 s"):
        preset("occlusion", split="longer")


def test_sizes_may_vary_around_their_words() -> None:
    world = rich(size_jitter=0.05)
    for index in range(20):
        for item, radius in zip((state := world.clip(index).state).spec.objects, state.radii, strict=True):
            assert 0.0 < abs(radius / world.stage.sizes[item.size] - 1.0) <= 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "smaller"}, 'split "smaller" shows sizes below 0.08, of which outside_sizes has none: name one'),
        ({"split": "faster"}, 'split "faster" shows speeds above 0.45, of which outside_speeds has none'),
        ({"outside_sizes": {"middling": 0.1}}, r"outside_sizes: middling \(0.1\) is within those of training"),
        ({"outside_sizes": {"small": 0.01}}, "give values below or above them, under other words"),
        ({"split": "longer"}, 'split "longer" has clips of longer_frames=None; give more than num_frames=16'),
        ({"split": "longer", "longer_frames": 16}, "longer_frames=16; give more"),
        ({"textures": ["furry"]}, 'texture "furry" is not one of: plain, striped'),
        ({"materials": ["soft"]}, 'material "soft" is not one of: plain, light'),
        ({"sceneries": {"tree": 1.0}}, 'scenery "tree" is not one of: plain, wall'),
        ({"sceneries": {"plain": 0.0}}, "sceneries is empty"),
        ({"cameras": {"orbit": 1.0}}, 'camera "orbit" is not one of: plain, left'),
        ({"events": {"marry": 1.0}}, 'event "marry" is not one of: plain, collide'),
        ({"events": {"collide": 1.0}}, "no motion of object 1 goes with event"),
        ({"caption_lengths": {"epic": 1.0}}, 'caption length "epic" is not one of: short, medium, long'),
        ({"size_jitter": 1.5}, "size_jitter=1.5 must be at least 0 and below 1"),
    ],
)
def test_mistakes_are_refused_in_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        rich(**changes)
    assert "\n" not in str(error.value)
