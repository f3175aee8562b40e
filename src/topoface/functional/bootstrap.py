"""Intervals by bootstrap over identities: people are drawn anew, and every figure is computed again.

Pairs are not independent: one person with an unusual face spoils all pairs he is in. So each
replicate draws as many identities as there are, with replacement; a pair counts as often as its people
were drawn: a genuine pair the count of its identity, an impostor pair the product of both counts.
(Resampling both ways, as for two-way tables: A. Owen, "The pigeonhole bootstrap", 2007.)

These weights spread rightly where two pairs share one person, and three times too far within a couple: all pairs of the same two
people, of which the product of two counts has variance 3 and not 1. Alone that makes intervals up to sqrt(3) too wide, where
most people appear once (LFW) or where errors are rare (a FAR of 1e-6). A second bootstrap, which draws couples and leaves the people
alone, measures the share of the couples; twice of it is taken off, by moving all replicates towards the figure itself. What remains is
the variance that pairs sharing people have (M. Fafchamps and F. Gubert, "The formation of risk sharing networks", 2007, eq. 2.2).
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.draws import generator
from topoface.functional.verification import DetectionCost, as_array, check_scores

Floats = NDArray[np.float64]

# Replicates are worked on in blocks of this many weights: 16 MiB a float64 array, whatever is asked for.
BLOCK = 1 << 21


class Replicates(NamedTuple):
    """Figures by name.

    Attributes:
        plain: of the pairs as they are.
        people: float64 ``[replicates]``, with people drawn anew.
        couples: float64 ``[replicates]``, with couples of two different people drawn anew; empty where there are none.
        number: of the people.
    """

    plain: dict[str, float]
    people: dict[str, Floats]
    couples: dict[str, Floats]
    number: int

    def settled(self) -> dict[str, Floats]:
        """The replicates of which the percentiles are the interval: those of the people, the couples' surplus taken off."""
        settled = dict(self.people)
        for name, couples in self.couples.items():
            spread = float(np.nanvar(couples))
            settled[name] = towards(self.plain[name], settled[name], spread, self.number)
        if "min_dcf" in settled:
            settled["min_dcf"] = unbiased(
                self.plain["min_dcf"], self.people["min_dcf"], settled["min_dcf"]
            )
        return settled


def identity_bootstrap(
    scores: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    fars: Sequence[float] = (),
    cost: DetectionCost | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Floats]:
    """Every verification figure in each replicate.

    Args:
        scores: ``[m]``, higher means more alike.
        same: ``[m]``, true for genuine pairs.
        identities: integers ``[m, 2]``, who is on the two images of each pair; any labels. (Two different ones for a
            genuine pair are taken as they are: the pair then weighs as the product of both counts.)
        folds: integers ``[m]``, or None: then there is no ``accuracy``. Thresholds are chosen anew in each replicate.
        fars: targets of ``tar@...``.
        cost: of ``min_dcf``; None: then there is none.
        replicates: how often the identities are drawn.
        seed: replicate ``r`` is a pure function of ``(seed, r)`` and the set of identities, so two
            models judged with one seed see the same replicates.

    Returns:
        Float64 ``[replicates]`` by name: ``accuracy`` (mean over the folds that drew anybody), ``auc``, ``eer``, ``min_dcf``,
        ``tar@<far>``. NaN where a replicate drew no genuine or no impostor pair.

    Raises:
        ValueError: as in :mod:`topoface.functional.verification`, or identities of another shape.
    """
    return drawn_figures(scores, same, identities, folds, fars, cost, replicates, seed).settled()


def paired_bootstrap(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    fars: Sequence[float] = (),
    cost: DetectionCost | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Floats]:
    """Figure of model a minus figure of model b, on the same pairs and in the same replicates.

    Two models fail on the same difficult people, so the interval of the difference is narrower than
    the two intervals beside each other suggest. Arguments and names as in :func:`identity_bootstrap`.
    """
    a, b = (
        drawn_figures(scores, same, identities, folds, fars, cost, replicates, seed)
        for scores in (scores_a, scores_b)
    )
    return Replicates(
        {name: a.plain[name] - b.plain[name] for name in a.plain},
        {name: a.people[name] - b.people[name] for name in a.people},
        {name: a.couples[name] - b.couples[name] for name in a.couples},
        a.number,
    ).settled()


def towards(plain: float, drawn: Floats, couples: float, people: int) -> Floats:
    """Replicates moved towards the figure itself until the couples weigh once in their variance instead of three times.

    Args:
        plain: the figure.
        drawn: ``[r]``, its replicates; NaN stays.
        couples: variance of the figure when couples alone are drawn. The result has at least this variance: it is what would
            remain if people did not matter.
        people: how many there are. Few of them spread less than many would, and less surely: replicates are moved apart by what
            Student's t asks: 1 % for 200 people, 4 % for 40 (T. Hesterberg, "What teachers should know about the
            bootstrap", 2015: the expanded percentile interval).
    """
    known = drawn[~np.isnan(drawn)]
    spread = float(known.var()) if len(known) else 0.0
    if not spread > 0:
        return drawn
    left = min(max(spread - 2 * couples, couples), spread)
    freedom = max(people - 1, 1)
    apart = np.sqrt(1 + 1 / freedom) * (1 + (1.96**2 + 1) / (4 * freedom))  # t over z to first order
    moved: Floats = np.clip(
        plain + apart * np.sqrt(left / spread) * (drawn - plain), known.min(), known.max()
    )
    return moved


def unbiased(plain: float, drawn: Floats, settled: Floats | None = None) -> Floats:
    """Replicates of a lowest cost, which is too low: it was looked for among all thresholds on the same pairs. A replicate looks
    once more and is too low twice; twice of what this takes off is put back.

    Args:
        plain: the figure.
        drawn: its replicates as they were drawn, which say how much that is.
        settled: those to move, if others.
    """
    if np.isnan(drawn).all():
        return drawn
    moved = drawn if settled is None else settled
    put_back: Floats = moved - (np.nanmean(moved) - plain) - (np.nanmean(drawn) - plain)
    return put_back


def percentile_interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """About the central share ``level`` of the replicates, leaving out undefined ones; NaN where none is defined.

    Where they are skewed, the ends move towards the longer tail, by the acceleration of B. Efron ("Better bootstrap confidence
    intervals", 1987), which is a sixth of the skewness for a mean: a figure near 1 that came out too high has fewer errors to vary by.
    """
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return float("nan"), float("nan")
    spread = defined.std()
    skewness = ((defined - defined.mean()) ** 3).mean() / spread**3 if spread > 0 else 0.0
    acceleration = float(np.clip(skewness / 6, -0.15, 0.15))
    normal = NormalDist()
    ends = [normal.inv_cdf(share) for share in ((1 - level) / 2, (1 + level) / 2)]
    low, high = np.quantile(defined, [normal.cdf(end / (1 - acceleration * end)) for end in ends])
    return float(low), float(high)


def identity_counts(identities: int, replicates: range, seed: int) -> Floats:
    """How often each identity is drawn, ``[replicates, identities]``: a pure function of seed, replicate and how many there are."""
    drawn = (
        generator(seed, "identity bootstrap", r).integers(identities, size=identities) for r in replicates
    )
    return np.stack([np.bincount(draw, minlength=identities) for draw in drawn]).astype(np.float64)


def drawn_figures(
    scores: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    folds: ArrayLike | None,
    fars: Sequence[float],
    cost: DetectionCost | None,
    replicates: int,
    seed: int,
) -> Replicates:
    """All figures, plain and drawn in both ways; arguments as in :func:`identity_bootstrap`."""
    values, labels = check_scores(scores, same)
    who = as_array(identities)
    if who.shape != (len(values), 2):
        raise ValueError(
            f"identities {who.shape} must be [pairs, 2] = {(len(values), 2)}: who is on each of the two images"
        )
    names, flat = np.unique(who, return_inverse=True)
    order = np.argsort(-values)
    left, right = flat.reshape(-1, 2)[order].T
    labels = labels[order]
    # Operating points: accept nothing, then everything down to the end of each run of equal scores.
    ends = np.concatenate([[0], 1 + np.flatnonzero(np.append(np.diff(values[order]) != 0, True))])
    fold = None if folds is None else np.unique(as_array(folds), return_inverse=True)[1][order]
    two = left != right
    couples, couple = np.unique(
        np.minimum(left, right)[two] * len(names) + np.maximum(left, right)[two], return_inverse=True
    )

    def by_people(block: range) -> Floats:
        counts = identity_counts(len(names), block, seed)
        return counts[:, left] * np.where(two, counts[:, right], 1.0)

    def by_couples(block: range) -> Floats:
        weights = np.ones((len(block), len(values)))
        for row, r in enumerate(block):
            weights[row, two] = generator(seed, "couple bootstrap", r).poisson(1.0, len(couples))[couple]
        return weights

    def figures(weights: Floats) -> dict[str, Floats]:
        genuine = _running_total(weights * labels)[:, ends]
        impostor = _running_total(weights * ~labels)[:, ends]
        with np.errstate(invalid="ignore"):  # 0 / 0 of a replicate without one kind becomes NaN, as promised
            found = _figures(genuine, impostor, fars, cost)
            if fold is not None:
                found["accuracy"] = _kfold_accuracy(weights, labels, fold, ends)
        return found

    plain = {name: float(value[0]) for name, value in figures(np.ones((1, len(values)))).items()}
    size = max(1, BLOCK // max(len(values), len(names)))
    return Replicates(
        plain,
        _joined(by_people, figures, replicates, size),
        _joined(by_couples, figures, replicates, size) if len(couples) else {},
        len(names),
    )


def _joined(
    weigh: Callable[[range], Floats],
    figures: Callable[[Floats], dict[str, Floats]],
    replicates: int,
    size: int,
) -> dict[str, Floats]:
    """Figures of all replicates, computed in blocks that bound the memory."""

    def blocks() -> Iterator[dict[str, Floats]]:
        for start in range(0, replicates, size):
            yield figures(weigh(range(start, min(start + size, replicates))))

    parts: dict[str, list[Floats]] = {}
    for block in blocks():
        for name, values in block.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(part) for name, part in parts.items()}


def _running_total(weights: Floats) -> Floats:
    """``[r, m] -> [r, m + 1]``: weight of the c best pairs, from c = 0. Exact: the weights are whole numbers."""
    total = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=total[:, 1:])
    return total


def _figures(
    genuine: Floats, impostor: Floats, fars: Sequence[float], cost: DetectionCost | None
) -> dict[str, Floats]:
    """AUC, EER, minDCF and TAR at FAR from accepted weights ``[r, points]``, rising from 0 to the total."""
    tar, far = genuine / genuine[:, -1:], impostor / impostor[:, -1:]
    rows = np.arange(len(tar))
    # The trapezoids under the ROC are the rank statistic with ties at one half.
    figures = {"auc": (np.diff(far, axis=1) * (tar[:, 1:] + tar[:, :-1])).sum(axis=1) / 2}

    gap = far + tar - 1
    after = np.argmax(gap >= 0, axis=1)
    share = gap[rows, after] / (gap[rows, after] - gap[rows, after - 1])
    figures["eer"] = far[rows, after] - share * (far[rows, after] - far[rows, after - 1])
    if cost is not None:
        figures["min_dcf"] = cost.of(far, tar).min(axis=1)

    last = np.array([np.searchsorted(row, fars, side="right") - 1 for row in far]).reshape(
        len(far), len(fars)
    )
    for k, target in enumerate(fars):
        figures[f"tar@{target:g}"] = tar[rows, np.maximum(last[:, k], 0)]
    return figures


def _kfold_accuracy(
    weights: Floats, labels: NDArray[np.bool_], fold: NDArray[np.intp], ends: NDArray[np.intp]
) -> Floats:
    """Weighted accuracy ``[r]``, mean over the folds, thresholds from the other folds (strictest of the best)."""
    gain = np.where(labels, weights, -weights)
    every = _running_total(gain)[:, ends]
    rows = np.arange(len(weights))
    accuracies = []
    for k in range(int(fold.max()) + 1):
        held_out = np.flatnonzero(fold == k)
        own = _running_total(gain[:, held_out])
        # Of this fold's pairs, so many are among the ends[c] best of all.
        own_accepted = np.searchsorted(held_out, ends)
        best = np.argmax(every - own[:, own_accepted], axis=1)
        correct = weights[:, held_out][:, ~labels[held_out]].sum(axis=1) + own[rows, own_accepted[best]]
        accuracies.append(correct / weights[:, held_out].sum(axis=1))
    drawn = ~np.isnan(accuracies)  # a small fold may have drawn nobody: the mean is over those that did
    mean: Floats = np.sum(accuracies, axis=0, where=drawn) / drawn.sum(axis=0)
    return mean
