"""H0 persistence: the minimum spanning tree, its edge lengths with their gradient, and distances of diagrams.

Components of a growing Vietoris-Rips complex merge exactly at the edges that Kruskal's algorithm adds, so
the finite H0 deaths are the edge lengths of the minimum spanning tree (topological autoencoders, arXiv
1906.00722). The tree is unique under the order (length, i, j), i < j, with NaN after everything else.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from topoface.errors import missing_extra

Prim = Callable[[NDArray[Any]], tuple[NDArray[np.int64], NDArray[Any]]]


def h0_edges(distances: Tensor) -> Tensor:
    """The persistence pairing of H0: the edges of the minimum spanning tree.

    Any increasing function of the distances gives the same tree, so squared distances and exact integers serve.
    O(n^2) time. The tree is built on the CPU: a matrix on an accelerator is copied there (and waits for it).

    Args:
        distances: ``[n, n]``, of which only ``[min(i, j), max(i, j)]`` is read.

    Returns:
        int64 ``[n - 1, 2]`` on the device of the distances, ``i < j``, ascending by (length, i, j) with NaN
        last; ``[0, 2]`` for n <= 1.

    Raises:
        ValueError: if the matrix is not square.
    """
    if distances.dim() != 2 or distances.shape[0] != distances.shape[1]:
        raise ValueError(
            f"expected a square [n, n] matrix of distances, got {tuple(distances.shape)}; "
            "for points [n, D] pass squared_distances(points)"
        )
    if len(distances) <= 1:
        return torch.empty(0, 2, dtype=torch.int64, device=distances.device)
    floating = distances.is_floating_point()
    wide = torch.promote_types(distances.dtype, torch.float32 if floating else torch.int64)
    keys = distances.detach().to("cpu", wide).contiguous().numpy()
    edges = (prim_numpy if _compiled_prim() is None else prim_numba)(keys)
    return torch.from_numpy(edges).to(distances.device)


def h0_deaths(distances: Tensor) -> Tensor:
    """The finite H0 death times, i.e. the edge lengths of the minimum spanning tree.

    An edge enters at its length, not at half of it (as ripser and GUDHI have it); all births are 0 and the one
    infinite bar is dropped.

    Args:
        distances: ``[n, n]``, of which only the upper triangle is read.

    Returns:
        ``[n - 1]`` ascending, differentiable with respect to the distances (1 at each edge of the tree).
    """
    i, j = h0_edges(distances).unbind(1)
    return distances[i, j]


def edge_lengths(points: Tensor, edges: Tensor) -> Tensor:
    """Euclidean lengths of edges, with a backward of O(m D) instead of O(n^2 D).

    Args:
        points: float ``[n, D]``.
        edges: int64 ``[m, 2]``, repeats allowed.

    Returns:
        ``[m]``. An edge of length 0 has gradient 0, not NaN.
    """
    lengths: Tensor = _EdgeLengths.apply(points, edges)  # type: ignore[no-untyped-call]
    return lengths


class _EdgeLengths(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, edges: Tensor) -> Tensor:
        steps = points.index_select(0, edges[:, 0]) - points.index_select(0, edges[:, 1])
        lengths: Tensor = torch.linalg.vector_norm(steps, dim=1)
        ctx.save_for_backward(steps, lengths, edges)
        ctx.shape = points.shape
        return lengths

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        steps, lengths, edges = ctx.saved_tensors
        # only exact zeros are replaced: a NaN length must reach the gradient
        pull = steps * (gradient / lengths.where(lengths != 0, 1))[:, None]
        total = steps.new_zeros(ctx.shape)
        return total.index_add_(0, edges[:, 0], pull).index_add_(0, edges[:, 1], pull, alpha=-1), None


def bottleneck_distance(deaths_a: Tensor, deaths_b: Tensor) -> Tensor:
    """Bottleneck distance of two H0 diagrams with equally many finite bars, in closed form.

    With both lists ascending the best matching drops the j shortest bars of both to the diagonal and matches
    the rest in order: min over j of max( max(a_j, b_j) / 2, max_{i > j} |a_i - b_i| ).

    Args:
        deaths_a: ``[m]``, in any order; all births are 0.
        deaths_b: ``[m]``.

    Returns:
        Scalar, differentiable; 0 for m = 0.
    """
    a, b = deaths_a.sort().values, deaths_b.sort().values
    if a.shape != b.shape:
        raise ValueError(f"expected equally many deaths, got {len(a)} and {len(b)}")
    if not len(a):
        return (a + b).sum()
    zero = a.new_zeros(1)
    dropped = torch.cat([zero, torch.maximum(a, b) / 2])
    matched = torch.cat([(a - b).abs().flip(0).cummax(0).values.flip(0), zero])
    return torch.maximum(dropped, matched).amin()


def tree_overlap(edges_a: Tensor, edges_b: Tensor, n: int) -> float:
    """The share of edges that two trees on n vertices have in common; about 2 / n for independent trees.

    Args:
        edges_a: int64 ``[n - 1, 2]``, ``i < j``.
        edges_b: the same.
        n: vertices.

    Returns:
        In [0, 1]; 1 for n <= 1, where both trees are empty.
    """
    if n <= 1:
        return 1.0
    place = torch.tensor([n, 1], device=edges_a.device)
    common = torch.isin((edges_a * place).sum(1), (edges_b * place).sum(1))
    return int(common.sum()) / (n - 1)


def prim_numpy(distances: NDArray[Any]) -> NDArray[np.int64]:
    """The tree where nothing can be compiled: Prim's algorithm on ranks.

    Sorting all edges once, O(n^2 log n), turns lengths into ranks without ties or NaN, on which each round of
    Prim is a minimum and an argmin.

    Args:
        distances: ``[n, n]``, n >= 2; reads ``[min, max]`` only.

    Returns:
        int64 ``[n - 1, 2]``, ``i < j``, ascending by (length, i, j).
    """
    n = len(distances)
    i, j = np.triu_indices(n, 1)
    order = np.argsort(distances[i, j], kind="stable")  # i and j ascend within ties; NaN comes last
    i, j = i[order], j[order]
    taken = len(order)  # a rank after all others: the diagonal, and edges to vertices in the tree
    rank = np.full((n, n), taken)
    rank[i, j] = rank[j, i] = np.arange(taken)
    nearest, inside = rank[0].copy(), np.zeros(n, bool)
    inside[0] = True
    tree = np.empty(n - 1, np.int64)
    for count in range(n - 1):
        joined = nearest.argmin()
        tree[count] = nearest[joined]
        inside[joined] = True
        np.minimum(nearest, rank[joined], out=nearest)
        nearest[inside] = taken
    tree.sort()
    return np.stack([i[tree], j[tree]], axis=1)


def prim_numba(distances: NDArray[Any]) -> NDArray[np.int64]:
    """The same tree, compiled: O(n^2), about ten times faster. Needs numba (the extra ``fast``).

    Args:
        distances: int64, float32 or float64 ``[n, n]``, n >= 2; reads ``[min, max]`` only.

    Returns:
        int64 ``[n - 1, 2]``, ``i < j``, ascending by (length, i, j).
    """
    prim = _compiled_prim()
    if prim is None:
        raise missing_extra("numba", "fast", "compiled tree")
    edges, lengths = prim(distances)
    return edges[np.lexsort((edges[:, 1], edges[:, 0], lengths))]


@cache
def _compiled_prim() -> Prim | None:
    """`_prim_loops` compiled (and kept on disk), without the interpreter's lock; None where numba is absent."""
    try:
        from numba import njit
    except ImportError:
        return None
    compiled: Prim = njit(cache=True, nogil=True)(_prim_loops)
    return compiled


def _prim_loops(distances: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Dense Prim as loops to compile: edges in the order in which they joined, and their lengths.

    The vertices outside stay in one compact list; one pass a round relaxes them against the vertex that joined
    last and finds the least.
    """

    def precedes(length: Any, i: int, j: int, other: Any, k: int, m: int) -> bool:
        if length < other:
            return True
        if length > other:
            return False
        if (length == other) or (length != length and other != other):  # a tie, or two NaN
            return i < k or (i == k and j < m)
        return bool(other != other)  # NaN comes last

    n = distances.shape[0]
    edges = np.empty((n - 1, 2), np.int64)
    lengths = np.empty(n - 1, distances.dtype)
    outside = np.arange(1, n)
    shortest, low, high = (
        distances[0, 1:].copy(),
        np.zeros(n - 1, np.int64),
        np.arange(1, n),
    )  # edges into the tree
    joined = -1
    for count in range(n - 1):
        least = 0
        for k in range(n - 1 - count):
            if joined >= 0:
                i, j = min(outside[k], joined), max(outside[k], joined)
                if precedes(distances[i, j], i, j, shortest[k], low[k], high[k]):
                    shortest[k], low[k], high[k] = distances[i, j], i, j
            if precedes(shortest[k], low[k], high[k], shortest[least], low[least], high[least]):
                least = k
        edges[count, 0], edges[count, 1], lengths[count] = low[least], high[least], shortest[least]
        joined = outside[least]
        last = n - 2 - count
        outside[least], shortest[least], low[least], high[least] = (
            outside[last],
            shortest[last],
            low[last],
            high[last],
        )
    return edges, lengths
