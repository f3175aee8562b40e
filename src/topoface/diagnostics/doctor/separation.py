"""How far genuine and impostor scores lie apart, and whether one way of scoring is better than another beyond chance."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from topoface.functional.bootstrap import Replicates, identity_counts
from topoface.functional.draws import generator

Floats = NDArray[np.float64]
REPLICATES = 1000
CHANCE = 0.05  # how often all comparisons of a search together may call a difference real that is none
MATTERS = 0.03  # a gain below this share of d' changes nothing that anybody would see


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """How often each of ``m`` pairs counts in ``r`` replicates, with people and with couples of people drawn anew.

    Attributes:
        same: bool ``[m]``.
        people: float64 ``[r, m]``.
        couples: float64 ``[r, m]``.
        number: of the people.
    """

    same: NDArray[np.bool_]
    people: Floats
    couples: Floats
    number: int


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What one way of scoring gains over another, in d'.

    Attributes:
        value: on the pairs as they are.
        low: lower end of its interval, which allows for all comparisons of the search.
        high: upper end.
        matters: the least gain that does.
    """

    value: float
    low: float
    high: float
    matters: float

    @property
    def real(self) -> bool:
        """Whether it is beyond chance and large enough to be seen."""
        return self.low > 0 and self.value >= self.matters

    def __str__(self) -> str:
        return f"{self.value:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def draw_weights(same: NDArray[np.bool_], identities: NDArray[np.int64], *, seed: int = 0) -> Weights:
    """Replicates as in :mod:`topoface.functional.bootstrap`; ``identities`` is int64 ``[m, 2]``, who is on each pair."""
    names, flat = np.unique(identities, return_inverse=True)
    left, right = flat.reshape(-1, 2).T
    two = left != right
    counts = identity_counts(len(names), range(REPLICATES), seed)
    _, couple = np.unique(np.minimum(left, right) * len(names) + np.maximum(left, right), return_inverse=True)
    drawn = generator(seed, "doctor couples").poisson(1.0, (REPLICATES, int(couple.max()) + 1))[:, couple]
    return Weights(
        same=same,
        people=counts[:, left] * np.where(two, counts[:, right], 1.0),
        couples=np.where(two, drawn, 1.0),
        number=len(names),
    )


def separation(scores: Floats, same: NDArray[np.bool_], weights: Floats | None = None) -> Floats:
    """d': mean genuine minus mean impostor score, over the root of the mean of their variances.

    All pairs count, also where a good model makes no errors on so few of them and AUC stands at 1.

    Args:
        scores: ``[m]``.
        same: bool ``[m]``.
        weights: ``[r, m]``; None for one row of ones.

    Returns:
        float64 ``[r]``; NaN where a row has no pair of one kind.
    """
    rows = np.ones((1, len(scores))) if weights is None else weights
    mean, variance = [], []
    for kind in (same, ~same):
        part, values = rows[:, kind], scores[kind]
        with np.errstate(invalid="ignore"):
            mean.append(part @ values / part.sum(axis=1))
            variance.append((part * (values - mean[-1][:, None]) ** 2).sum(axis=1) / part.sum(axis=1))
    spread = np.sqrt((variance[0] + variance[1]) / 2)
    apart: Floats = (mean[0] - mean[1]) / np.maximum(spread, 1e-6)  # all scores alike: 0
    return apart


def gain(better: Floats, worse: Floats, weights: Weights, *, comparisons: int) -> Gain:
    """How much further apart ``better`` lies than ``worse``, both ``[m]``, in replicates of the same people.

    Args:
        better: scores of the pairs.
        worse: others of the same pairs.
        weights: of the pairs.
        comparisons: how many such questions are asked at once (Bonferroni).
    """

    def difference(rows: Floats | None) -> Floats:
        return separation(better, weights.same, rows) - separation(worse, weights.same, rows)

    plain = float(difference(None)[0])
    drawn = Replicates(
        {"d": plain},
        {"d": difference(weights.people)},
        {"d": difference(weights.couples)},
        weights.number,
        {},
    ).settled()["d"]
    half = NormalDist().inv_cdf(1 - CHANCE / 2 / comparisons) * float(np.nanstd(drawn))
    largest = max(float(separation(scores, weights.same)[0]) for scores in (better, worse))
    return Gain(value=plain, low=plain - half, high=plain + half, matters=MATTERS * abs(largest))
