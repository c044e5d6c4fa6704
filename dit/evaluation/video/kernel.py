"""The kernel distance between two sets of features: of videos KVD (Unterthiner et al. 2018, arXiv 1812.01717).

It is the squared maximum mean discrepancy with the kernel k(x, y) = (x.y / d + 1)^3, d the number of features, in the
unbiased estimate of Gretton et al. 2012, averaged over subsets, as published for images (Binkowski et al. 2018, arXiv
1801.01401). Unlike a Frechet distance it has no bias at any number of clips, and may be below 0.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dit.evaluation.video.jackknife import Distance, groups_for, jackknife

DEGREE = 3
SUBSETS = 100
SUBSET_SIZE = 1000
SEED = 0  # of the subsets


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """The unbiased estimate from `(n, d)` and `(m, d)`.

    Raises ValueError for sets of fewer than two, or of features of different length.
    """
    _check(first, second)
    first, second = first.double(), second.double()
    own = [_mean_beside_diagonal(_kernel(each, each)) for each in (first, second)]
    return float(own[0] + own[1] - 2 * _kernel(first, second).mean())


def kernel(first: Tensor, second: Tensor, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE) -> Distance:
    """The mean over `subsets` pairs of random subsets of `subset_size` clips, drawn without replacement; of smaller
    sets the estimate of all clips, which is what all their subsets give. The interval is the jackknife's, of all clips.

    Args:
        first, second: features `(n, d)` and `(m, d)`; where clips are in pairs, row i of both is one.

    Raises ValueError for sets of fewer than two, or of features of different length.
    """
    _check(first, second)
    spread = _over_groups(first.double(), second.double())
    if subset_size >= max(len(first), len(second)):
        return spread
    generator = torch.Generator().manual_seed(SEED)
    values = []
    for _ in range(subsets):
        drawn = [
            each[torch.randperm(len(each), generator=generator)[: min(subset_size, len(each))]]
            for each in (first, second)
        ]
        values.append(kernel_distance(*drawn))
    value = sum(values) / len(values)
    moved = value - spread.value
    low, high = (None if end is None else end + moved for end in (spread.low, spread.high))
    return Distance(value, low, high, spread.bias)


def _check(first: Tensor, second: Tensor) -> None:
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features of {first.shape[1]} and of {second.shape[1]} numbers cannot be compared")
    if min(len(first), len(second)) < 2:
        raise ValueError(f"{len(first)} and {len(second)} clips: a kernel distance needs at least 2 in each set")


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** DEGREE


def _mean_beside_diagonal(square: Tensor) -> Tensor:
    count = len(square)
    return (square.sum() - square.diagonal().sum()) / (count * (count - 1))


def _over_groups(first: Tensor, second: Tensor) -> Distance:
    """The estimate of all clips and its jackknife, from sums of the kernel over pairs of groups: each pair of clips is
    looked at once, and no matrix is larger than a group by a group."""
    groups = groups_for(len(first), len(second))
    xs, ys = ([each[group::groups] for group in range(groups)] for each in (first, second))
    xx, yy, xy = (_sums(a, b) for a, b in ((xs, xs), (ys, ys), (xs, ys)))
    diagonals = [torch.stack([((x * x).sum(1) / x.shape[1] + 1).pow(DEGREE).sum() for x in each]) for each in (xs, ys)]

    def between(left_out: int | None) -> float:
        kept = torch.tensor([group for group in range(groups) if group != left_out])
        n, m = (sum(len(each[group]) for group in kept.tolist()) for each in (xs, ys))
        own_x, own_y = (
            float(sums[kept][:, kept].sum() - diagonal[kept].sum()) / (count * (count - 1))
            for sums, diagonal, count in ((xx, diagonals[0], n), (yy, diagonals[1], m))
        )
        return own_x + own_y - 2 * float(xy[kept][:, kept].sum()) / (n * m)

    found = jackknife(between, groups)
    return replace(found, bias=None if found.bias is None else 0.0)


def _sums(first: list[Tensor], second: list[Tensor]) -> Tensor:
    return torch.stack([torch.stack([_kernel(x, y).sum() for y in second]) for x in first])
