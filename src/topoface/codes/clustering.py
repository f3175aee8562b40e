"""K-means of a batch of nodes of equal size, plain and with shares of equal size (section 4.3 of our reading of GIF)."""

import numpy as np
from numpy.typing import NDArray

from topoface.codes.assign import Costs, Integers, assign_balanced

Rows = NDArray[np.float32]
SAMPLED = 64
"""Members for each cluster that centers are first sought among."""
SEEDED = 8
"""Members for each cluster that starting points are chosen among."""
_LLOYD_ROUNDS = 10
_BALANCED_ROUNDS = 3


def squared_distances(rows: Rows, centers: Rows) -> Costs:
    """Squared distance ``[B, m, K]`` of rows ``[B, m, d]`` to centers ``[B, K, d]``, less the row's own square: as good to compare."""
    costs: Costs = rows @ centers.swapaxes(1, 2)
    costs *= -2
    costs += np.einsum("bkd,bkd->bk", centers, centers)[:, None]
    return costs


def kmeans(rows: Rows, k: int, draws: NDArray[np.float64]) -> Rows:
    """Centers ``[B, K, d]`` of rows ``[B, m, d]``: k-means++ and ten rounds of Lloyd on at most 64 K rows of each node.

    Args:
        rows: of B nodes.
        k: clusters.
        draws: uniform ``[B, K]`` in [0, 1), which choose the starting points.
    """
    rows = _spread(rows, SAMPLED * k)
    centers = _starting_points(_spread(rows, SEEDED * k), k, draws)
    for _ in range(_LLOYD_ROUNDS):
        chosen = squared_distances(rows, centers).argmin(2)
        centers = group_means(rows, chosen, centers)
    return centers


def balanced_kmeans(rows: Rows, k: int, draws: NDArray[np.float64]) -> tuple[Integers, Rows]:
    """Clusters of equal size: cluster ``[B, m]`` of each row, and the centers ``[B, K, d]``; m >= K."""
    centers = kmeans(rows, k, draws)
    for _ in range(_BALANCED_ROUNDS):
        chosen = assign_balanced(squared_distances(rows, centers))
        centers = group_means(rows, chosen, centers)
    return chosen, centers


def group_means(rows: Rows, chosen: Integers, otherwise: Rows) -> Rows:
    """Mean ``[B, K, d]`` of the rows ``[B, m, d]`` of each cluster; what ``otherwise`` has where a cluster is empty."""
    b, k, d = otherwise.shape
    flat = (chosen + np.arange(b)[:, None] * k).ravel()
    counts = np.bincount(flat, minlength=b * k)
    there = np.flatnonzero(counts)
    order = np.argsort(flat, kind="stable")
    starts = np.cumsum(counts[there]) - counts[there]
    means = otherwise.reshape(b * k, d).copy()
    means[there] = np.add.reduceat(rows.reshape(-1, d)[order], starts, axis=0) / counts[there, None]
    return means.reshape(b, k, d)


def _spread(rows: Rows, most: int) -> Rows:
    """At most so many rows of each node, evenly spread."""
    m = rows.shape[1]
    return rows if m <= most else rows[:, np.linspace(0, m - 1, most).astype(np.int64)]


def _starting_points(rows: Rows, k: int, draws: NDArray[np.float64]) -> Rows:
    """k-means++: each next one is drawn with the square of the distance to those before it."""
    b, m, d = rows.shape
    nodes = np.arange(b)
    squares = np.einsum("bmd,bmd->bm", rows, rows)
    nearest = np.full((b, m), np.inf, np.float32)
    centers = np.empty((b, k, d), np.float32)
    for i in range(k):
        weights = nearest.astype(np.float64) if i else np.ones((b, m))
        weights[weights.sum(1) == 0] = 1  # nothing but copies of the centers is left
        reached = weights.cumsum(1)
        at = (reached <= draws[:, i, None] * reached[:, -1:]).sum(1).clip(max=m - 1)
        centers[:, i] = rows[nodes, at]
        apart = squares + squares[nodes, at, None] - 2 * (rows @ centers[:, i, :, None])[..., 0]
        np.minimum(nearest, apart.clip(min=0), out=nearest)
        nearest[nodes, at] = 0
    return centers
