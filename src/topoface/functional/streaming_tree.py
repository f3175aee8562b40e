"""The H0 tree of more points than a matrix of all distances could hold: block by block, and still exact.

An edge that is not in the tree of a part of a graph is not in the tree of the whole (the cycle property). So the
points are cut into blocks, each pair of blocks keeps only the tree of its own distances, and the tree of what was
kept is the tree of all. (Prim with a row of distances for each point that joins needs as little memory, but reads
all points once a row; here the work is matrix products.)
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.functional.distances import int8_product_is_exact, pixel_squared_distances
from topoface.functional.persistence import h0_edges

Between = Callable[[slice, slice], Tensor]

# |x - 128| <= 2^7, so 1024 products sum to at most 2^24, which float32 holds; and 2^17 of them to 2^31.
_EXACT_COLUMNS, _INT32_COLUMNS = 1024, 2**17 - 1


def blockwise_tree(n: int, between: Between, *, block: int = 1024) -> tuple[Tensor, Tensor]:
    """The tree of n points whose distances are made when they are needed, each once.

    O(n^2) distances and O(block^2 + n^2 / block) memory: 0.3 GB instead of 80 for 100,000 points.

    Args:
        n: points.
        between: called with two ranges of points, the same one twice or two of which the first lies lower, gives
            the distances ``[p, q]`` of the one to the other, or any increasing function of them: int64 or floating,
            finite.
        block: points in a range.

    Returns:
        int64 ``[n - 1, 2]``, ``i < j``, ascending by (distance, i, j): what `h0_edges` gives for the whole matrix;
        and ``[n - 1]``, what ``between`` gave for these edges.
    """
    if n <= 1:
        return torch.empty(0, 2, dtype=torch.int64), torch.empty(0)
    kept = list(_trees_of_parts(n, between, block))
    if len(kept) == 1:
        return kept[0]
    edges, keys = (torch.cat(parts) for parts in zip(*kept, strict=True))
    order = _kruskal(n, edges.numpy(), keys.numpy())
    return edges[order], keys[order]


def pixel_tree(images: Tensor, *, block: int = 1024) -> tuple[Tensor, Tensor]:
    """The tree of any number of images under their exact pixel distances.

    n^2 D / 2 multiply-adds of 8-bit integers: 10,000 faces take seconds.

    Args:
        images: uint8 ``[n, ...]`` on the CPU.
        block: images whose distances are held at a time.

    Returns:
        int64 ``[n - 1, 2]`` as `h0_edges`, and int64 ``[n - 1]``, squared distances in grey levels.
    """
    pixels = images.flatten(1)
    squares = (
        torch.cat([_squares(_centred(part)) for part in torch.split(pixels, block)])
        if len(pixels)
        else pixels
    )

    def between(a: slice, b: slice) -> Tensor:
        if a == b:
            return pixel_squared_distances(pixels[a])
        products = _products(_centred(pixels[a]), _centred(pixels[b]))
        return squares[a, None] + squares[b] - 2 * products

    return blockwise_tree(len(images), between, block=block)


def _trees_of_parts(n: int, between: Between, block: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The tree of each block, then of each pair of blocks what joins the two; edges in the numbers of all points."""
    ranges = [slice(start, min(start + block, n)) for start in range(0, n, block)]
    own = []
    for part in ranges:
        distances = between(part, part)
        edges = h0_edges(distances)
        keys = distances[edges[:, 0], edges[:, 1]]
        own.append((edges, keys))
        yield edges + part.start, keys
    for later, b in enumerate(ranges):
        for earlier, a in enumerate(ranges[:later]):
            cross = between(a, b)
            p, q = cross.shape
            never = torch.inf if cross.is_floating_point() else torch.iinfo(cross.dtype).max
            # of the blocks' own edges only their trees can matter: the rest is not worked out again
            pair = cross.new_full((p + q, p + q), never)
            pair[:p, p:] = cross
            for (edges, keys), shift in ((own[earlier], 0), (own[later], p)):
                pair[edges[:, 0] + shift, edges[:, 1] + shift] = keys
            i, j = h0_edges(pair).unbind(1)
            crossing = (i < p) & (j >= p)
            i, j = i[crossing], j[crossing] - p
            yield torch.stack([i + a.start, j + b.start], dim=1), cross[i, j]


def _kruskal(n: int, edges: NDArray[np.int64], keys: NDArray[np.generic]) -> list[int]:
    """Which of the edges ``[m, 2]`` make the tree, in its order. They connect all n points."""
    component = list(range(n))

    def root(v: int) -> int:
        while component[v] != v:
            component[v] = component[component[v]]
            v = component[v]
        return v

    tree: list[int] = []
    for edge in np.lexsort((edges[:, 1], edges[:, 0], keys)).tolist():
        i, j = root(int(edges[edge, 0])), root(int(edges[edge, 1]))
        if i != j:
            component[j] = i
            tree.append(edge)
            if len(tree) == n - 1:
                break
    return tree


def _centred(pixels: Tensor) -> Tensor:
    return (pixels ^ 0x80).view(torch.int8)  # x - 128 in two's complement


def _squares(centred: Tensor) -> Tensor:
    """int64 ``[n]``: the exact squared lengths of int8 rows."""
    parts = [part.float().square().sum(1).long() for part in torch.split(centred, _EXACT_COLUMNS, dim=1)]
    return torch.stack(parts).sum(0)


def _products(left: Tensor, right: Tensor) -> Tensor:
    """int64 ``[p, q]``: the exact products of int8 rows."""
    # sides of 1 give garbage on a CPU (pytorch issue 195066)
    if min(*left.shape, len(right)) > 1 and left.shape[1] <= _INT32_COLUMNS and int8_product_is_exact("cpu"):
        return torch._int_mm(left, right.T).long()
    total = torch.zeros(len(left), len(right), dtype=torch.int64)
    for a, b in zip(*(torch.split(side, _EXACT_COLUMNS, dim=1) for side in (left, right)), strict=True):
        total += (a.float() @ b.float().T).long()
    return total
