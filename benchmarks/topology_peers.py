"""Other libraries' H0 of a float32 distance matrix, for `benchmarks/topology.py`: none is a dependency of topoface.

Each is called as its documentation has it and, where a faster call gives the same lengths, so too: the two are named.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.measuring import installed
from numpy.typing import NDArray

Lengths = Callable[[NDArray[np.float32]], NDArray[Any]]


def peers() -> dict[str, Lengths]:
    """Those installed: a symmetric ``[n, n]`` in, n - 1 tree lengths out, in any order."""
    found: dict[str, Lengths] = {}
    if installed("scipy"):
        found |= scipy_ways()
    if installed("ripser"):
        from ripser import ripser

        found["ripser.py"] = lambda d: ripser(d, distance_matrix=True, maxdim=0)["dgms"][0][:-1, 1]
    if installed("gudhi"):
        found |= gudhi_ways()
    return found


def scipy_ways() -> dict[str, Lengths]:
    from scipy.cluster.hierarchy import linkage
    from scipy.sparse.csgraph import minimum_spanning_tree
    from scipy.spatial.distance import squareform

    return {
        "scipy minimum_spanning_tree": lambda d: minimum_spanning_tree(d).data,
        "scipy minimum_spanning_tree, fastest: upper half": lambda d: minimum_spanning_tree(np.triu(d)).data,
        "scipy linkage": lambda d: linkage(squareform(d, checks=False), "single")[:, 2],
    }


def gudhi_ways() -> dict[str, Lengths]:
    import gudhi

    def rips(d: NDArray[np.float32]) -> NDArray[np.float64]:
        tree = gudhi.RipsComplex(distance_matrix=d).create_simplex_tree(max_dimension=1)
        tree.compute_persistence(min_persistence=-1)
        return tree.persistence_intervals_in_dimension(0)[:-1, 1]

    found: dict[str, Lengths] = {"GUDHI RipsComplex": rips}
    if installed("sklearn") and importlib.util.find_spec("gudhi.sklearn.rips_persistence"):
        from gudhi.sklearn.rips_persistence import RipsPersistence

        engine = RipsPersistence(homology_dimensions=0, input_type="full distance matrix")
        found["GUDHI, fastest: RipsPersistence"] = lambda d: np.sort(engine.fit_transform([d])[0][:, 1])[
            : len(d) - 1
        ]
    return found
