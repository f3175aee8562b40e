"""How well clusters agree with identities: BCubed, pairs and mutual information, from the table of their common counts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Figures of one clustering against labels; all but ``nmi`` read higher when clusters are pure and whole.

    Attributes:
        bcubed_precision: ``[n]``, share of a sample's cluster that has its label; 1 in a cluster of one.
        bcubed_recall: ``[n]``, share of its label's samples that are in its cluster.
        pair_precision: share of the pairs inside clusters that share a label; 1 if there is no pair.
        pair_recall: share of the pairs of one label that are inside a cluster; 1 if there is no pair.
        nmi: mutual information over the arithmetic mean of both entropies; 1 if both are 0.
    """

    bcubed_precision: Floats
    bcubed_recall: Floats
    pair_precision: float
    pair_recall: float
    nmi: float

    @property
    def bcubed(self) -> tuple[float, float, float]:
        """Mean precision, mean recall, and F of these two means, as the literature has it."""
        precision, recall = float(self.bcubed_precision.mean()), float(self.bcubed_recall.mean())
        return precision, recall, _harmonic(precision, recall)

    @property
    def bcubed_f(self) -> Floats:
        """``[n]``, F of each sample; ``1 - F`` is its hard level by clusters."""
        total = self.bcubed_precision + self.bcubed_recall
        f: Floats = 2 * self.bcubed_precision * self.bcubed_recall / total
        return f

    @property
    def pairs(self) -> tuple[float, float, float]:
        """Precision, recall and F over pairs."""
        return self.pair_precision, self.pair_recall, _harmonic(self.pair_precision, self.pair_recall)


def agreement(assigned: ArrayLike, labels: ArrayLike) -> Agreement:
    """Compare clusters with labels: O(n log n) time, O(n) memory.

    Args:
        assigned: integers ``[n]``, the cluster of each sample; their values mean nothing else.
        labels: integers ``[n]``.

    Raises:
        UserError: no sample, or different numbers of them.
    """
    clusters, labels = np.asarray(assigned), np.asarray(labels)
    if clusters.shape != labels.shape or clusters.ndim != 1 or not len(clusters):
        raise UserError(
            f"has shapes {clusters.shape} and {labels.shape}",
            "assigned and labels",
            "give one cluster and one label to each of at least one sample",
        )
    cluster, in_cluster = _counted(clusters)
    label, in_label = _counted(labels)
    cell, in_cell = _counted(cluster * len(in_label) + label)  # n(k, y), only where it is not 0
    common = in_cell[cell]
    n = len(cluster)
    joint = in_cell / n
    first = np.zeros(len(in_cell), np.int64)
    first[cell] = np.arange(n)  # any sample of the cell knows both margins
    margins = (in_cluster[cluster] / n * in_label[label] / n)[first]
    entropies = (_entropy(in_cluster / n) + _entropy(in_label / n)) / 2
    information = float((joint * np.log(joint / margins)).sum())
    return Agreement(
        bcubed_precision=common / in_cluster[cluster],
        bcubed_recall=common / in_label[label],
        pair_precision=_share(_pairs(in_cell), _pairs(in_cluster)),
        pair_recall=_share(_pairs(in_cell), _pairs(in_label)),
        nmi=information / entropies if entropies else 1.0,
    )


def _counted(values: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each sample's group, numbered from 0, and the sizes of the groups."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return group.astype(np.int64), sizes.astype(np.int64)


def _pairs(sizes: NDArray[np.int64]) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _entropy(shares: Floats) -> float:
    return float(-(shares * np.log(shares)).sum())
