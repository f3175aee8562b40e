"""Verification figures of pairs that count more than once, or not at all: many replicates at a time."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def rates(weights: Floats, labels: NDArray[np.bool_], ends: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """TAR and FAR ``[r, points]`` at every operating point, from accepting nothing on.

    Args:
        weights: whole numbers ``[r, m]``, pairs from the highest score down.
        labels: ``[m]``, true for genuine pairs.
        ends: ``[points]``, how many pairs each operating point accepts, from 0.
    """
    genuine, impostor = (_running_total(weights * kind)[:, ends] for kind in (labels, ~labels))
    return genuine / genuine[:, -1:], impostor / impostor[:, -1:]


def roc_figures(tar: Floats, far: Floats, fars: Sequence[float]) -> dict[str, Floats]:
    """AUC, EER and TAR at FAR, ``[r]`` each, of `rates`."""
    rows = np.arange(len(tar))
    # The trapezoids under the ROC are the rank statistic with ties at one half.
    figures = {"auc": (np.diff(far, axis=1) * (tar[:, 1:] + tar[:, :-1])).sum(axis=1) / 2}

    gap = far + tar - 1
    after = np.argmax(gap >= 0, axis=1)
    share = gap[rows, after] / (gap[rows, after] - gap[rows, after - 1])
    figures["eer"] = far[rows, after] - share * (far[rows, after] - far[rows, after - 1])

    last = np.array([np.searchsorted(row, fars, side="right") - 1 for row in far]).reshape(
        len(far), len(fars)
    )
    for k, target in enumerate(fars):
        figures[f"tar@{target:g}"] = tar[rows, np.maximum(last[:, k], 0)]
    return figures


def fold_accuracy(weights: Floats, right: NDArray[np.bool_], fold: NDArray[np.intp]) -> Floats:
    """Weighted share of the pairs that are judged right ``[r]``, mean over the folds that weigh anything.

    Args:
        weights: ``[r, m]``.
        right: ``[m]``.
        fold: ``[m]``, from 0.
    """
    own = fold[:, None] == np.arange(int(fold.max()) + 1)
    every = weights @ own.astype(np.float64)
    with np.errstate(invalid="ignore"):
        shares = (weights @ (own & right[:, None]).astype(np.float64)) / every
    drawn = every > 0  # a small fold may have drawn nobody: the mean is over those that did
    mean: Floats = np.sum(shares, axis=1, where=drawn) / drawn.sum(axis=1)
    return mean


def _running_total(weights: Floats) -> Floats:
    """``[r, m] -> [r, m + 1]``: weight of the c best pairs, from c = 0. Exact: the weights are whole numbers."""
    total = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=total[:, 1:])
    return total
