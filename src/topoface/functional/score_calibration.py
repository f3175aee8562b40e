"""From a score to the probability that two pictures show one person: a logistic line, and how far such probabilities hold.

What the scores say is a likelihood ratio: how much more often a score occurs among pairs of one person than among pairs of two.
It becomes a probability with a prior, the share of pairs of one person among those that will be compared. So every figure here gives the
genuine pairs together the weight ``prior`` and the impostor pairs the rest, however many of each a protocol lists.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.draws import generator
from topoface.functional.verification import as_array, check_scores

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BINS = 15
_STEPS = 100
_SIMULATIONS = 200


class LogisticLine(NamedTuple):
    """The natural logarithm of the likelihood ratio as a line over the score, held within what the pairs can show.

    Attributes:
        slope: positive.
        offset: of the line at score 0.
        lowest: ``-log(genuine + 1)``: no rarer event can be told from so many pairs.
        highest: ``log(impostors + 1)``.
    """

    slope: float
    offset: float
    lowest: float
    highest: float

    def log_ratio(self, scores: ArrayLike) -> Floats:
        """Of each score, in natural units; never falls as the score rises."""
        line = self.slope * np.asarray(as_array(scores), dtype=np.float64) + self.offset
        return np.clip(line, self.lowest, self.highest)


class Bins(NamedTuple):
    """Pairs in bins of equal weight, ascending by probability; bins without pairs are absent.

    Attributes:
        probability: float64 ``[bins]``, weighted mean.
        share: float64 ``[bins]``, weight of the pairs of one person over that of all.
        weight: float64 ``[bins]``, all together 1.
    """

    probability: Floats
    share: Floats
    weight: Floats

    @property
    def error(self) -> float:
        """Expected calibration error: weighted mean of ``|probability - share|``."""
        return float((self.weight * np.abs(self.probability - self.share)).sum())


def fit_logistic(scores: ArrayLike, same: ArrayLike, prior: float = 0.5) -> LogisticLine:
    """The line that minimises the prior-weighted logarithmic loss.

    With ``l`` the line and ``z = l + log(prior / (1 - prior))``, that is ``prior`` times the mean of ``log(1 + exp(-z))`` over genuine pairs plus
    ``1 - prior`` times the mean of ``log(1 + exp(z))`` over impostor pairs (N. Brümmer and J. du Preez, "Application-independent evaluation of
    speaker detection", 2006). Both means take in one pair more, which scores like the pairs of the other kind: all of them, together with the
    weight of one. So the line stays finite where scores separate the kinds, and claims no more than so many pairs can show
    (J. Platt, "Probabilistic outputs for support vector machines", 1999, whose targets these are where both kinds are equally many).
    Newton's method on standardised scores, each step halved until the loss falls; float64.

    Args:
        scores: ``[m]``, higher means more alike.
        same: ``[m]``, true for genuine pairs.
        prior: where the line fits best.

    Raises:
        ValueError: the prior is not inside (0, 1), all scores are equal, or genuine pairs do not score higher.
    """
    values, labels = check_scores(scores, same)
    values = values.astype(np.float64)
    shift = _log_odds(prior)
    genuine, impostors = int(labels.sum()), int((~labels).sum())
    if values.min() == values.max():
        raise ValueError("all scores are equal; nothing can be told from them")
    as_same = np.where(labels, prior / (genuine + 1), prior / (genuine + 1) / impostors)
    as_other = np.where(labels, (1 - prior) / (impostors + 1) / genuine, (1 - prior) / (impostors + 1))
    middle, scale = float(values.mean()), float(values.std())
    design = np.stack([(values - middle) / scale, np.ones(len(values))])

    def loss(line: Floats) -> float:
        z = line @ design + shift
        return float(as_same @ np.logaddexp(0, -z) + as_other @ np.logaddexp(0, z))

    line, lowest = np.zeros(2), loss(np.zeros(2))
    for _ in range(_STEPS):
        p = probability(line @ design, prior)
        gradient = design @ (as_other * p - as_same * (1 - p))
        curvature = (design * ((as_same + as_other) * p * (1 - p))) @ design.T
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        if gradient @ step < 1e-26:
            break
        size = 1.0
        # Rounding may raise the loss at its minimum; the gradient still knows better.
        while (tried := loss(line - size * step)) > lowest * (1 + 1e-14):
            size /= 2
        line, lowest = line - size * step, tried
    if not line[0] > 0:
        raise ValueError("genuine pairs do not score higher than impostor pairs")
    slope = float(line[0] / scale)
    return LogisticLine(
        slope, float(line[1]) - slope * middle, -float(np.log(genuine + 1)), float(np.log(impostors + 1))
    )


def probability(log_ratio: ArrayLike, prior: float) -> Floats:
    """That a pair with this log likelihood ratio shows one person, inside (0, 1).

    Raises:
        ValueError: the prior is not inside (0, 1).
    """
    z = np.asarray(as_array(log_ratio), dtype=np.float64) + _log_odds(prior)
    return np.exp(-np.logaddexp(0, -z))


def pair_weights(same: Bools, prior: float) -> Floats:
    """What each pair weighs: the genuine ones together ``prior``, the impostor ones the rest."""
    genuine = same.sum()
    weights: Floats = np.where(same, prior / genuine, (1 - prior) / (len(same) - genuine))
    return weights


def pair_costs(log_ratio: ArrayLike, same: ArrayLike) -> Floats:
    """``[m]``, in bits: ``log2(1 + 1 / ratio)`` of a genuine pair, ``log2(1 + ratio)`` of an impostor pair."""
    values, labels = check_scores(log_ratio, same)
    return np.asarray(np.logaddexp(0, np.where(labels, -values, values)) / np.log(2), dtype=np.float64)


def cllr(log_ratio: ArrayLike, same: ArrayLike) -> float:
    """Cost of the log likelihood ratio (Brümmer and du Preez, 2006): mean of `pair_costs` over both kinds, each kind with half of the weight.

    0 is perfect, 1 what a ratio of 1 for every pair costs; above that, believing the ratios does harm.
    """
    costs, labels = pair_costs(log_ratio, same), check_scores(log_ratio, same)[1]
    return float((costs[labels].mean() + costs[~labels].mean()) / 2)


def brier(probabilities: ArrayLike, same: ArrayLike, prior: float) -> float:
    """Weighted mean of the squared distance to what is true (1 for a pair of one person); 0 is perfect."""
    values, labels = check_scores(probabilities, same)
    return float(pair_weights(labels, prior) @ (values - labels) ** 2)


def reliability(probabilities: ArrayLike, same: ArrayLike, prior: float, bins: int = BINS) -> Bins:
    """Probabilities beside what is true, in bins of equal weight.

    Pairs stand in the order of their probability, each as wide as its weight, on a line of length 1 that is cut into ``bins`` equal parts. Pairs of
    one probability stay together: the middle of their stretch decides. So neither the order of the pairs nor a grid of probabilities matters.

    Args:
        probabilities: ``[m]`` in [0, 1].
        same: ``[m]``, true for genuine pairs.
        prior: share of genuine pairs that the probabilities are meant for.
        bins: how many.
    """
    values, labels = check_scores(probabilities, same)
    weights = pair_weights(labels, prior)
    place = _places(values, weights, bins)
    total, held, true = (
        np.bincount(place, weights=part, minlength=bins).astype(np.float64)
        for part in (weights, weights * values, weights * labels)
    )
    used = total > 0
    return Bins(held[used] / total[used], true[used] / total[used], total[used])


def error_if_calibrated(probabilities: ArrayLike, same: ArrayLike, prior: float, *, seed: int = 0) -> float:
    """What 95 % of equally many pairs stay below with their calibration error if every probability holds exactly.

    So many pairs never show an error of zero. Each simulation draws as many genuine and impostor pairs as there are from the pairs at hand, of which
    those of probability p are genuine in the share p.

    Args:
        probabilities: ``[m]`` in [0, 1].
        same: ``[m]``; how many of each kind there are.
        prior: as in `reliability`.
        seed: of the draws.
    """
    values, labels = check_scores(probabilities, same)
    weights = pair_weights(labels, prior)
    random = generator(seed, "calibrated pairs")
    sums = [np.cumsum(weights * share) for share in (values, 1 - values)]
    counts = (int(labels.sum()), int((~labels).sum()))
    errors = []
    for _ in range(_SIMULATIONS):
        drawn = np.concatenate(
            [
                np.minimum(np.searchsorted(total, random.random(count) * total[-1]), len(values) - 1)
                for total, count in zip(sums, counts, strict=True)
            ]
        )
        errors.append(reliability(values[drawn], np.arange(len(drawn)) < counts[0], prior).error)
    return float(np.quantile(errors, 0.95))


def _places(values: Floats, weights: Floats, bins: int) -> NDArray[np.intp]:
    """The bin of each value: that of the middle of the stretch of all values equal to it."""
    _, run = np.unique(values, return_inverse=True)
    lengths = np.bincount(run, weights=weights)
    middles = np.cumsum(lengths) - lengths / 2
    return np.minimum((middles * bins).astype(np.intp), bins - 1)[run]


def _log_odds(prior: float) -> float:
    if not 0 < prior < 1:
        raise ValueError(f"the prior is {prior}; it must lie between 0 and 1")
    return float(np.log(prior) - np.log1p(-prior))
