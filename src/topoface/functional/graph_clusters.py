"""Clusters found without labels: samples linked to their nearest neighbours above a cosine, and what hangs together.

The second reading of "clustering" in JLCC (arXiv 2312.04029), section 4.5 of our reconstruction; for audits, since the cosine has to fit.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Integers = NDArray[np.int64]
_BLOCK = 2**22  # cosines at a time


@dataclass(frozen=True, kw_only=True)
class Links:
    """Each sample's nearest neighbours.

    Attributes:
        pairs: int64 ``[m, 2]``, a sample and one of its neighbours.
        cosines: float64 ``[m]``, falling.
    """

    pairs: Integers
    cosines: NDArray[np.float64]


@torch.no_grad()
def nearest_links(rows: Tensor, count: int) -> Links:
    """The exact ``count`` nearest neighbours of each of the unit rows ``[n, D]``: O(n^2 D) time, O(n count) memory."""
    n = len(rows)
    count = min(count, n - 1)
    found, near = [], []
    for start in range(0, n, max(1, _BLOCK // max(n, 1))):
        cosines = rows[start : start + max(1, _BLOCK // n)] @ rows.T
        cosines.diagonal(start).fill_(-torch.inf)  # oneself
        top = cosines.topk(count, dim=1)
        found.append(top.values)
        near.append(top.indices)
    cosine = torch.cat(found).double().flatten().numpy() if found else np.zeros(0)
    other = torch.cat(near).flatten().numpy() if near else np.zeros(0, np.int64)
    pairs = np.stack([np.repeat(np.arange(n), count), other], 1)
    order = np.argsort(-cosine, kind="stable")
    return Links(pairs=pairs[order], cosines=cosine[order])


def components(pairs: Integers, start: Integers) -> Integers:
    """Connected components ``[n]`` by union-find, each named by its lowest sample, whatever the order of the pairs.

    Args:
        pairs: int64 ``[m, 2]``, what is linked.
        start: int64 ``[n]``, components found so far, each named by its lowest; ``arange(n)`` for none.
    """
    root = start.copy()
    while True:
        one, two = root[pairs[:, 0]], root[pairs[:, 1]]
        apart = one != two
        if not apart.any():
            return root
        pairs, low, high = pairs[apart], np.minimum(one, two)[apart], np.maximum(one, two)[apart]
        np.minimum.at(root, high, low)
        while not np.array_equal(further := root[root], root):
            root = further


def graph_clusters(links: Links, cosines: NDArray[np.float64], samples: int) -> list[Integers]:
    """Clusters ``[samples]`` of the links above each of the falling ``cosines``."""
    found, root = [], np.arange(samples, dtype=np.int64)
    for least in cosines:
        many = int(np.searchsorted(-links.cosines, -least, side="left"))
        root = components(links.pairs[:many], root)
        found.append(root)
    return found
