"""Which pixels latents stand for: the frame rule, and everything that follows from it."""

import pytest
import torch

from dit.codec.compression import PIXELS, Compression

RULES = [
    Compression((4, 8, 8), causal=True),
    Compression((6, 8, 8), causal=True),
    Compression((4, 8, 8), causal=False),
    Compression((1, 2, 2), causal=True),
    PIXELS,
]


@pytest.mark.parametrize("rule", RULES)
def test_every_pixel_frame_belongs_to_one_latent_frame(rule: Compression) -> None:
    frames, _, _ = rule.pixel_shape(5, 1, 1)
    stands_for = [rule.frames_of(latent) for latent in range(5)]
    assert [frame for each in stands_for for frame in each] == list(range(frames))
    for latent, each in enumerate(stands_for):
        assert each.start == rule.first_frame(latent)
        assert {rule.latent_of(frame) for frame in each} == {latent}
    lengths = {len(each) for each in stands_for[1:]}
    assert lengths == {rule.stride[0]}
    assert len(stands_for[0]) == (1 if rule.causal else rule.stride[0])


@pytest.mark.parametrize("rule", RULES)
def test_shapes_go_there_and_back(rule: Compression) -> None:
    for shape in ((1, 1, 1), (2, 3, 4), (9, 1, 5)):
        pixels = rule.pixel_shape(*shape)
        assert rule.latent_shape(*pixels) == shape
    numbers = torch.arange(6, dtype=torch.float64)
    assert rule.first_frames(numbers).tolist() == [rule.first_frame(latent) for latent in range(6)]


@pytest.mark.parametrize(
    "shape, said",
    [
        ((30, 8, 8), r"num_frames=30 is not 4k\+1 for this codec; nearest: 29, 33"),
        ((2, 8, 8), r"num_frames=2 is not 4k\+1 for this codec; nearest: 1, 5"),
        ((0, 8, 8), r"num_frames=0 is not 4k\+1 for this codec; nearest: 1"),
        ((-7, 8, 8), r"num_frames=-7 is not 4k\+1 for this codec; nearest: 1"),
        ((5, 4, 8), r"height=4 is not 8k for this codec; nearest: 8"),
        ((5, 8, 20), r"width=20 is not 8k for this codec; nearest: 16, 24"),
    ],
)
def test_other_clips_are_refused_with_the_nearest_ones(shape: tuple[int, int, int], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        RULES[0].latent_shape(*shape)


def test_which_latent_frame_stands_for_a_pixel_frame() -> None:
    assert [RULES[0].latent_of(frame) for frame in range(9)] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert [Compression((3, 2, 2), causal=False).latent_of(frame) for frame in range(6)] == [0, 0, 0, 1, 1, 1]
    assert [PIXELS.latent_of(frame) for frame in range(3)] == [0, 1, 2]


def test_latent_frames_that_come_in_groups() -> None:
    pairs = Compression((4, 8, 8), causal=True, group=2)
    assert [pairs.latent_shape(frames, 8, 8)[0] for frames in (1, 9, 17)] == [1, 3, 5]
    with pytest.raises(ValueError, match=r"num_frames=13 is not 8k\+1 for this codec; nearest: 9, 17"):
        pairs.latent_shape(13, 8, 8)


def test_a_lead_stands_for_no_pixels() -> None:
    rule, plain = Compression((4, 8, 8), causal=True, group=2, lead=1), Compression((4, 8, 8), causal=True, group=2)
    assert [rule.latent_shape(frames, 8, 8)[0] for frames in (1, 9, 17)] == [2, 4, 6]
    assert rule.pixel_shape(4, 2, 3) == plain.pixel_shape(3, 2, 3) == (9, 16, 24)
    assert [list(rule.frames_of(latent)) for latent in range(4)] == [[], [0], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert rule.first_frames(torch.arange(4)).tolist() == [0, 0, 1, 5]
    assert [rule.latent_of(frame) for frame in range(6)] == [0, 2, 2, 2, 2, 3]
