"""The identity bootstrap for millions of pairs: the same draws, of which only the impostor pairs that a FAR lets through are walked.

A threshold for a FAR of 1e-1 or less lies among the impostor pairs of highest score, however many there are below. So a
replicate needs two things of them: their total weight, a quadratic form in how often the people were drawn, and the weights of the
best pairs one by one, until the largest target is passed. Replicates run side by side, as lanes of vector instructions.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.functional.bootstrap import Floats, identity_counts, towards
from topoface.functional.compiled import compiled
from topoface.functional.influences import error_of_sums
from topoface.functional.lowest_cost import of_choosing, unchosen
from topoface.functional.tail_loops import Counts, total_arrays, total_loops, walk_arrays, walk_loops
from topoface.functional.verification import DetectionCost, allowed_false_accepts

_LANES = 128  # replicates side by side: their counts of a few thousand people stay in the cache
_STRIDE = 128  # pairs between looks at the targets


class ScoredPairs(NamedTuple):
    """Pairs of one kind.

    Attributes:
        scores: float ``[m]``, finite.
        left: integers ``[m]``, person on the one side, from 0.
        right: integers ``[m]``, person on the other side.
    """

    scores: NDArray[np.floating[Any]]
    left: NDArray[Any]
    right: NDArray[Any]


class TailReplicates(NamedTuple):
    """Figures in each replicate, of which the percentiles are the interval; NaN where nobody of one kind was drawn.

    Attributes:
        tar: ``[replicates, fars]``.
        min_dcf: ``[replicates]``.
    """

    tar: Floats
    min_dcf: Floats


class _Tail(NamedTuple):
    """The impostor pairs of highest score, descending, and the genuine pairs among them.

    Attributes:
        scores: ``[t]``.
        left: ``[t]``.
        right: ``[t]``; the number of people where it is the person on the left: a last person, whom all draw once.
        stops: for each genuine pair that is not below them, in descending order, how many impostor pairs are accepted with it.
        own_left: ``[g]``, of all genuine pairs, descending.
        own_right: ``[g]``, as ``right``.
        whole: whether these are all impostor pairs.
    """

    scores: NDArray[np.floating[Any]]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    stops: NDArray[np.int64]
    own_left: NDArray[np.int32]
    own_right: NDArray[np.int32]
    whole: bool


def tail_bootstrap(
    genuine: ScoredPairs,
    impostor: ScoredPairs,
    people: int,
    fars: Sequence[float],
    cost: DetectionCost,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> TailReplicates:
    """What `bootstrap.identity_bootstrap` gives for TAR at FAR and minDCF, a hundred times as fast.

    How far the place of a threshold among the impostor pairs may be off is that of the number of them that it accepts, by `influences`.

    Args:
        genuine: pairs of one person.
        impostor: pairs of two people, in any order. (One person on both sides is taken as he is: the pair then weighs once.)
        people: how many there are.
        fars: targets in [0, 1].
        cost: of ``min_dcf``.
        replicates: how often the people are drawn.
        seed: as in ``identity_bootstrap``; with the same people the draws are the same.
    """
    targets = np.sort(np.asarray(fars, dtype=np.float64))
    tail = _tail(genuine, impostor, people, 1.3 * max(targets.max(initial=0.0), 1 / cost.ratio))
    couples = _Couples(impostor, people)
    places = np.empty((replicates, len(targets)), np.int64)
    lowest, kept = np.empty(
        (2, replicates)
    )  # cost: the lowest, and that of the threshold which is best for the pairs as they are
    plain, best, accepted = _lowest_cost(tail, len(impostor.scores), cost.ratio)
    for lanes in _blocks(replicates):
        weights = _weights(people, lanes, seed)
        totals = couples.total(weights)
        limits = np.array([[allowed_false_accepts(int(t), far) for far in targets] for t in totals], np.int64)
        while (
            found := _walk(tail, weights, limits, totals, cost.ratio, best)
        ) is None:  # one needs more of the pairs
            tail = _tail(genuine, impostor, people, 2.0 * len(tail.scores) / len(impostor.scores))
        rows = slice(lanes.start, lanes.stop)
        places[rows], lowest[rows], kept[rows] = found

    allowed = np.array([allowed_false_accepts(len(impostor.scores), far) for far in targets], np.int64)
    # Where no false accept is allowed, the highest impostor pair is the threshold.
    sums, squares = couples.influences(tail, np.append(np.maximum(allowed, 1), accepted))
    for k, place in enumerate(allowed):
        drawn = np.where(np.isnan(kept), np.nan, places[:, k])
        moved = towards(float(place), drawn, error_of_sums(sums[:, k], float(squares[k])))
        places[:, k] = np.where(np.isnan(moved), place, np.floor(moved + 0.5))
    dear, owners = cost.ratio / len(impostor.scores), np.stack([tail.own_left, tail.own_right])
    missed = _pairs_of(owners[:, best:], people) - (1 - best / owners.shape[1]) * _pairs_of(owners, people)
    error = error_of_sums(dear * sums[:, -1] + missed / owners.shape[1], dear**2 * float(squares[-1]))
    settled = towards(plain, kept, error)
    choosing = of_choosing(plain, lowest, len(genuine.scores), len(impostor.scores), cost)
    costs = unchosen(plain, settled, choosing)

    tar = np.empty((replicates, len(targets)))
    for lanes in _blocks(replicates):
        rows = slice(lanes.start, lanes.stop)
        tar[rows] = _accepted_shares(tail, _weights(people, lanes, seed), places[rows])
    tar[np.isnan(kept)] = np.nan
    return TailReplicates(tar[:, np.argsort(np.argsort(fars, kind="stable"))], costs / min(1.0, cost.ratio))


class _Couples:
    """Who meets whom among the impostor pairs, and how often."""

    def __init__(self, impostor: ScoredPairs, people: int) -> None:
        self._base = people + 1
        self._pairs = len(impostor.scores)
        codes = self._codes(impostor.left, _other(impostor, people))
        codes.sort()
        first = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
        self._all = codes[first]
        self._sides = np.divmod(self._all, self._base)
        self._times = np.diff(np.append(first, len(codes))).astype(np.int64)

    def _codes(self, left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
        kind = np.uint32 if self._base**2 < 1 << 32 else np.uint64
        codes: NDArray[Any] = np.minimum(left, right).astype(kind)
        codes *= kind(self._base)
        codes += np.maximum(left, right).astype(kind)
        return codes

    def total(self, weights: Counts) -> NDArray[np.float64]:
        """Weight of all impostor pairs in each lane; whole numbers."""
        most = 256 * int(weights.max()) ** 2 * int(self._times.max())
        loops = compiled(total_loops) if most < 1 << 32 else None  # few couples then
        total: NDArray[np.float64] = (loops or total_arrays)(weights, *self._sides, self._times)
        return total

    def influences(
        self, tail: _Tail, accepted: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What each person does to the number of accepted impostor pairs, where so many are accepted ``[k]``.

        Returns:
            ``[people, k]``, and the sum over couples of the square of what each couple does, ``[k]``.
        """
        people, share = self._base - 1, accepted / self._pairs
        every = sum(np.bincount(side, self._times, people + 1)[:people] for side in self._sides)
        sides = np.stack([tail.left, tail.right])
        sums, before, met = np.empty((people, len(accepted))), 0, np.zeros(people)
        for k in np.argsort(accepted, kind="stable"):
            met += _pairs_of(sides[:, before : accepted[k]], people)
            before = int(accepted[k])
            sums[:, k] = met - share[k] * every
        codes = self._codes(tail.left, tail.right)
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        start = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
        times = np.diff(np.append(start, len(codes)))
        further = np.arange(len(codes)) - np.repeat(start, times)  # pairs of the same couple further up
        own = np.repeat(self._times[np.searchsorted(self._all, codes[start])], times)
        two = codes % self._base < self._base - 1
        squares, products = np.zeros((2, len(codes) + 1))
        squares[1 + order], products[1 + order] = two * (2 * further + 1), two * own
        whole = float((self._times[self._sides[1] < self._base - 1].astype(np.float64) ** 2).sum())
        return sums, np.cumsum(squares)[accepted] - 2 * share * np.cumsum(products)[
            accepted
        ] + share**2 * whole


def _pairs_of(sides: NDArray[Any], people: int) -> NDArray[np.int64]:
    """How many of the pairs ``[2, m]`` each person is in; a last person, whom all draw once, is nobody."""
    return np.bincount(sides.ravel(), minlength=people + 1)[:people]


def _other(pairs: ScoredPairs, people: int) -> NDArray[Any]:
    """The person on the right; a last one, whom all draw once, where it is the person on the left."""
    return np.where(pairs.left == pairs.right, people, pairs.right)


def _tail(genuine: ScoredPairs, impostor: ScoredPairs, people: int, share: float) -> _Tail:
    """About this share of the impostor pairs (all of those with the score of the last one), and what is above it."""
    size = min(len(impostor.scores), int(share * len(impostor.scores)) + 1000)
    whole = size == len(impostor.scores)
    bar = -np.inf if whole else np.partition(impostor.scores, len(impostor.scores) - size)[-size]
    kept = np.flatnonzero(impostor.scores >= bar)
    kept = kept[np.argsort(-impostor.scores[kept], kind="stable")]
    best = ScoredPairs(*(column[kept] for column in impostor))
    order = np.argsort(-genuine.scores, kind="stable")
    ranked = ScoredPairs(*(column[order] for column in genuine))
    above = int(np.searchsorted(-ranked.scores, -bar, side="right"))
    return _Tail(
        scores=best.scores,
        left=best.left.astype(np.int32),
        right=_other(best, people).astype(np.int32),
        stops=np.searchsorted(-best.scores, -ranked.scores[:above], side="right").astype(np.int64),
        own_left=ranked.left.astype(np.int32),
        own_right=_other(ranked, people).astype(np.int32),
        whole=whole,
    )


def _blocks(replicates: int) -> Iterator[range]:
    return (range(at, min(at + _LANES, replicates)) for at in range(0, replicates, _LANES))


def _weights(people: int, lanes: range, seed: int) -> Counts:
    """``[people + 1, lanes]``."""
    weights = np.ones((people + 1, len(lanes)), np.uint16)
    weights[:people] = identity_counts(people, lanes, seed).T
    return weights


def _lowest_cost(tail: _Tail, impostors: int, ratio: float) -> tuple[float, int, int]:
    """Of all thresholds, and how many genuine and how many impostor pairs are accepted there."""
    kept = np.arange(1, len(tail.stops) + 1) / len(tail.own_left)
    costs = np.append(1.0, 1 - kept + ratio * tail.stops / impostors)
    best = int(np.argmin(costs))
    return float(costs[best]), best, int(np.append(0, tail.stops)[best])


def _accepted_shares(tail: _Tail, weights: Counts, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weighted share ``[lanes, fars]`` of the genuine pairs above the impostor pair at each place."""
    shares = np.empty(places.shape)
    for lane, own in enumerate(places):
        # Beyond the last impostor pair everything is accepted.
        accepted = np.where(
            own < len(tail.scores),
            np.searchsorted(tail.stops, np.clip(own, 0, None), side="right"),
            len(tail.own_left),
        )
        drawn = weights[:, lane].astype(np.float64)
        kept = np.cumsum(np.append(0.0, drawn[tail.own_left] * drawn[tail.own_right]))
        with np.errstate(invalid="ignore"):
            shares[lane] = kept[accepted] / kept[-1]
    return shares


def _walk(
    tail: _Tail,
    weights: Counts,
    limits: NDArray[np.int64],
    totals: NDArray[np.float64],
    ratio: float,
    best: int,
) -> tuple[NDArray[np.int64], Floats, Floats] | None:
    """Down the impostor pairs in every lane.

    Args:
        tail: the pairs.
        weights: ``[people + 1, lanes]``.
        limits: ``[lanes, fars]``, ascending: weight of impostor pairs that may be accepted.
        totals: ``[lanes]``, weight of all impostor pairs.
        ratio: cost of a FAR of 1, where an FRR of 1 costs 1.
        best: how many genuine pairs a threshold accepts that is kept.

    Returns:
        For each lane and limit the first pair that passes it (the number of pairs if none does), the lowest cost, and that of the
        threshold kept, NaN where a kind has no weight; or None if some lane needs pairs beyond the tail.
    """
    places = np.full(limits.shape, len(tail.scores), np.int64)
    costs, kept_costs = np.ones((2, len(limits)))
    done = (compiled(walk_loops) or walk_arrays)(
        weights, tail.left, tail.right, tail.stops, tail.own_left, tail.own_right, limits, totals, ratio, places, costs, best, kept_costs, _STRIDE
    )  # fmt: skip
    return (places, costs, kept_costs) if done or tail.whole else None
