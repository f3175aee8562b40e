"""Verification figures from scores and labels: ROC, TAR at FAR, k-fold accuracy, AUC, EER and minDCF, all exact.

A pair is accepted when its score is at or above the threshold. Thresholds are always observed scores
(or ``inf``: accept nothing), so that no figure depends on a grid and a strictly increasing map of the
scores changes none of them. Equal scores can only be accepted together.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.fold_cuts import best_cuts, codes

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class OperatingPoint(NamedTuple):
    """Where a target FAR leads.

    Attributes:
        threshold: smallest observed score that keeps the FAR; ``inf`` where only accepting nothing does.
        tar: share of genuine pairs at or above the threshold.
        far: share of impostor pairs at or above the threshold; never above the one asked.
        false_accepts: impostor pairs at or above the threshold.
        allowed: false accepts that the asked FAR allows, ``floor(far * impostors)``; ties can leave some unused.
    """

    threshold: float
    tar: float
    far: float
    false_accepts: int
    allowed: int


class DetectionCost(NamedTuple):
    """What errors cost, as NIST's speaker evaluations count.

    Attributes:
        prior: share of genuine pairs among those that will be compared, in (0, 1).
        miss: cost of rejecting a genuine pair.
        false_accept: cost of accepting an impostor pair.
    """

    prior: float = 0.01
    miss: float = 1.0
    false_accept: float = 1.0

    @property
    def ratio(self) -> float:
        """What a FAR of 1 costs, where an FRR of 1 costs 1."""
        return self.false_accept * (1 - self.prior) / (self.miss * self.prior)

    def of(self, far: Floats, tar: Floats) -> Floats:
        """Expected cost, divided by that of the better of accepting everything and accepting nothing."""
        return (1 - tar + self.ratio * far) / min(1.0, self.ratio)


NIST_COST = DetectionCost()


class FoldResult(NamedTuple):
    """Accuracy of each fold at the threshold that the other folds chose.

    Attributes:
        folds: the folds' own labels, ascending, ``[k]``.
        accuracy: float64 ``[k]``.
        thresholds: float64 ``[k]``; ``inf`` where accepting nothing was best.
    """

    folds: NDArray[np.int64]
    accuracy: Floats
    thresholds: Floats


def as_array(values: ArrayLike) -> NDArray[Any]:
    """NumPy view of an array, a list or a torch tensor of any type on any device, with or without a graph."""
    detach = getattr(values, "detach", None)
    if detach is None:
        return np.asarray(values)
    tensor = detach().cpu()
    return np.asarray(tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy())


def check_scores(scores: ArrayLike, same: ArrayLike) -> tuple[NDArray[Any], Bools]:
    """Scores as float32 or float64 ``[m]`` and labels as bool ``[m]``.

    Raises:
        ValueError: another shape, a NaN or infinite score, labels that are not 0 or 1, one class only.
    """
    values, labels = as_array(scores), as_array(same)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim != 1 or values.shape != labels.shape:
        raise ValueError(
            f"scores {values.shape} and same {labels.shape} must be two lists of one length: one score and one label a pair"
        )
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"score {bad} is {values[bad]}; every score must be finite: drop or repair such pairs first"
        )
    if labels.dtype != np.bool_:
        if not np.isin(labels, (0, 1)).all():
            raise ValueError("same must hold True/False or 1/0; give issame, not identity numbers")
        labels = labels.astype(np.bool_)
    genuine = int(labels.sum())
    if genuine in (0, len(labels)):
        raise ValueError(
            f"{genuine} genuine and {len(labels) - genuine} impostor pairs; both kinds are needed, so add pairs of the other kind"
        )
    return values, labels


def roc(scores: ArrayLike, same: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Every operating point there is, one per distinct score.

    Args:
        scores: ``[m]``, higher means more alike.
        same: ``[m]``, true for genuine pairs.

    Returns:
        ``(far, tar, thresholds)``, float64 ``[distinct scores + 1]``: from threshold ``inf`` (0, 0)
        down to the lowest score (1, 1).
    """
    values, labels = check_scores(scores, same)
    genuine, impostor = np.sort(values[labels]), np.sort(values[~labels])
    thresholds = np.unique(values)[::-1]
    tar = (len(genuine) - np.searchsorted(genuine, thresholds)) / len(genuine)
    far = (len(impostor) - np.searchsorted(impostor, thresholds)) / len(impostor)
    start = np.zeros(1)
    return (
        np.concatenate([start, far]),
        np.concatenate([start, tar]),
        np.concatenate([[np.inf], thresholds.astype(np.float64)]),
    )


def allowed_false_accepts(impostors: int, far: float) -> int:
    """Largest ``k`` with ``k / impostors <= far``, so that 0.001 of 3,000 is 3 in spite of rounding.

    Raises:
        ValueError: ``far`` outside [0, 1].
    """
    if not 0 <= far <= 1:
        raise ValueError(f"far is {far}; it must lie between 0 and 1")
    near = int(far * impostors)
    return max(k for k in (near - 1, near, near + 1) if k <= 0 or (k <= impostors and k / impostors <= far))


def threshold_at_far(scores: ArrayLike, same: ArrayLike, far: float) -> OperatingPoint:
    """The lowest threshold whose FAR does not exceed ``far``.

    With ``k`` false accepts allowed, a pair is accepted when its score lies strictly above the
    ``k + 1``-th largest impostor score. (Reading the *nearest* ROC point instead, as released
    scripts do, may exceed the FAR that was asked for.)

    Args:
        scores: ``[m]``, higher means more alike.
        same: ``[m]``, true for genuine pairs.
        far: largest false accept rate, in [0, 1].
    """
    values, labels = check_scores(scores, same)
    genuine, impostor = values[labels], values[~labels]
    allowed = allowed_false_accepts(len(impostor), far)
    if allowed == len(impostor):
        accepted = values
    else:
        place = len(impostor) - 1 - allowed
        accepted = values[values > np.partition(impostor, place)[place]]
    threshold = accepted.min() if len(accepted) else np.inf
    false_accepts = int((impostor >= threshold).sum())
    return OperatingPoint(
        threshold=float(threshold),
        tar=float((genuine >= threshold).mean()),
        far=false_accepts / len(impostor),
        false_accepts=false_accepts,
        allowed=allowed,
    )


def tar_at_far(scores: ArrayLike, same: ArrayLike, far: float) -> float:
    """Largest TAR whose FAR does not exceed ``far``; see :func:`threshold_at_far`."""
    return threshold_at_far(scores, same, far).tar


def auc(scores: ArrayLike, same: ArrayLike) -> float:
    """Probability that a genuine pair scores above an impostor pair, ties counting one half (Mann-Whitney)."""
    values, labels = check_scores(scores, same)
    genuine, impostor = values[labels], np.sort(values[~labels])
    below = np.searchsorted(impostor, genuine, side="left").sum()
    not_above = np.searchsorted(impostor, genuine, side="right").sum()
    return float((int(below) + int(not_above)) / (2 * len(genuine) * len(impostor)))


def equal_error_rate(scores: ArrayLike, same: ArrayLike) -> float:
    """Error rate where FAR equals FRR, on straight lines between neighbouring ROC points."""
    far, tar, _ = roc(scores, same)
    gap = far - (1 - tar)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = gap[after] / (gap[after] - gap[after - 1])
    return float(far[after] - share * (far[after] - far[after - 1]))


def min_dcf(scores: ArrayLike, same: ArrayLike, cost: DetectionCost = NIST_COST) -> tuple[float, float]:
    """Lowest detection cost of all thresholds, and the strictest threshold that has it.

    ``miss * prior * FRR + false_accept * (1 - prior) * FAR``, divided by the cost of the better of accepting everything and
    accepting nothing (NIST, speaker recognition evaluation), so that 1 is worth nothing and 0 is perfect.

    Args:
        scores: ``[m]``, higher means more alike.
        same: ``[m]``, true for genuine pairs.
        cost: prior and costs.

    Raises:
        ValueError: a prior outside (0, 1), or a cost that is not positive.
    """
    if not (0 < cost.prior < 1 and 0 < cost.miss < np.inf and 0 < cost.false_accept < np.inf):
        raise ValueError(f"{cost}: the prior must lie between 0 and 1, and costs be positive")
    far, tar, thresholds = roc(scores, same)
    costs = cost.of(far, tar)
    best = int(np.argmin(costs))
    return float(costs[best]), float(thresholds[best])


def kfold(scores: ArrayLike, same: ArrayLike, folds: ArrayLike) -> FoldResult:
    """Accuracy of each fold at the threshold that is best on all other folds.

    Candidates are the scores of the other folds and ``inf``. Among equally good ones the highest,
    that is the strictest, is taken: the choice of the field's grid search, which keeps the first
    maximum while it relaxes the threshold.

    Args:
        scores: ``[m]``, higher means more alike.
        same: ``[m]``, true for genuine pairs.
        folds: integers ``[m]``, the fold of each pair, any labels; or a number of folds, which are then
            consecutive parts of the pairs, as the field's lists lay them out.

    Raises:
        ValueError: fewer than two folds, or a fold whose complement lacks genuine or impostor pairs.
    """
    values, labels = check_scores(scores, same)
    given = as_array(folds)
    if given.ndim == 0:
        if given.dtype.kind not in "iu" or given < 2:
            raise ValueError(f"folds is {given}; give a whole number from 2, or the fold of each pair")
        given = np.arange(len(values)) * int(given) // len(values)
    names, fold = codes(given)
    if fold.shape != labels.shape:
        raise ValueError(f"folds {fold.shape} must name one fold for each of the {len(labels)} pairs")
    if len(names) < 2:
        raise ValueError("one fold only; the threshold is chosen on other folds, so at least two are needed")
    genuine, sizes = np.bincount(fold[labels], minlength=len(names)), np.bincount(fold)
    alone = (genuine == genuine.sum()) | (sizes - genuine == len(labels) - genuine.sum())
    if alone.any():
        raise ValueError(
            f"without fold {names[alone][0]} only one kind of pair is left; spread both kinds over the folds"
        )
    order = np.argsort(-values)  # how it orders equal scores does not matter: they are accepted together
    values, labels, fold = values[order], labels[order], fold[order]
    best, own = best_cuts(values, labels, fold, len(names))
    thresholds = np.where(best > 0, values[best - 1], np.inf).astype(np.float64)
    return FoldResult(names, (sizes - genuine + own) / sizes, thresholds)


def kfold_accuracy(scores: ArrayLike, same: ArrayLike, folds: ArrayLike) -> tuple[float, Floats]:
    """Mean over the folds and the accuracy of each, ``[k]``; see :func:`kfold`."""
    result = kfold(scores, same, folds)
    return float(result.accuracy.mean()), result.accuracy
