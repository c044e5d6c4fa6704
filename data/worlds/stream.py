"""Random numbers by seed and index, the same on every machine."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Stream:
    """Random numbers number `index` of `seed`: Philox counter blocks, the same on every machine and numpy.

    Those of another `lane` are others.
    """

    def __init__(self, seed: int, index: int, lane: int = 0) -> None:
        # Only raw words are used: numpy promises their stream, not that of its distributions.
        self._philox = np.random.Philox(counter=[0, 0, index, 0], key=[seed, lane])
        self._words: list[int] = []

    def unit(self) -> float:
        """Uniform in [0, 1), a multiple of 2**-53."""
        if not self._words:
            self._words = self._philox.random_raw(32).tolist()
        return (self._words.pop() >> 11) * 2.0**-53

    def one_of(self, items: Sequence[T]) -> T:
        """An item, all equally likely."""
        return items[int(self.unit() * len(items))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """Draws a key with a probability in proportion to its weight."""
        level = self.unit() * sum(weights.values())
        for key, weight in weights.items():
            level -= weight
            if level < 0.0:
                return key
        return key

    def pick(self, choices: Mapping[T, float] | Sequence[T]) -> T:
        """A key by its weight, or an item; the only one there is takes no number of the stream.

        So a world that has one texture is drawn as if there were no textures.
        """
        if len(choices) == 1:
            return next(iter(choices))
        return self.weighted(choices) if isinstance(choices, Mapping) else self.one_of(choices)
