"""What data is told of codec and network: tokens of a shape, and the nearest shape that both can take."""

from types import SimpleNamespace
from typing import Any

import pytest

from dit.codec.compression import Compression
from dit.engine.fitting import Sizes
from dit.net.patches import token_grid

CODECS = [
    Compression((1, 1, 1), causal=False),
    Compression((4, 8, 8), causal=True),
    Compression((8, 32, 32), causal=True),
    Compression((4, 8, 8), causal=False),
    Compression((4, 8, 8), causal=True, group=2),  # in pairs of latent frames behind the first
    Compression((4, 8, 8), causal=True, lead=1),
]
PATCHES = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 16, 8)]


def sizes(compression: Compression, patch: tuple[int, int, int]) -> Sizes:
    codec: Any = SimpleNamespace(
        compression=compression, stride=compression.stride, causal=compression.causal, group=compression.group,
        lead=compression.lead, latent_shape=compression.latent_shape,
    )  # fmt: skip

    def num_tokens(frames: int, height: int, width: int) -> int:
        f, h, w = token_grid(patch, frames, height, width)
        return f * h * w

    net: Any = SimpleNamespace(patch=patch, num_tokens=num_tokens)
    return Sizes(net, codec)


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("compression", CODECS)
def test_the_nearest_is_the_best_that_can_be_taken(compression: Compression, patch: tuple[int, int, int]) -> None:
    asked = sizes(compression, patch)

    def legal(axis: int) -> list[int]:
        fixed = asked.nearest(1, 1, 1)
        found = []
        for size in range(1, 400):
            try:
                asked.tokens(*(size if each == axis else fixed[each] for each in range(3)))
            except ValueError:
                continue
            found.append(size)
        return found

    for axis in range(3):
        there = legal(axis)
        if not there:  # causal in pairs, and patches of two frames: no length of one frame more than pairs
            continue
        for size in (*range(1, 70), 81, 128, 200):
            found = asked.nearest(*(size if each == axis else 1 for each in range(3)))[axis]
            assert found == min(there, key=lambda each, size=size: (abs(each - size), each)), (axis, size)


def test_tokens_are_those_of_the_network() -> None:
    asked = sizes(Compression((4, 8, 8), causal=True), (1, 2, 2))
    assert asked.tokens(17, 64, 96) == 5 * 4 * 6
    with pytest.raises(ValueError, match="num_frames=16 is not 4k"):
        asked.tokens(16, 64, 96)
    assert asked.nearest(16, 70, 90) == (17, 64, 96)
