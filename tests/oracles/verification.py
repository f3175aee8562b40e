"""Verification figures straight from their definitions: every threshold is tried, every pair is looked at."""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise


def candidate_thresholds(scores: Sequence[float]) -> list[float]:
    """Infinity, then every score that occurs, from the highest down."""
    return [math.inf, *sorted(set(scores), reverse=True)]


def rates(
    scores: Sequence[float], same: Sequence[bool], threshold: float, weights: Sequence[int] | None = None
) -> tuple[Fraction, Fraction]:
    """(FAR, TAR) when a pair is accepted at or above the threshold."""
    weights = weights or [1] * len(scores)
    accepted, total = {True: 0, False: 0}, {True: 0, False: 0}
    for score, genuine, weight in zip(scores, same, weights, strict=True):
        total[bool(genuine)] += weight
        if score >= threshold:
            accepted[bool(genuine)] += weight
    return Fraction(accepted[False], total[False]), Fraction(accepted[True], total[True])


def tar_at_far(
    scores: Sequence[float], same: Sequence[bool], far: Fraction, weights: Sequence[int] | None = None
) -> Fraction:
    """The largest TAR of all thresholds whose FAR is not above the asked one."""
    points = [rates(scores, same, t, weights) for t in candidate_thresholds(scores)]
    return max(tar for reached, tar in points if reached <= far)


def auc(scores: Sequence[float], same: Sequence[bool], weights: Sequence[int] | None = None) -> Fraction:
    """Share of (genuine, impostor) couples in the right order, ties one half."""
    weights = weights or [1] * len(scores)
    won = total = Fraction(0)
    for genuine, is_genuine, w in zip(scores, same, weights, strict=True):
        for impostor, is_same, v in zip(scores, same, weights, strict=True):
            if is_genuine and not is_same:
                total += w * v
                won += w * v * (1 if genuine > impostor else Fraction(1, 2) if genuine == impostor else 0)
    return won / total


def equal_error_rate(
    scores: Sequence[float], same: Sequence[bool], weights: Sequence[int] | None = None
) -> Fraction:
    """Where the polygon of (FAR, FRR) points meets the diagonal."""
    points = [rates(scores, same, t, weights) for t in candidate_thresholds(scores)]
    for (far0, tar0), (far1, tar1) in pairwise(points):
        gap0, gap1 = far0 - (1 - tar0), far1 - (1 - tar1)
        if gap0 < 0 <= gap1:
            return far0 + (far1 - far0) * (-gap0) / (gap1 - gap0)
    raise AssertionError("the last point accepts everything, so the polygon must meet the diagonal")


def kfold_accuracy(
    scores: Sequence[float], same: Sequence[bool], folds: Sequence[int], weights: Sequence[int] | None = None
) -> list[Fraction | None]:
    """Accuracy of each fold at the strictest of the thresholds that are best on the others; None for an empty fold."""
    weights = weights or [1] * len(scores)
    pairs = list(zip(scores, same, folds, weights, strict=True))

    def right(fold_is_wanted: bool, fold: int, threshold: float) -> int:
        return sum(w for s, g, f, w in pairs if (f == fold) == fold_is_wanted and (s >= threshold) == bool(g))

    accuracies: list[Fraction | None] = []
    for fold in sorted(set(folds)):
        candidates = candidate_thresholds([s for s, _, f, _ in pairs if f != fold])
        best = max(candidates, key=lambda t: (right(False, fold, t), t))
        size = sum(w for _, _, f, w in pairs if f == fold)
        accuracies.append(Fraction(right(True, fold, best), size) if size else None)
    return accuracies


def min_dcf(
    scores: Sequence[float], same: Sequence[bool], prior: float, weights: Sequence[int] | None = None
) -> float:
    """Lowest expected cost of all thresholds at equal costs, over that of the better of accepting all and none."""
    points = [rates(scores, same, t, weights) for t in candidate_thresholds(scores)]
    costs = [prior * (1 - float(tar)) + (1 - prior) * float(far) for far, tar in points]
    return min(costs) / min(prior, 1 - prior)
