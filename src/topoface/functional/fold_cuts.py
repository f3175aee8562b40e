"""The threshold that is best on all folds but one, for each fold, in one pass over the pairs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def codes(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Different labels, ascending, and the place of each label among them; without a sort where they are small numbers."""
    if (
        labels.ndim == 1
        and len(labels)
        and labels.dtype.kind in "iu"
        and 0 <= labels.min() <= labels.max() < 1024
    ):
        names = np.flatnonzero(np.bincount(labels))
        places = np.zeros(int(names[-1]) + 1, np.intp)
        places[names] = np.arange(len(names))
        return names, places[labels]
    return np.unique(labels, return_inverse=True)


def best_cuts(
    values: NDArray[Any], labels: NDArray[np.bool_], fold: NDArray[np.intp], folds: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of the best pairs to accept for each fold, as is best for all others; and what this gains in the fold.

    Args:
        values: ``[m]``, descending.
        labels: ``[m]``; a genuine pair that is accepted gains 1, an impostor pair loses 1.
        fold: ``[m]``, from 0.
        folds: how many.
    """
    from topoface.functional.compiled import compiled  # brings torch, which figures from files do without

    cuts: tuple[NDArray[np.int64], NDArray[np.int64]] = (compiled(_cut_loops) or _cut_arrays)(
        values, labels, fold, folds
    )
    return cuts


def _cut_arrays(
    values: NDArray[Any], labels: NDArray[np.bool_], fold: NDArray[np.intp], folds: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`best_cuts` where nothing can be compiled."""
    # Position c stands for "accept the c best"; only the ends of runs of equal scores are thresholds.
    ends = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]]))
    gain = np.where(labels, 1, -1)
    best, own = np.empty(folds, np.int64), np.empty(folds, np.int64)
    kept = np.zeros(len(values) + 1, dtype=np.int64)
    for k in range(folds):
        held_out = fold == k
        np.cumsum(np.where(held_out, 0, gain), out=kept[1:])
        # The first maximum is the strictest. It is always a score of the other folds (or inf): a run
        # of equal scores from this fold alone repeats the count of the run before it.
        best[k] = ends[np.argmax(kept[ends])]
        own[k] = gain[: best[k]].sum(where=held_out[: best[k]])
    return best, own


def _cut_loops(
    values: NDArray[Any], labels: NDArray[np.bool_], fold: NDArray[np.intp], folds: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`_cut_arrays` as loops to compile."""
    best, own = np.zeros(folds, np.int64), np.zeros(folds, np.int64)
    most, gained = np.zeros(folds, np.int64), np.zeros(folds, np.int64)
    total = 0
    for c in range(len(values)):
        gain = 1 if labels[c] else -1
        total += gain
        gained[fold[c]] += gain
        if c + 1 == len(values) or values[c + 1] != values[c]:
            for k in range(folds):
                if total - gained[k] > most[k]:
                    most[k], best[k], own[k] = total - gained[k], c + 1, gained[k]
    return best, own
