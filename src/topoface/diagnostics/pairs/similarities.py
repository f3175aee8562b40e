"""Cosines of many millions of pairs in bounded memory: counts on a fine grid, exact ends, and the figures of both."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 2**16  # of a cosine in [-1, 1]: 3e-5 wide, so that four digits of any figure are right
TOP = 2000  # hardest pairs that are kept exactly

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Counts = Integers | Floats
"""Pairs in each of ``[b]`` equal parts of [-1, 1], ascending; weighted ones are floats."""


class Similarities:
    """The cosines of a set of pairs that come in parts.

    Attributes:
        counts: int64 ``[BINS]``.
        lowest: exact, inf while there is none.
        hardest: ``[at most TOP]``, the largest exactly, descending.
    """

    def __init__(self) -> None:
        self.counts: Integers = np.zeros(BINS, dtype=np.int64)
        self.lowest = math.inf
        self.hardest = torch.empty(0, dtype=torch.float64)

    def add(self, cosines: Tensor) -> Integers:
        """Add some of any shape; returns their own counts ``[BINS]``."""
        if not cosines.numel():
            return np.zeros(BINS, dtype=np.int64)
        own = counts_of(cosines)
        self.counts += own
        self.lowest = min(self.lowest, float(cosines.min()))
        least = float(self.hardest[-1]) if len(self.hardest) == TOP else -math.inf
        self._merge(cosines[cosines > least].double())
        return own

    def __add__(self, other: "Similarities") -> "Similarities":
        """Both sets together."""
        both = Similarities()
        both.counts = self.counts + other.counts
        both.lowest = min(self.lowest, other.lowest)
        both._merge(torch.cat([self.hardest, other.hardest]))
        return both

    @property
    def size(self) -> int:
        """Pairs."""
        return int(self.counts.sum())

    @property
    def highest(self) -> float:
        """Exact; -inf if there is none."""
        return float(self.hardest[0]) if len(self.hardest) else -math.inf

    @property
    def mean_of_top(self) -> float:
        """Mean of the ``TOP`` hardest, or of all if there are fewer; NaN if there is none."""
        return float(self.hardest.mean())

    def _merge(self, cosines: Tensor) -> None:
        together = torch.cat([self.hardest, cosines.flatten()])
        self.hardest = together.topk(min(TOP, len(together))).values


def counts_of(cosines: Tensor, bins: int = BINS) -> Integers:
    """How many of some cosines lie in each part of [-1, 1]; rounding may have pushed some beyond the ends."""
    places = ((cosines.flatten() + 1) * (bins / 2)).long().clamp_(0, bins - 1)
    counts: Integers = torch.bincount(places, minlength=bins).numpy()
    return counts


def middles(bins: int) -> Floats:
    """The middle of each part of [-1, 1]: what stands for every cosine in it."""
    where: Floats = (np.arange(bins, dtype=np.float64) + 0.5) * (2 / bins) - 1
    return where


def coarser(counts: Counts, bins: int) -> Floats:
    """The same pairs on a grid of fewer parts, whose number divides the other."""
    summed: Floats = counts.astype(np.float64).reshape(bins, -1).sum(1)
    return summed


def distances(places: Floats, one: Counts, other: Counts) -> tuple[float, float]:
    """How far apart two distributions over the same places are.

    Args:
        places: ``[b]``, ascending; exact if they hold every value, as rounded to them otherwise.
        one: ``[b]``, weights of any sum.
        other: ``[b]``.

    Returns:
        1-Wasserstein distance, the area between the distribution functions: how far a pair must move on average; and
        Kolmogorov-Smirnov, their largest difference. NaN if one is empty.
    """
    if not one.sum() or not other.sum():
        return math.nan, math.nan
    gap = np.abs(np.cumsum(one) / one.sum() - np.cumsum(other) / other.sum())
    return float((gap[:-1] * np.diff(places)).sum()), float(gap.max())


def quantile(counts: Counts, share: float) -> float:
    """The smallest place that at least ``share`` of the pairs do not exceed; NaN without pairs."""
    total = float(counts.sum())
    if not total:
        return math.nan
    place = int(np.searchsorted(np.cumsum(counts), share * total))
    return float(middles(len(counts))[min(place, len(counts) - 1)])


def mean_of_hardest(counts: Counts, share: float) -> float:
    """Mean of the hardest ``share`` of the pairs: unlike that of a fixed number, it can be compared between sets of any size."""
    needed = share * float(counts.sum())
    if not needed:
        return math.nan
    taken = np.diff(np.minimum(np.cumsum(counts[::-1]), needed), prepend=0)
    return float(taken @ middles(len(counts))[::-1] / needed)


def kept_of_hardest(every: Counts, kept: Counts, share: float) -> float:
    """Which part of the hardest ``share`` of the pairs is among ``kept``, some of the same pairs; NaN without pairs.

    Pairs of one place count together, so it may be a little more than the share.
    """
    if not every.sum():
        return math.nan
    hardest = np.cumsum(every[::-1])
    last = int(np.searchsorted(hardest, share * hardest[-1]))
    return float(np.cumsum(kept[::-1])[last] / hardest[last])


def true_accepts(genuine: Counts, impostor: Counts, far: float) -> float:
    """Largest share of the genuine pairs that can be accepted with a false accept rate of at most ``far``.

    `topoface.functional.verification.tar_at_far` of the cosines as the grid holds them: those of one place are
    accepted together. NaN without pairs of either kind.
    """
    total, others = float(genuine.sum()), float(impostor.sum())
    if not total or not others:
        return math.nan
    allowed = far * others * (1 + 1e-12)  # 0.001 of 3,000 is 3, in spite of rounding
    accepted = int(np.searchsorted(np.cumsum(impostor[::-1]), allowed, side="right"))
    return float(genuine[len(genuine) - accepted :].sum() / total)


def expected_above(counts: Counts, threshold: float) -> tuple[float, float]:
    """How many pairs would lie above a threshold if the bulk told the tail; neither is more than a yardstick.

    Returns:
        Of a normal distribution with the pairs' mean and deviation; and of a tail that goes on falling as fast (exponentially)
        as between the 99 % and the 99.9 % quantile, NaN if the threshold lies below the latter.
    """
    total, where = float(counts.sum()), middles(len(counts))
    mean = float(counts @ where / total)
    deviation = math.sqrt(float(counts @ (where - mean) ** 2 / total))
    normal = total * 0.5 * math.erfc((threshold - mean) / (max(deviation, 1e-12) * math.sqrt(2)))
    start, end = quantile(counts, 0.99), quantile(counts, 0.999)
    if not start < end <= threshold:
        return normal, math.nan
    above = float(counts[where > end].sum())  # a thousandth, but for ties
    return normal, above * 10 ** (-(threshold - end) / (end - start))
