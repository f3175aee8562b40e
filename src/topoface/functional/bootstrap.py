"""Intervals by bootstrap over identities: people are drawn anew, and every figure is computed again.

Pairs are not independent: one person with an unusual face spoils all pairs he is in. So each
replicate draws as many identities as there are, with replacement; a pair counts as often as its people
were drawn: a genuine pair the count of its identity, an impostor pair the product of both counts.
Where people appear in many pairs this is right; where nearly everyone appears once (the impostor
pairs of LFW) it errs on the wide side, by up to sqrt(3).
(Resampling both ways, as for two-way tables: A. Owen, "The pigeonhole bootstrap", 2007.)
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.draws import generator
from topoface.functional.verification import as_array, check_scores

Floats = NDArray[np.float64]

# Replicates are worked on in blocks of this many weights: 16 MiB a float64 array, whatever is asked for.
BLOCK = 1 << 21


def identity_bootstrap(
    scores: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    fars: Sequence[float] = (),
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
        replicates: how often the identities are drawn.
        seed: replicate ``r`` is a pure function of ``(seed, r)`` and the set of identities, so two
            models judged with one seed see the same replicates.

    Returns:
        Float64 ``[replicates]`` by name: ``accuracy`` (mean over the folds that drew anybody), ``auc``, ``eer``, ``tar@<far>``.
        NaN where a replicate drew no genuine or no impostor pair.

    Raises:
        ValueError: as in :mod:`topoface.functional.verification`, or identities of another shape.
    """
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

    blocks: dict[str, list[Floats]] = {}
    for counts in _identity_counts(len(names), len(values), replicates, seed):
        weights = counts[:, left] * np.where(left == right, 1.0, counts[:, right])
        genuine = _running_total(weights * labels)[:, ends]
        impostor = _running_total(weights * ~labels)[:, ends]
        with np.errstate(invalid="ignore"):  # 0 / 0 of a replicate without one kind becomes NaN, as promised
            figures = _figures(genuine, impostor, fars)
            if fold is not None:
                figures["accuracy"] = _kfold_accuracy(weights, labels, fold, ends)
        for name, block in figures.items():
            blocks.setdefault(name, []).append(block)
    return {name: np.concatenate(parts) for name, parts in blocks.items()}


def paired_bootstrap(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    fars: Sequence[float] = (),
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Floats]:
    """Figure of model a minus figure of model b, on the same pairs and in the same replicates.

    Two models fail on the same difficult people, so the interval of the difference is narrower than
    the two intervals beside each other suggest. Arguments and names as in :func:`identity_bootstrap`.
    """
    a, b = (
        identity_bootstrap(scores, same, identities, folds, fars=fars, replicates=replicates, seed=seed)
        for scores in (scores_a, scores_b)
    )
    return {name: a[name] - b[name] for name in a}


def percentile_interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """Central share ``level`` of the replicates, leaving out undefined ones; NaN where none is defined."""
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _identity_counts(identities: int, pairs: int, replicates: int, seed: int) -> Iterator[Floats]:
    """How often each identity was drawn, ``[block, identities]``, in blocks that bound the memory."""
    block = max(1, BLOCK // max(pairs, identities))
    for start in range(0, replicates, block):
        drawn = (
            generator(seed, "identity bootstrap", r).integers(identities, size=identities)
            for r in range(start, min(start + block, replicates))
        )
        yield np.stack([np.bincount(draw, minlength=identities) for draw in drawn]).astype(np.float64)


def _running_total(weights: Floats) -> Floats:
    """``[r, m] -> [r, m + 1]``: weight of the c best pairs, from c = 0. Exact: the weights are whole numbers."""
    total = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=total[:, 1:])
    return total


def _figures(genuine: Floats, impostor: Floats, fars: Sequence[float]) -> dict[str, Floats]:
    """AUC, EER and TAR at FAR from accepted weights ``[r, points]``, rising from 0 to the total."""
    tar, far = genuine / genuine[:, -1:], impostor / impostor[:, -1:]
    rows = np.arange(len(tar))
    # The trapezoids under the ROC are the rank statistic with ties at one half.
    figures = {"auc": (np.diff(far, axis=1) * (tar[:, 1:] + tar[:, :-1])).sum(axis=1) / 2}

    gap = far + tar - 1
    after = np.argmax(gap >= 0, axis=1)
    share = gap[rows, after] / (gap[rows, after] - gap[rows, after - 1])
    figures["eer"] = far[rows, after] - share * (far[rows, after] - far[rows, after - 1])

    for target in fars:
        last = np.maximum((far <= target).sum(axis=1) - 1, 0)  # FAR never falls along a row
        figures[f"tar@{target:g}"] = tar[rows, last]
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
