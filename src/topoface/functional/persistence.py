"""H0 persistence: the minimum spanning tree, its edge lengths, and distances of diagrams.

Components of a growing Vietoris-Rips complex merge exactly at the edges that Kruskal's algorithm adds, so
the finite H0 deaths are the edge lengths of the minimum spanning tree (topological autoencoders, arXiv
1906.00722). The tree is unique under the order (length, i, j), i < j, with NaN after everything else.
"""

import torch
from torch import Tensor

from topoface.functional.spanning_tree import boruvka, prim


def h0_edges(distances: Tensor) -> Tensor:
    """The persistence pairing of H0: the edges of the minimum spanning tree.

    Any increasing function of the distances gives the same tree, so squared distances and exact integers serve.
    On the CPU Prim's algorithm, O(n^2) time, compiled where numba is there; on an accelerator Boruvka's,
    O(n^2 log n) in a fixed number of kernels that the host never waits for.

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
    if distances.device.type != "cpu":
        return boruvka(distances.detach())
    wide = torch.float32 if distances.is_floating_point() else torch.int64
    keys = distances.detach().to(torch.promote_types(distances.dtype, wide))
    return torch.from_numpy(prim(keys.numpy()))


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
