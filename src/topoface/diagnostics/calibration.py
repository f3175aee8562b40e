"""How far a number that is read as the probability of an error is one: rank, reliability, and exact counts."""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.functional.bootstrap import identity_bootstrap, percentile_interval
from topoface.functional.draws import generator
from topoface.functional.verification import auc

BINS = 10
REPLICATES = 1000
_SIMULATIONS = 500
_NORMAL_95 = 1.959964

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Estimate(NamedTuple):
    """A figure with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


class Bin(NamedTuple):
    """Samples whose probability lies in one tenth of [0, 1].

    Attributes:
        tenth: which, from 0.
        samples: how many.
        probability: their mean probability.
        share: share of them that is wrong, with its interval.
    """

    tenth: int
    samples: int
    probability: float
    share: Estimate


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Probabilities beside what happened.

    Attributes:
        bins: those that hold samples, ascending.
        error: expected calibration error, the mean over the samples of |mean probability - share wrong| of their bin.
        error_if_calibrated: what 95 % of equally many samples stay below if each is wrong with just its probability.
    """

    bins: list[Bin]
    error: float
    error_if_calibrated: float

    @property
    def calibrated(self) -> bool:
        """Whether the error is one that calibrated probabilities would show too."""
        return self.error <= self.error_if_calibrated


def ranking(scores: Floats, wrong: Bools, identities: Integers, *, seed: int = 0) -> Estimate:
    """Probability that a wrong sample scores above a right one, ties one half; interval by bootstrap over identities.

    Args:
        scores: ``[n]``.
        wrong: ``[n]``.
        identities: int64 ``[n]``; samples of one identity are drawn together.
        seed: of the bootstrap.

    Returns:
        0.5 means chance; NaN if all are right or all wrong.
    """
    if wrong.all() or not wrong.any():
        return Estimate(math.nan, math.nan, math.nan)
    # A sample counts as often as its identity was drawn: what the bootstrap does with a pair of one person.
    both = np.stack([identities, identities], axis=1)
    drawn = identity_bootstrap(scores, wrong, both, replicates=REPLICATES, seed=seed)["auc"]
    return Estimate(auc(scores, wrong), *percentile_interval(drawn))


def reliability(probability: Floats, wrong: Bools, identities: Integers, *, seed: int = 0) -> Reliability:
    """Compare probabilities of being wrong with what happened, in ten equal bins of [0, 1].

    Each interval spans both Wilson's for independent samples and that of a bootstrap over identities: the first is too narrow
    where the images of one person fail together, the second has no width where all of a few samples agree.

    Args:
        probability: ``[n]`` in [0, 1].
        wrong: ``[n]``.
        identities: int64 ``[n]``.
        seed: of bootstrap and simulation.
    """
    place = np.minimum((probability * BINS).astype(np.intp), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    failures = np.bincount(place[wrong], minlength=BINS)
    sums = np.bincount(place, weights=probability, minlength=BINS)
    drawn = _drawn_shares(place, wrong, identities, seed)
    bins = []
    for k in np.flatnonzero(counts):
        low, high = wilson(int(failures[k]), int(counts[k]))
        drawn_low, drawn_high = percentile_interval(drawn[:, k])
        share = Estimate(
            failures[k] / counts[k], float(np.fmin(low, drawn_low)), float(np.fmax(high, drawn_high))
        )
        bins.append(Bin(int(k), int(counts[k]), sums[k] / counts[k], share))
    random = generator(seed, "calibrated samples")
    simulated = [
        np.abs(np.bincount(place[random.random(len(place)) < probability], minlength=BINS) - sums).sum()
        for _ in range(_SIMULATIONS)
    ]
    return Reliability(
        bins=bins,
        error=float(np.abs(failures - sums).sum() / len(place)),
        error_if_calibrated=float(np.quantile(simulated, 0.95) / len(place)),
    )


def mean_over(values: Floats, identities: Integers, *, seed: int = 0) -> Estimate:
    """Mean of ``[n]`` with its interval by bootstrap over the identities ``[n]``."""
    names, who = np.unique(identities, return_inverse=True)
    times = _times_drawn(len(names), seed)
    drawn = (times @ np.bincount(who, weights=values)) / (times @ np.bincount(who))
    return Estimate(float(values.mean()), *percentile_interval(drawn))


def _drawn_shares(place: Integers, wrong: Bools, identities: Integers, seed: int) -> Floats:
    """Share wrong ``[replicates, bins]`` when the identities are drawn anew; NaN where a bin drew nobody."""
    names, who = np.unique(identities, return_inverse=True)
    totals, failures = np.zeros((2, len(names), BINS))
    np.add.at(totals, (who, place), 1)
    np.add.at(failures, (who[wrong], place[wrong]), 1)
    times = _times_drawn(len(names), seed)
    with np.errstate(invalid="ignore"):
        shares: Floats = (times @ failures) / (times @ totals)
    return shares


@functools.lru_cache(maxsize=1)
def _times_drawn(identities: int, seed: int) -> Floats:
    """How often each identity is drawn, ``[replicates, identities]``; the draws of `identity_bootstrap`."""
    drawn = (
        generator(seed, "identity bootstrap", r).integers(identities, size=identities)
        for r in range(REPLICATES)
    )
    return np.stack([np.bincount(each, minlength=identities) for each in drawn]).astype(np.float64)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of independent trials (1927)."""
    share, z2 = successes / trials, _NORMAL_95**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(share * (1 - share) * z2 / trials + z2**2 / (4 * trials**2)) / (1 + z2 / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(first: int, second: int) -> float:
    """Exact two-sided p of McNemar's test: how likely counts at least this uneven are if both models err equally often.

    Args:
        first: samples that only one of the models gets wrong.
        second: samples that only the other gets wrong.
    """
    n = first + second
    tail = sum(math.comb(n, k) for k in range(min(first, second) + 1))
    return min(1.0, float(2 * tail / 2**n))
