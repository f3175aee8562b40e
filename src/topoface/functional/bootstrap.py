"""Intervals over identities: people are drawn anew, and every figure is computed again.

Pairs are not independent: one person with an unusual face spoils all pairs he is in. So each
replicate draws as many identities as there are, with replacement; a pair counts as often as its people
were drawn: a genuine pair the count of its identity, an impostor pair the product of both counts.
(Resampling both ways, as for two-way tables: A. Owen, "The pigeonhole bootstrap", 2007.)

These weights spread rightly where two pairs share one person, and three times too far within a couple: all pairs of the same two
people, of which the product of two counts has variance 3 and not 1. Alone that makes intervals up to sqrt(3) too wide, where
most people appear once (LFW) or where errors are rare (a FAR of 1e-6). So replicates say how a figure is spread, to which side and how far
its tails reach; how far in all says its error, which is known without drawing (`influences`).
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.draws import generator
from topoface.functional.fold_cuts import best_cuts
from topoface.functional.influences import Z95, Error, Meetings, influences, ranked
from topoface.functional.lowest_cost import Choosing, of_choosing, unchosen
from topoface.functional.verification import DetectionCost, as_array, check_scores
from topoface.functional.weighted_figures import fold_accuracy, rates, roc_figures

Floats = NDArray[np.float64]

# Replicates are worked on in blocks of this many weights: 16 MiB a float64 array, whatever is asked for.
BLOCK = 1 << 21


class Replicates(NamedTuple):
    """Figures by name.

    Attributes:
        plain: of the pairs as they are.
        people: float64 ``[replicates]``, with people drawn anew; thresholds of TAR and EER, too, those of cost and accuracy kept.
        influence: float64 ``[m]``, what each pair does to the figure.
        meetings: who is on the pairs.
        choosing: what choosing the best threshold on these very pairs did to a figure, where it did anything (`lowest_cost`).
    """

    plain: dict[str, float]
    people: dict[str, Floats]
    influence: dict[str, Floats]
    meetings: Meetings
    choosing: dict[str, Choosing]

    def settled(self) -> dict[str, Floats]:
        """The replicates of which the percentiles are the interval: those of the people, as far apart as the figure's error says."""
        settled = {}
        for name, drawn in self.people.items():
            settled[name] = towards(self.plain[name], drawn, self.meetings.error(self.influence[name]))
        for name, choosing in self.choosing.items():
            settled[name] = unchosen(self.plain[name], settled[name], choosing)
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
        folds: integers ``[m]``, or None: then there is no ``accuracy``.
        fars: targets of ``tar@...``.
        cost: of ``min_dcf``; None: then there is none.
        replicates: how often the identities are drawn.
        seed: replicate ``r`` is a pure function of ``(seed, r)`` and the set of identities, so two
            models judged with one seed see the same replicates.

    Returns:
        Float64 ``[replicates]`` by name: ``accuracy`` (mean over the folds that drew anybody), ``auc``, ``eer``, ``min_dcf``,
        ``tar@<far>``. NaN where a replicate drew no genuine or no impostor pair.

    Raises:
        ValueError: as in :mod:`topoface.functional.verification`, identities of another shape, or one fold only.
    """
    return drawn_figures(scores, same, identities, folds, fars, cost, replicates, seed).settled()


def paired_intervals(
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
) -> dict[str, tuple[float, float]]:
    """95 % interval of figure of model a minus figure of model b, on the same pairs.

    Two models fail on the same difficult people, so the interval of the difference is narrower than
    the two intervals beside each other suggest. Arguments and names as in :func:`identity_bootstrap`; replicates say only what
    choosing the best threshold did to cost and accuracy.
    """
    one, other = (
        drawn_figures(scores, same, identities, folds, fars, cost, replicates, seed)
        for scores in (scores_a, scores_b)
    )
    return difference_intervals([one], [other])


def difference_intervals(
    ones: Sequence[Replicates], others: Sequence[Replicates]
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the mean figure of some models minus that of others: as far as Student's t to either side.

    Args:
        ones: from `drawn_figures`, one or more models on the same pairs in the same order.
        others: one or more further models on these.
    """
    every = [(1 / len(ones), one) for one in ones] + [(1 / len(others), other) for other in others]
    meetings, found = ones[0].meetings, {}

    def minus(of: Callable[[Replicates, str], Any], name: str) -> Any:
        first, second = (np.mean([of(each, name) for each in models], axis=0) for models in (ones, others))
        return first - second

    for name in ones[0].influence:
        error = meetings.error(minus(lambda each, name: each.influence[name], name))
        middle, variance = minus(lambda each, name: each.plain[name], name), error.size**2
        if name in ones[0].choosing:
            middle -= minus(lambda each, name: each.choosing[name].lost, name)
            # What choosing adds varies together from model to model as far as the figures do.
            alone = sum(part**2 * meetings.error(each.influence[name]).size ** 2 for part, each in every)
            added = sum(part**2 * each.choosing[name].variance for part, each in every)
            variance *= 1 + (added / alone if alone else 0.0)
        reach = Error(variance**0.5, error.freedom).reach
        found[name] = float(middle - reach), float(middle + reach)
    return found


def towards(plain: float, drawn: Floats, error: Error) -> Floats:
    """Replicates moved towards the figure itself, or away from it, until they are as far apart as its error says.

    Args:
        plain: the figure.
        drawn: ``[r]``, its replicates; NaN stays.
        error: of the figure. Few people do not tell theirs surely: replicates are moved apart by what Student's t asks
            (T. Hesterberg, "What teachers should know about the bootstrap", 2015: the expanded percentile interval).
    """
    known = drawn[~np.isnan(drawn)]
    spread = float(known.std()) if len(known) else 0.0
    if not spread > 0:
        return drawn
    moved: Floats = np.clip(plain + error.reach / (Z95 * spread) * (drawn - plain), known.min(), known.max())
    return moved


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


def drawn_weights(
    left: NDArray[np.intp], right: NDArray[np.intp], people: int, replicates: int, seed: int
) -> Iterator[Floats]:
    """How often pairs count, ``[r, m]`` each, as many replicates together as bound the memory.

    Args:
        left: ``[m]``, person on the one side, from 0.
        right: ``[m]``, person on the other side: a pair counts as often as both were drawn, one of the same person as often as he.
        people: how many there are.
        replicates: how many in all.
        seed: replicate ``r`` is a pure function of ``(seed, r)`` and the number of people.
    """
    size = max(1, BLOCK // max(len(left), people))
    for at in range(0, replicates, size):
        counts = identity_counts(people, range(at, min(at + size, replicates)), seed)
        yield counts[:, left] * np.where(left == right, 1.0, counts[:, right])


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
    """All figures, plain and drawn, and what pairs do to them; arguments as in :func:`identity_bootstrap`."""
    values, labels = check_scores(scores, same)
    who = as_array(identities)
    if who.shape != (len(values), 2):
        raise ValueError(
            f"identities {who.shape} must be [pairs, 2] = {(len(values), 2)}: who is on each of the two images"
        )
    order = np.argsort(-values)
    meetings = Meetings(who)
    values, labels = values[order], labels[order]
    points = ranked(values, labels)
    lowest = {} if cost is None else {"min_dcf": cost}
    by_fold = None
    if folds is not None:
        names, fold = np.unique(as_array(folds), return_inverse=True)
        if len(names) < 2:
            raise ValueError(
                "one fold only; the threshold is chosen on other folds, so at least two are needed"
            )
        fold = fold[order]
        cuts, _ = best_cuts(values, labels, fold, len(names))
        by_fold = (np.arange(len(values)) < cuts[fold]) == labels, fold
        lowest["accuracy"] = DetectionCost(prior=float(labels.mean()))

    def figures(weights: Floats) -> dict[str, Floats]:
        with np.errstate(invalid="ignore"):  # 0 / 0 of a replicate without one kind becomes NaN, as promised
            tar, far = rates(weights, labels, points.ends)
            found = roc_figures(tar, far, fars)
            for name, price in lowest.items():
                found[f"lowest {name}"] = price.of(far, tar).min(axis=1)
            if cost is not None:
                found["min_dcf"] = cost.of(far, tar)[:, int(np.argmin(cost.of(points.far, points.tar)))]
            if by_fold is not None:
                found["accuracy"] = fold_accuracy(weights, *by_fold)
        return found

    plain = {name: float(value[0]) for name, value in figures(np.ones((1, len(values)))).items()}
    sides = meetings.left[order], meetings.right[order]
    parts = [figures(some) for some in drawn_weights(*sides, meetings.people, replicates, seed)]
    people = {name: np.concatenate([part[name] for part in parts]) for name in plain}
    choosing = {}
    for name, price in lowest.items():
        low, drawn = plain.pop(f"lowest {name}"), people.pop(f"lowest {name}")
        genuine = int(labels.sum())
        choosing[name] = of_choosing(low, drawn, genuine, len(labels) - genuine, price)
    if by_fold is not None:
        # A cost of 1 is accepting everything, or nothing: as many errors as there are pairs of the rarer kind.
        rarer = min(labels.mean(), 1 - labels.mean())
        lost = choosing["accuracy"].held_out(len(names))
        choosing["accuracy"] = Choosing(-rarer * lost.lost, rarer**2 * lost.variance)
    influence = {}
    for name, each in influences(points, fars, cost, by_fold).items():
        influence[name] = np.empty(len(order))
        influence[name][order] = each
    return Replicates(plain, people, influence, meetings, choosing)
