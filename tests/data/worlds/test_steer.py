"""Keys do what they say, to the object that hears them, from the next frame on; presses travel with the clip."""

import numpy as np
import pytest
from world_settings import preset

from data.batch import collate
from data.worlds.steer import JUMP_HEIGHT, check_presses

KEYS = ["left", "right", "jump", "push"]


def presses(**held: range) -> np.ndarray:
    found = np.zeros((16, 4), np.uint8)
    for key, frames in held.items():
        found[list(frames), KEYS.index(key)] = 1
    return found


def test_presses_are_data_of_the_sample() -> None:
    world = preset("steered")
    items = [world[index] for index in range(3)]
    clips = [world.clip(index) for index in range(3)]
    assert world.columns == ["actions", "presses"] and world.keys == KEYS
    assert world.span("actions") == (0.0, 15.0) and world.span("presses") == (0.0, 1.0)
    batch = collate(items)  # type: ignore[arg-type]
    assert batch.values["presses"].shape == (3, 16, 4) and batch.values["actions"].shape == (3, 16)
    for place, clip in enumerate(clips):
        presses = clip.state.actions
        assert presses.dtype == np.uint8 and presses.shape == (16, 4)
        assert (batch.values["presses"][place].numpy() == presses).all()
        assert (batch.values["actions"][place].numpy() == presses @ [1, 2, 4, 8]).all()
    assert "columns" not in preset("physics")[0] and preset("physics").columns == []


def test_drawn_presses_use_every_key_several_times_a_clip() -> None:
    world = preset("steered", height=8, width=8)
    drawn = np.stack([world.clip(index).state.actions for index in range(30)])
    assert (drawn.mean((0, 1)) > 0.05).all()
    changes = (np.diff(drawn.astype(int), axis=1) != 0).any(-1).sum(1)
    assert changes.mean() > 3.0
    assert not (drawn[..., 0] & drawn[..., 1]).any()  # one way at a time


def test_actions_that_are_given_replay_and_change_what_they_should() -> None:
    world = preset("steered")
    for index in range(8):
        clip = world.clip(index)
        again = world.clip(index, actions=clip.state.actions)
        assert (again.pixels == clip.pixels).all() and again.caption == clip.caption
        changed = clip.state.actions.copy()
        changed[9:, :2] = 1 - changed[9:, :2]
        changed[9:, 1] = 1 - changed[9:, 0]
        other = world.clip(index, actions=changed)
        assert (other.pixels[:10] == clip.pixels[:10]).all()  # the press of frame 9 shows in frame 10
        assert other.caption == clip.caption and (other.state.radii == clip.state.radii).all()
    filmed = world.film("a red circle is steered on the ground", 3, actions=changed)
    assert (filmed.state.actions == changed).all()


def test_keys_move_jump_and_push() -> None:
    world = preset("steered", height=8, width=8, speeds={"plain": 0.4})
    caption = "a red circle is steered on the ground"
    ground = 1.0 - 0.1
    resting = np.zeros((16, 4), np.uint8)
    right = presses(right=range(4, 9))
    for seed in range(5):
        # The fall from the start to the floor comes first, whatever keys say.
        still = world.film(caption, seed, actions=resting).state
        moved = world.film(caption, seed, actions=right).state
        assert np.ptp(still.positions[:, 0, 0]) == 0.0
        way = moved.positions[:, 0, 0] - still.positions[:, 0, 0]
        assert (way[:5] == 0.0).all()
        free = not moved.contacts[:, 0, 2].any()
        if free:
            np.testing.assert_allclose(way[5:10], 0.4 / 16 * np.arange(1, 6), atol=5e-3)
            np.testing.assert_allclose(way[10:], way[9], atol=5e-3)
        np.testing.assert_allclose(moved.positions[:, 0, 1], still.positions[:, 0, 1], atol=1e-6)
    world = preset("steered", height=8, width=8, num_frames=32, longer_frames=64)
    jumps = np.zeros((32, 4), np.uint8)
    jumps[20, 2] = 1
    high = world.film(caption, 0, actions=jumps).state.positions[:, 0, 1]
    assert high[20] == pytest.approx(ground, abs=2e-3)
    assert ground - high[21:].min() == pytest.approx(JUMP_HEIGHT, abs=0.02)
    jumps[22, 2] = 1  # in the air nothing can be jumped from
    assert (world.film(caption, 0, actions=jumps).state.positions[:, 0, 1] == high).all()


def test_a_push_reaches_what_is_near_and_nothing_else() -> None:
    world = preset("steered", height=8, width=8, motions={"walk": 1.0, "fall": 1.0}, num_frames=32)
    caption = "a red circle is steered on the ground and a light blue square falls"
    pressed = np.zeros((32, 4), np.uint8)
    pressed[20, 3] = 1
    near = far = 0
    for seed in range(25):
        still = world.film(caption, seed, actions=np.zeros((32, 4), np.uint8)).state
        pushed = world.film(caption, seed, actions=pressed).state
        (x, y), (u, v) = still.positions[20]
        gap = np.hypot(x - u, y - v) - still.radii.sum()
        change = np.abs(pushed.positions[22:, 1] - still.positions[22:, 1]).max()
        assert (pushed.positions[:21] == still.positions[:21]).all()
        if gap < 0.14:
            near += 1
            assert change > 1e-3  # a wall may be near
            assert np.sign(pushed.positions[21, 1, 0] - still.positions[21, 1, 0]) == np.sign(u - x)
        if gap > 0.16:
            far += 1
            assert change == 0.0
    assert near > 2 and far > 2


def test_walls_hold_against_keys() -> None:
    world = preset("steered", speeds={"plain": 0.6}, num_frames=32, longer_frames=64)
    held = np.zeros((32, 4), np.uint8)
    held[:, 0] = 1
    for seed in range(5):
        state = world.film("a red circle is steered on the ground", seed, actions=held).state
        assert state.positions[-1, 0, 0] > 0.1 - 0.01 and state.contacts[-1, 0, 1]


def test_steering_in_a_plane() -> None:
    keys = ["left", "right", "up", "down"]
    world = preset("steered", motions={"steer": 1.0, "glide": 1.0}, keys=keys, gravity=0.0, speeds={"plain": 0.4})
    held = np.zeros((16, 4), np.uint8)
    held[:, [1, 2]] = 1  # right and up at once: as fast as along one
    state = world.film("a red circle is steered", 4, actions=held).state
    free = ~state.contacts[:, 0].any(1)
    speeds = np.linalg.norm(state.velocities[1:, 0], axis=-1)[free[1:]]
    np.testing.assert_allclose(speeds, 0.4, atol=1e-6)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((15, 4)), r"actions of shape \(15, 4\) for 16 frames and 4 keys \(left, right, jump, push\)"),
        (np.full((16, 4), 2), "values beside 0 and 1"),
    ],
)
def test_other_actions_are_refused(actions: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset("steered").clip(0, actions=actions)
    with pytest.raises(ValueError, match="is not steered"):
        check_presses(actions, [], 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": []}, r"motions that are steered \(walk\) and keys \(none\) go together"),
        ({"motions": {"fall": 1.0}}, "no motion of object 1 goes with"),
        ({"motions": {"walk": 1.0}}, "no motion of object 2 goes with"),
        ({"keys": ["up"]}, 'key "up" does nothing to motion "walk"'),
        ({"keys": ["fly"]}, 'key "fly" is not one of: left, right'),
    ],
)
def test_keys_and_motions_that_do_not_go_together_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset("steered", **changes)
