"""Minimum spanning trees of dense matrices, by three algorithms that return the same edges.

The tree is unique under the order (length, i, j), i < j, with NaN after everything else; each function returns it in that
order. Only the upper triangle is ever read, since a matrix product need not be symmetric to the last bit.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.errors import missing_extra
from topoface.functional.compiled import compiled

_EDGE_BITS = 31
_NO_EDGE = torch.iinfo(torch.int64).max
# packed Prim: two vertices of 15 bits after a length of 33, in which the bits of float32 +0.0 to infinity ascend as they do
_VERTEX_BITS = 15
_VERTICES = 2**_VERTEX_BITS - 1
_INFINITY, _LONGEST = 0x7F800000, 2**33 - 2
_TILE = 32


def prim(distances: NDArray[Any]) -> NDArray[np.int64]:
    """The tree by Prim's algorithm, compiled where numba is installed (extra ``fast``).

    Args:
        distances: int64, float32 or float64 ``[n, n]``, n >= 2.

    Returns:
        int64 ``[n - 1, 2]``, ``i < j``.
    """
    return (prim_numpy if compiled(_prim_loops) is None else prim_numba)(distances)


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
    """Prim's algorithm compiled: O(n^2), about thirty times faster. Needs numba (the extra ``fast``).

    Arguments and result as for `prim`.
    """
    packed, unpack, general = compiled(_packed_loops), compiled(_unpack_loops), compiled(_prim_loops)
    if packed is None or unpack is None or general is None:
        raise missing_extra("numba", "fast", "compiled tree")
    distances = np.ascontiguousarray(distances)
    edges: NDArray[np.int64]
    if distances.dtype != np.float64 and _TILE <= len(distances) <= 2**_VERTEX_BITS:
        floats = distances.dtype == np.float32
        tree = packed(distances.view(np.int32), _INFINITY) if floats else packed(distances, _LONGEST)
        if len(tree):
            tree.sort()
            edges = unpack(tree)
            return edges
    edges, lengths = general(distances)
    return edges[np.lexsort((edges[:, 1], edges[:, 0], lengths))]


def _packed_loops(lengths: NDArray[Any], longest: int) -> NDArray[np.int64]:
    """Dense Prim on packed edges, as loops to compile; empty unless all lengths pack and both triangles are equal.

    An edge is one integer, its length before its vertices i < j, so that a minimum of integers decides ties too. A round
    reads one row and has no branch, which the compiler turns into vector instructions: it visits all vertices, and those
    in the tree have all bits set in ``closed``, which makes their edges the last.

    Args:
        lengths: int32 or int64 ``[n, n]``, n >= 32.
        longest: the longest length that packs.

    Returns:
        int64 ``[n - 1]``, edges in the order in which they joined.
    """
    n = len(lengths)
    unequal = least = greatest = lengths[0, 0] & 0
    for above in range(0, n, _TILE):
        for before in range(above, n, _TILE):
            # all tiles have one size, which the compiler unrolls; so the last ones overlap others
            top, left = min(above, n - _TILE), min(before, n - _TILE)
            for i in range(_TILE):
                for j in range(_TILE):
                    length = lengths[top + i, left + j]
                    unequal |= length ^ lengths[left + j, top + i]
                    least, greatest = min(least, length), max(greatest, length)
    if unequal != 0 or least < 0 or greatest > longest:
        return np.empty(0, np.int64)
    tree, nearest, closed, joined = np.empty(n - 1, np.int64), np.full(n, _NO_EDGE), np.zeros(n, np.int64), 0
    for count in range(n - 1):
        closed[joined] = _NO_EDGE
        row, best = lengths[joined], _NO_EDGE
        for v in range(n):
            i, j = min(v, joined), max(v, joined)
            edge = min(nearest[v], np.int64(row[v]) << 2 * _VERTEX_BITS | i << _VERTEX_BITS | j) | closed[v]
            nearest[v] = edge
            best = min(best, edge)
        tree[count] = best
        i, j = best >> _VERTEX_BITS & _VERTICES, best & _VERTICES
        joined = j if closed[i] else i
    return tree


def _unpack_loops(tree: NDArray[np.int64]) -> NDArray[np.int64]:
    edges = np.empty((len(tree), 2), np.int64)
    for k in range(len(tree)):
        edges[k, 0], edges[k, 1] = tree[k] >> _VERTEX_BITS & _VERTICES, tree[k] & _VERTICES
    return edges


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
