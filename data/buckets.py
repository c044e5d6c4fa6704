"""Buckets: each batch holds clips of one shape, as many as the token budget allows."""

from __future__ import annotations

import numpy as np

from data.shapes import Batches, Ints, Shapes


class Buckets(Shapes):
    """Batches of clips of one shape.

    The batches of a step have one shape too, as far as each shape's clips go. What is left of every shape at the end of
    an epoch, less than a step, is spread over batches of equal size; these are put into steps by their tokens, so that
    no rank waits long for another. Nothing is dropped or repeated.
    """

    packed = False

    def batches(
        self, number: Ints, tokens: Ints, budget: int, ranks: int, first: int, rng: np.random.Generator
    ) -> Batches:
        by_shape = np.argsort(number, kind="stable")
        counts = np.bincount(number, minlength=len(tokens))
        steps: list[Ints] = []  # (ranks, 2) each: where in `by_shape` the batches of a step begin and end
        rest: list[Ints] = []  # (batches, 2) each
        begin = 0
        for count, most in zip(counts.tolist(), (budget // tokens).tolist(), strict=True):
            whole = count // (most * ranks)
            edges = begin + most * np.arange(whole * ranks + 1)
            steps += [*_spans(edges).reshape(whole, ranks, 2)]
            if left := count - whole * ranks * most:
                parts = -(-left // most)
                rest.append(_spans(edges[-1] + np.arange(parts + 1) * left // parts))
            begin += count
        in_front = -first % ranks  # batches of a step that the epoch before began
        while sum(map(len, rest)) < in_front and steps:
            rest.append(steps.pop())
        ragged = np.concatenate([np.zeros((0, 2), np.int64), *rest])
        load = (ragged[:, 1] - ragged[:, 0]) * tokens[number[by_shape[ragged[:, 0]]]]
        ragged = ragged[np.argsort(-load, kind="stable")]
        mixed = max(len(ragged) - in_front, 0) // ranks * ranks
        steps += [*ragged[:mixed].reshape(-1, ranks, 2)]
        head, tail = ragged[mixed : mixed + in_front], ragged[mixed + in_front :]
        spans = np.concatenate([head, *(steps[i] for i in rng.permutation(len(steps))), tail])
        lengths = spans[:, 1] - spans[:, 0]
        ends = np.cumsum(lengths)
        order = by_shape[np.repeat(spans[:, 0] - (ends - lengths), lengths) + np.arange(len(number))]
        return Batches(order, ends)


def _spans(edges: Ints) -> Ints:
    """Edges (n + 1,) as the n spans between them (n, 2)."""
    return np.stack([edges[:-1], edges[1:]], axis=1)
