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

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.draws import generator
from topoface.functional.lowest_cost import Choosing, of_choosing, unchosen
from topoface.functional.verification import DetectionCost, as_array, check_scores
from topoface.functional.weighted_figures import kfold_accuracies, rates, roc_figures

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
        choosing: what choosing the best threshold on these very pairs did to a figure, where it did anything (`lowest_cost`).
    """

    plain: dict[str, float]
    people: dict[str, Floats]
    couples: dict[str, Floats]
    number: int
    choosing: dict[str, Choosing]

    def minus(self, other: "Replicates") -> "Replicates":
        """Differences of two models, drawn alike."""
        return Replicates(
            {name: self.plain[name] - other.plain[name] for name in self.plain},
            {name: self.people[name] - other.people[name] for name in self.people},
            {name: self.couples[name] - other.couples[name] for name in self.couples},
            self.number,
            {
                name: own.minus(other.choosing[name], self.people[name], other.people[name])
                for name, own in self.choosing.items()
            },
        )

    def settled(self) -> dict[str, Floats]:
        """The replicates of which the percentiles are the interval: those of the people, the couples' surplus taken off."""
        settled = dict(self.people)
        for name, couples in self.couples.items():
            spread = float(np.nanvar(couples))
            settled[name] = towards(self.plain[name], settled[name], spread, self.number)
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
    return a.minus(b).settled()


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


class PairWeights:
    """How often pairs count when people, or couples of two people, are drawn anew.

    Args:
        identities: integers ``[m, 2]``, who is on the two images of each pair; any labels.
        seed: replicate ``r`` is a pure function of ``(seed, r)`` and the set of identities, or of couples.
    """

    def __init__(self, identities: NDArray[Any], seed: int) -> None:
        names, flat = np.unique(identities, return_inverse=True)
        self.number = len(names)  # of the people
        self._seed = seed
        self._left, self._right = flat.reshape(-1, 2).T
        self._two = self._left != self._right
        low, high = (ends(self._left, self._right)[self._two] for ends in (np.minimum, np.maximum))
        couples, self._couple = np.unique(low * self.number + high, return_inverse=True)
        self.couples = len(couples)

    def by_people(self, block: range) -> Floats:
        """``[len(block), m]``: a genuine pair counts as often as its person was drawn, an impostor pair the product of both."""
        counts = identity_counts(self.number, block, self._seed)
        return counts[:, self._left] * np.where(self._two, counts[:, self._right], 1.0)

    def by_couples(self, block: range) -> Floats:
        """The same where all pairs of two people are drawn together, and pairs of one person stay."""
        weights = np.ones((len(block), len(self._two)))
        for row, r in enumerate(block):
            drawn = generator(self._seed, "couple bootstrap", r).poisson(1.0, self.couples)
            weights[row, self._two] = drawn[self._couple]
        return weights

    def blocks(self, replicates: int) -> list[range]:
        """Replicates that are worked on together, which bounds the memory."""
        size = max(1, BLOCK // max(len(self._two), self.number))
        return [range(at, min(at + size, replicates)) for at in range(0, replicates, size)]

    def replicates(
        self, plain: dict[str, float], figures: Callable[[Floats], Mapping[str, Floats]], replicates: int
    ) -> Replicates:
        """Figures by name of weights ``[r, m]``, in so many replicates of either kind."""

        def every(weigh: Callable[[range], Floats]) -> dict[str, Floats]:
            parts = [figures(weigh(block)) for block in self.blocks(replicates)]
            return {name: np.concatenate([part[name] for part in parts]) for name in plain}

        couples = every(self.by_couples) if self.couples else {}
        return Replicates(plain, every(self.by_people), couples, self.number, {})


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
    order = np.argsort(-values)
    pairs = PairWeights(who[order], seed)
    labels = labels[order]
    # Operating points: accept nothing, then everything down to the end of each run of equal scores.
    ends = np.concatenate([[0], 1 + np.flatnonzero(np.append(np.diff(values[order]) != 0, True))])
    fold = None if folds is None else np.unique(as_array(folds), return_inverse=True)[1][order]
    best = 0  # the threshold of the lowest cost, which replicates keep
    if cost is not None:
        tar, far = rates(np.ones((1, len(values))), labels, ends)
        best = int(np.argmin(cost.of(far, tar)))

    def figures(weights: Floats) -> dict[str, Floats]:
        with np.errstate(invalid="ignore"):  # 0 / 0 of a replicate without one kind becomes NaN, as promised
            tar, far = rates(weights, labels, ends)
            found = roc_figures(tar, far, fars)
            if cost is not None:
                costs = cost.of(far, tar)
                found |= {"min_dcf": costs[:, best], "lowest": costs.min(axis=1)}
            if fold is not None:
                found["accuracy"] = kfold_accuracies(weights, labels, fold, ends)
        return found

    plain = {name: float(value[0]) for name, value in figures(np.ones((1, len(values)))).items()}
    drawn = pairs.replicates(plain, figures, replicates)
    if cost is None:
        return drawn
    genuine = int(labels.sum())
    choosing = of_choosing(plain["min_dcf"], drawn.people["lowest"], genuine, len(labels) - genuine, cost)
    for by_name in (drawn.plain, drawn.people, drawn.couples):
        by_name.pop("lowest", None)
    return drawn._replace(choosing={"min_dcf": choosing})
