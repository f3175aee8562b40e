"""Minimum spanning trees of dense matrices, by three algorithms that return the same edges.

The tree is unique under the order (length, i, j), i < j, with NaN after everything else; each function returns it in that
order. Only the upper triangle is ever read, since a matrix product need not be symmetric to the last bit.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.errors import missing_extra

Compiled = Callable[[NDArray[Any]], tuple[NDArray[np.int64], NDArray[Any]]]

_EDGE_BITS = 31
_NO_EDGE = torch.iinfo(torch.int64).max


def prim(distances: NDArray[Any]) -> NDArray[np.int64]:
    """The tree by Prim's algorithm, compiled where numba is installed (extra ``fast``).

    Args:
        distances: int64, float32 or float64 ``[n, n]``, n >= 2.

    Returns:
        int64 ``[n - 1, 2]``, ``i < j``.
    """
    return (prim_numpy if _compiled_prim() is None else prim_numba)(distances)


def boruvka(distances: Tensor) -> Tensor:
    """The tree by Boruvka's algorithm in tensor operations: no shape depends on a value, nothing is read back.

    Each of ceil(log2 n) rounds finds the least edge out of every component, joins the components along them and keeps
    the edges in a buffer that is sorted once at the end. An edge is one integer, the rank of its length before its
    number i n + j, so that a minimum of integers decides ties too. Captured or compiled, it stays as it is.

    Args:
        distances: ``[n, n]`` of any real type, on any device, 2 <= n <= 46340.

    Returns:
        int64 ``[n - 1, 2]``, ``i < j``.

    Raises:
        ValueError: more points than two of them fit into 31 bits.
    """
    n = len(distances)
    if n * n > 2**_EDGE_BITS:
        raise ValueError(f"{n} points are too many for packed edges; at most {math.isqrt(2**_EDGE_BITS)}")
    keys = _packed(distances)
    vertex = torch.arange(n, device=distances.device)
    component, rounds, found = vertex, (n - 1).bit_length(), []
    for _ in range(rounds):
        leaving = keys.masked_fill(component[:, None] == component[None, :], _NO_EDGE)
        best = torch.full_like(vertex, _NO_EDGE).scatter_reduce(0, component, leaving.amin(1), "amin")
        i, j = _ends(best, n)
        here, there = component[i], component[j]
        parent = torch.where(best < _NO_EDGE, torch.where(here == vertex, there, here), vertex)
        mutual = (
            parent[parent] == vertex
        )  # two components that chose the same edge; or none was left to choose
        found.append(best.masked_fill(mutual & (parent < vertex), _NO_EDGE))  # kept once, by the smaller
        parent = torch.where(mutual & (vertex < parent), vertex, parent)
        for _ in range(rounds):
            parent = parent[parent]
        component = parent[component]
    return torch.stack(_ends(torch.cat(found).sort().values[: n - 1], n), dim=1)


def _packed(distances: Tensor) -> Tensor:
    """int64 ``[n, n]``, symmetric: rank of the length << 31 | number of the edge; the diagonal is no edge."""
    n = len(distances)
    number = torch.arange(n * n, device=distances.device).view(n, n)
    if distances.dtype in (torch.float16, torch.bfloat16, torch.float32):
        # adding 0 turns -0.0 into +0.0; a negative number's bits descend, so all but its sign are flipped
        values = (distances.float() + 0.0).masked_fill(distances.isnan(), torch.nan)
        bits = values.contiguous().view(torch.int32)
        rank = torch.where(bits < 0, bits ^ (2**31 - 1), bits).long() + 2**31
    else:  # 64 bits leave no room for the edge: one stable sort ranks them, equal lengths by the edge
        order = distances.flatten().sort(stable=True).indices
        rank = torch.empty_like(order).scatter_(0, order, number.flatten()).view(n, n)
    upper = (rank << _EDGE_BITS | number).triu(1)
    return (upper + upper.T).masked_fill(number % (n + 1) == 0, _NO_EDGE)


def _ends(packed: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The two vertices of packed edges, i < j; (0, 0) for no edge."""
    number = torch.where(packed < _NO_EDGE, packed & (2**_EDGE_BITS - 1), 0)
    return number.div(n, rounding_mode="floor"), number % n


def prim_numpy(distances: NDArray[Any]) -> NDArray[np.int64]:
    """Prim's algorithm where nothing can be compiled.

    Sorting all edges once, O(n^2 log n), turns lengths into ranks without ties or NaN, on which each round of
    Prim is a minimum and an argmin.

    Arguments and result as for `prim`.
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
    """Prim's algorithm compiled: O(n^2), about ten times faster. Needs numba (the extra ``fast``).

    Arguments and result as for `prim`.
    """
    compiled = _compiled_prim()
    if compiled is None:
        raise missing_extra("numba", "fast", "compiled tree")
    edges, lengths = compiled(np.ascontiguousarray(distances))
    return edges[np.lexsort((edges[:, 1], edges[:, 0], lengths))]


@cache
def _compiled_prim() -> Compiled | None:
    """`_prim_loops` compiled (and kept on disk), without the interpreter's lock; None where numba is absent."""
    try:
        from numba import njit
    except ImportError:
        return None
    compiled: Compiled = njit(cache=True, nogil=True)(_prim_loops)
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
