"""The order of clips: complete, disjoint over ranks, and the same from any position on."""

import random
from collections import Counter
from itertools import islice

import pytest
import torch

from data.batch import Shape
from data.epochs import Epochs, shuffle
from data.sampler import Draw, Place, TrainingStream, Turn, shaped_shard, validation_shard


def global_batches(
    num_clips: int, batch_size: int, world_size: int, seed: int, start: int, steps: int
) -> list[list[Draw]]:
    """Steps of all ranks, each step's ranks joined."""
    ranks = [
        list(islice(TrainingStream(Epochs(num_clips, seed), batch_size, rank, world_size, Place(start)), steps))
        for rank in range(world_size)
    ]
    return [sum(step, []) for step in zip(*ranks, strict=True)]


def cases(count: int) -> list[tuple[int, int, int, int]]:
    rng = random.Random(0)
    return [(rng.randint(1, 50), rng.randint(1, 9), rng.randint(1, 4), rng.randint(0, 10**6)) for _ in range(count)]


@pytest.mark.parametrize("num_clips, batch_size, world_size, seed", cases(20))
def test_each_epoch_shows_each_clip_once_over_all_ranks(
    num_clips: int, batch_size: int, world_size: int, seed: int
) -> None:
    epochs = 3
    steps = -(-epochs * num_clips // (batch_size * world_size))
    draws = sum(global_batches(num_clips, batch_size, world_size, seed, 0, steps), [])[: epochs * num_clips]
    assert Counter((draw.epoch, draw.index) for draw in draws) == Counter(
        (epoch, index) for epoch in range(epochs) for index in range(num_clips)
    )


@pytest.mark.parametrize("num_clips, batch_size, world_size, seed", cases(20))
def test_stopping_anywhere_and_going_on_changes_nothing(
    num_clips: int, batch_size: int, world_size: int, seed: int
) -> None:
    stop, more = seed % 17, 11
    whole = global_batches(num_clips, batch_size, world_size, seed, 0, stop + more)
    used = stop * batch_size * world_size
    assert global_batches(num_clips, batch_size, world_size, seed, used, more) == whole[stop:]


def test_other_ranks_and_batch_size_go_on_with_the_very_next_samples() -> None:
    before = global_batches(23, 4, 1, 5, 0, 7)
    after = global_batches(23, 3, 2, 5, 28, 9)
    straight = global_batches(23, 1, 1, 5, 0, 28 + 54)
    assert sum(before, []) + sum(after, []) == sum(straight, [])


def test_a_global_batch_is_the_same_on_one_rank_or_four() -> None:
    assert global_batches(37, 8, 1, 3, 0, 20) == global_batches(37, 2, 4, 3, 0, 20)


def test_shuffles_differ_by_epoch_and_by_seed() -> None:
    orders = [tuple(shuffle(40, seed, epoch).tolist()) for seed in range(6) for epoch in range(6)]
    assert len(set(orders)) == len(orders)
    assert torch.equal(shuffle(40, 2, 3), shuffle(40, 2, 3))


ORDER_OF_BEFORE = [
    (0, 0), (4, 0), (1, 0), (1, 1), (0, 1), (5, 1), (3, 1), (4, 1), (2, 1), (6, 1), (4, 2), (3, 2), (0, 2), (1, 2),
    (5, 2), (6, 2), (2, 2), (6, 3),
]  # fmt: skip


def test_the_order_of_clips_of_one_shape_stays_what_it_was() -> None:
    """Runs that were begun before there were several shapes and weights go on with the very clips."""
    draws = sum(global_batches(7, 3, 2, 5, 4, 3), [])
    assert [(draw.index, draw.epoch) for draw in draws] == ORDER_OF_BEFORE


def check_turns(shards: list[list[Turn]], num_clips: int) -> None:
    """Ranks are equal in shapes and sizes, and every clip counts once."""
    alike = {
        tuple((len(turn.draws), {draw.shape for draw in turn.draws}) for turn in shard).__repr__() for shard in shards
    }
    assert len(alike) == 1
    seen = [draw.index for shard in shards for turn in shard for draw in turn.draws]
    counted = [
        draw.index for shard in shards for turn in shard for draw in turn.draws[: len(turn.draws) - turn.fillers]
    ]
    assert sorted(counted) == list(range(num_clips)) and set(seen) == set(counted)


@pytest.mark.parametrize("num_clips, batch_size, world_size, seed", cases(20))
def test_validation_ranks_are_equal_and_every_clip_counts_once(
    num_clips: int, batch_size: int, world_size: int, seed: int
) -> None:
    shards = [validation_shard(num_clips, batch_size, rank, world_size) for rank in range(world_size)]
    check_turns(shards, num_clips)
    assert sum(len(turn.draws) for shard in shards for turn in shard) - num_clips < world_size


@pytest.mark.parametrize("num_clips, batch_size, world_size, seed", cases(20))
def test_so_are_they_shape_by_shape(num_clips: int, batch_size: int, world_size: int, seed: int) -> None:
    shapes = [Shape(1, 8, 8), Shape(4, 8, 8), Shape(4, 8, 16)]
    number = [random.Random(seed + clip).randrange(3) for clip in range(num_clips)]
    sizes = [batch_size + 4, batch_size, max(1, batch_size // 2)]
    shards = [shaped_shard(number, shapes, sizes, rank, world_size) for rank in range(world_size)]
    check_turns(shards, num_clips)
    for turn in shards[0]:
        assert len({draw.shape for draw in turn.draws}) == 1
        assert len(turn.draws) <= sizes[shapes.index(turn.draws[0].shape)]  # type: ignore[arg-type]
        assert all(shapes[number[draw.index]] == draw.shape for draw in turn.draws)
