"""Clips are the same bytes everywhere; captions, states and pixels agree; the two splits never meet."""

import hashlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from world_settings import RICH, SIMPLE, rich, simple

from data.worlds.caption import parse
from data.worlds.motion import DIRECTIONS
from data.worlds.splits import is_held_out
from data.worlds.world import World

# SHA-256 of pixels (F, H, W, 3) and caption. A change here breaks every published number: clips have become others.
GOLDEN = {
    ("simple", 0): "2371076eff69aec39f2ee8e1b33972fd",
    ("simple", 1): "d19f6345d827007fceb8d1e3b977085a",
    ("simple", 2): "bdf26571d0509653a2b5226940d2c70d",
    ("simple", 17): "fabdc0ed936446358987bbe1f35b59ec",
    ("simple", 123): "afbaf11fb92bede8775d11f6df76d11e",
    ("rich", 0): "8f6aef0b4d5a54af482210a27ff50c2f",
    ("rich", 1): "5d66551fb2aadc3692438a1c273aabcc",
    ("rich", 2): "312cac62dbdc49ab2bf72b5ea36d139a",
    ("rich", 17): "27de837ffbab0a5269306da4f800679a",
    ("rich", 123): "c53a3ea94cfcdf3b1a439da0e9a1f122",
}


def digest(world: World, index: int) -> str:
    clip = world.clip(index)
    return hashlib.sha256(clip.pixels.tobytes() + clip.caption.encode()).hexdigest()[:32]


def rich_digest(index: int) -> str:
    return digest(rich(), index)


@pytest.mark.parametrize(("name", "index"), GOLDEN)
def test_clips_are_the_same_bytes_on_every_machine(name: str, index: int) -> None:
    assert digest({"simple": simple, "rich": rich}[name](), index) == GOLDEN[name, index]


@pytest.mark.slow
def test_order_threads_and_processes_do_not_matter() -> None:
    world, order = rich(), [7, 3, 11, 3, 0, 5]
    expected = [digest(world, index) for index in order]
    assert [digest(world, index) for index in reversed(order)] == expected[::-1]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda index: digest(world, index), order)) == expected
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        assert list(processes.map(rich_digest, order)) == expected


def test_workers_of_a_loader_give_the_same_items() -> None:
    world = simple(num_clips=8)
    loader = DataLoader(world, batch_size=4, num_workers=2, multiprocessing_context="fork")
    for start, batch in zip((0, 4), loader, strict=True):
        for place in range(4):
            item = world[start + place]
            assert torch.equal(batch["pixels"][place], item["pixels"])
            assert batch["caption"][place] == item["caption"] and batch["id"][place] == item["id"]


def test_items_are_what_the_loader_expects() -> None:
    world = simple(seed=4, height=24, width=40, num_frames=5, fps=10.0)
    item = world[3]
    assert item["pixels"].shape == (3, 5, 24, 40) and item["pixels"].dtype == torch.uint8
    assert item["pixels"].is_contiguous()
    assert item["id"] == "world-4-3" and item["fps"] == 10.0 and isinstance(item["caption"], str)
    np.testing.assert_array_equal(item["pixels"].permute(1, 2, 3, 0).numpy(), world.clip(3).pixels)
    assert len(world) == 500
    for index in (-1, 500):
        with pytest.raises(IndexError, match=str(index)):
            world[index]


def test_seeds_and_indices_give_different_clips_and_length_does_not() -> None:
    clips = {digest(simple(seed=seed), index) for seed in range(4) for index in range(25)}
    assert len(clips) == 100
    assert digest(simple(num_clips=10), 9) == digest(simple(num_clips=100_000), 9)


@pytest.mark.parametrize("index", range(40))
def test_state_caption_and_pixels_agree(index: int) -> None:
    world = rich(num_objects={1: 1.0})
    clip = world.clip(index)
    item, state = clip.state.spec.objects[0], clip.state
    assert parse(clip.caption) == clip.state.spec == world.parse(clip.caption)
    assert list(world.colours)[state.colours[0]] == item.colour and world.shapes[state.shapes[0]] == item.shape
    assert state.radii[0] == world.stage.sizes[item.size]
    # Background-weighted centroid of the pixels, wherever the whole object is in the frame.
    ink = np.abs(clip.pixels.astype(float) - np.array(world.background)).sum(-1)
    y, x = np.mgrid[:48, :64] + 0.5
    centroids = np.stack([(ink * x).sum((1, 2)), (ink * y).sum((1, 2))], -1) / ink.sum((1, 2))[:, None]
    whole = state.visibility[:, 0] > 0.999
    assert whole.any()
    np.testing.assert_allclose(centroids[whole], state.positions[whole, 0] * 48, atol=0.2)


@pytest.mark.parametrize("index", range(30))
def test_straight_motion_keeps_its_word_and_stays_inside(index: int) -> None:
    world = rich(motions={"straight": 1.0}, num_objects={1: 1.0})
    clip = world.clip(index)
    item = clip.state.spec.objects[0]
    expected = np.array(DIRECTIONS[item.direction]) * world.stage.speeds[item.speed]
    np.testing.assert_allclose(np.diff(clip.state.positions[:, 0], axis=0) * world.fps, [expected] * 15, atol=1e-5)
    promise = world.expect(clip.caption)
    np.testing.assert_allclose(promise["velocity"], expected * 48 / 16.0)
    assert promise["radius"] == pytest.approx(clip.state.radii[0] * 48)
    np.testing.assert_allclose(clip.state.visibility, 1.0)
    edge = np.concatenate([clip.pixels[:, [0, -1]].reshape(-1, 3), clip.pixels[:, :, [0, -1]].reshape(-1, 3)])
    assert (edge == np.array(world.background)).all()


def test_one_scene_at_other_sizes_and_rates() -> None:
    for index in range(10):
        base = rich().clip(index)
        finer = rich(num_frames=32, fps=32.0, height=96, width=128).clip(index)
        assert base.caption == finer.caption
        np.testing.assert_allclose(base.state.positions, finer.state.positions[::2], atol=1e-6)
        pooled = finer.pixels[::2].reshape(16, 48, 2, 64, 2, 3).mean((2, 4))
        assert np.abs(pooled - base.pixels).mean() < 1.5


def test_speeds_vary_only_when_asked_to() -> None:
    world = simple(speed_jitter=0.3, speeds={"plain": 0.35})
    speeds = [np.linalg.norm(world.clip(index).state.velocities[0, 0]) for index in range(60)]
    assert 0.35 * 0.7 <= min(speeds) < 0.3 and 0.4 < max(speeds) <= 0.35 * 1.3 + 1e-6


def combinations(world: World, clips: int) -> set[tuple[str, str, str]]:
    objects = [item for index in range(clips) for item in world.clip(index).state.spec.objects]
    return {(item.colour, item.shape, item.direction) for item in objects}


@pytest.mark.parametrize("make", [simple, rich])
def test_training_never_shows_a_held_out_combination(make: type[World]) -> None:
    train = combinations(make(split="train"), 400)
    held = combinations(make(split="heldout"), 400)
    assert not train & held
    assert not any(is_held_out(*combination, 0.2) for combination in train)
    assert all(is_held_out(*combination, 0.2) for combination in held)
    assert len(train) > 2 * len(held)
    for place, words in enumerate((SIMPLE["colours"], SIMPLE["shapes"], DIRECTIONS)):
        unseen = set(words) - {combination[place] for combination in train}
        assert not unseen or (make is simple and place == 2)  # the simple world knows no diagonals


def test_larger_fractions_only_add_combinations() -> None:
    words = [(c, s, d) for c in SIMPLE["colours"] for s in SIMPLE["shapes"] for d in DIRECTIONS]
    sets = [{word for word in words if is_held_out(*word, fraction)} for fraction in (0.0, 0.1, 0.3, 1.0)]
    assert not sets[0] and sets[0] < sets[1] < sets[2] < sets[3] == set(words)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_prompts_are_balanced_distinct_and_of_their_split(split: str) -> None:
    world = rich(split=split)
    prompts = world.prompts(48)
    assert prompts == rich(split=split, seed=9).prompts(48) and prompts[:10] == world.prompts(10)
    assert len(set(prompts)) == 48
    objects = [world.parse(prompt).objects[0] for prompt in prompts]
    assert all(is_held_out(o.colour, o.shape, o.direction, 0.2) == (split == "heldout") for o in objects)
    for kind, words in (("colour", RICH["colours"]), ("shape", RICH["shapes"]), ("size", RICH["sizes"])):
        counts = [sum(getattr(item, kind) == word for item in objects) for word in words]
        assert min(counts) > 0 and max(counts) <= 2 * 48 / len(words)


def test_prompts_repeat_only_when_all_are_used_up() -> None:
    world = simple(split="heldout")
    count = len(world.specs())
    prompts = world.prompts(2 * count)
    assert sorted(prompts[:count]) == sorted(prompts[count:]) and len(set(prompts)) == count


def test_films_of_a_caption_start_elsewhere_with_another_seed() -> None:
    world = rich()
    caption = "a small red circle moves up and left slowly and a blue star falls and bounces"
    first, again, other = world.film(caption, 1), world.film(caption, 1), world.film(caption, 2)
    assert first.caption == caption == other.caption
    assert (first.pixels == again.pixels).all() and (first.pixels != other.pixels).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": ["circle", "cube"]}, 'shape "cube" is not one of: circle, square'),
        ({"directions": ["north"]}, 'direction "north" is not one of: left, right'),
        ({"motions": {"swim": 1.0}}, 'motion "swim" is not one of: straight, bounce'),
        ({"split": "test"}, 'split "test" is not one of: train, heldout'),
        ({"num_frames": 30}, r"moving left at 0.5 frame heights a second leaves the frame within 3.75 s .* shorten"),
        ({"split": "heldout", "heldout_fraction": 0.0}, "has no combination .* heldout_fraction=0.0"),
        ({"height": 0}, "height=0 must be at least 1"),
        ({"num_clips": 0}, "num_clips=0 must be at least 1"),
        ({"fps": 0.0}, "fps=0.0 must be above 0"),
        ({"fps": float("nan")}, "fps=nan must be above 0"),
        ({"num_objects": {0: 1.0}}, "num_objects is empty"),
        ({"motions": {"straight": 0.0}}, "motions is empty"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"background": (0, 0, 300)}, r"colour \[0, 0, 300\] is not three numbers from 0 to 255"),
        ({"colours": {"red": (1, 2)}}, r"colour \[1, 2\] is not three numbers"),
        ({"speeds": {}}, "speeds is empty"),
        ({"num_objects": {1: 0.0}}, "num_objects"),
    ],
)
def test_mistakes_are_refused_in_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        simple(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a mauve circle moves right", 'colour "mauve" is not one of: red'),
        ("a red circle moves up and left", 'direction "up and left" is not one of'),
        ("a red circle falls", 'motion "fall" is not one of: straight'),
        ("a huge red circle moves up", 'size "huge" is not one of: plain'),
    ],
)
def test_a_world_parses_only_its_own_words(caption: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simple().parse(caption)


def test_falling_needs_no_speed_word() -> None:
    world = rich(speeds={"slowly": 0.3}, motions={"drop": 1.0}, num_objects={1: 1.0})
    clip = world.clip(0)
    assert world.parse(clip.caption) == clip.state.spec and clip.caption.endswith("falls and bounces")
    assert (clip.state.velocities[0] == 0.0).all() and clip.state.velocities[4, 0, 1] > 0.0


def test_only_single_straight_objects_promise_a_velocity() -> None:
    with pytest.raises(ValueError, match="promises no single velocity"):
        rich().expect("a red circle falls")
