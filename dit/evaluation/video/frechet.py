"""The Frechet distance between two sets of features, of which FVD and FID are cases.

Two Gaussians with the features' means m and covariances S are compared (Dowson and Landau 1982; Heusel et al. 2017,
arXiv 1706.08500; of videos Unterthiner et al. 2018, arXiv 1812.01717):

    |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2))
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from dit.evaluation.video.jackknife import Distance, jackknife


class Moments:
    """Count, mean and scatter of features that come in pieces, in float64; the features themselves are not kept.

    Pieces are joined as in Chan, Golub and LeVeque 1979, so that it matters little how they were cut.
    """

    def __init__(self, features: int) -> None:
        self.count = 0
        self.mean = torch.zeros(features, dtype=torch.float64)
        self.scatter = torch.zeros(features, features, dtype=torch.float64)  # sum of (x - mean)(x - mean)^T

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of `(n, d)`."""
        made = cls(features.shape[1])
        made.count = len(features)
        if made.count:
            own = features.detach().cpu().double()
            made.mean = own.mean(0)
            made.scatter = (own - made.mean).T @ (own - made.mean)
        return made

    def joined(self, other: Moments) -> Moments:
        """Of the features of both."""
        made = Moments(len(self.mean))
        made.count = self.count + other.count
        if made.count:
            apart = other.mean - self.mean
            made.mean = self.mean + apart * (other.count / made.count)
            between = torch.outer(apart, apart) * (self.count * other.count / made.count)
            made.scatter = self.scatter + other.scatter + between
        return made

    @property
    def covariance(self) -> Tensor:
        """`(d, d)`, unbiased. ValueError for fewer than two features."""
        if self.count < 2:
            raise ValueError(
                f"{self.count} clip(s) have no covariance: a Frechet distance needs at least 2 in each set"
            )
        return self.scatter / (self.count - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared distance at the head of this file.

    The trace of (S1 S2)^(1/2) is taken as that of (S1^(1/2) S2 S1^(1/2))^(1/2), which is symmetric: its eigenvalues are
    real, and covariances of fewer clips than features do no harm.

    Raises ValueError for sets of fewer than two, or of features of different length.
    """
    if len(first.mean) != len(second.mean):
        raise ValueError(f"features of {len(first.mean)} and of {len(second.mean)} numbers cannot be compared")
    values, vectors = torch.linalg.eigh(first.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum()
    traces = first.covariance.trace() + second.covariance.trace()
    return max(0.0, float((first.mean - second.mean).square().sum() + traces - 2 * cross))


def frechet(first: Sequence[Moments], second: Sequence[Moments]) -> Distance:
    """The distance between two sets that come in equally many groups of clips, with its interval and its bias."""

    def between(left_out: int | None) -> float:
        return frechet_distance(_joined(first, left_out), _joined(second, left_out))

    return jackknife(between, len(first))


def few_clips(count: int, features: int, what: str = "clips") -> str:
    """What must be said of a distance of so few clips, or frames, "" where nothing must."""
    if count > features:
        return ""
    return (
        f"{count} {what} for {features} features: the covariances are singular and most of the value is due to the"
        f" small number; take more than {features} {what}, or compare at this number alone"
    )


def _joined(groups: Sequence[Moments], left_out: int | None) -> Moments:
    return reduce(Moments.joined, [group for place, group in enumerate(groups) if place != left_out])
