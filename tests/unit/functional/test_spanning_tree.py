"""Three algorithms, one tree: compared on random matrices with everything that can go wrong in them.

TOPOFACE_TREE_CASES=10000 python -m pytest tests/unit/functional/test_spanning_tree.py   compares more of them.
"""

import math
import os

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from topoface.errors import UserError
from topoface.functional import spanning_tree
from topoface.functional.compiled import compiled
from topoface.functional.persistence import h0_edges
from topoface.functional.spanning_tree import boruvka, prim_numba, prim_numpy

CASES = int(os.environ.get("TOPOFACE_TREE_CASES", "1000"))
ROADS = {
    "Prim in NumPy": prim_numpy,
    "Prim compiled": prim_numba,
    "Boruvka": lambda distances: boruvka(torch.from_numpy(distances)).numpy(),
}


def uniform(rng, n):
    return rng.random((n, n))


def many_ties(rng, n):
    return rng.integers(0, rng.choice([2, 4, 30]), (n, n)).astype(np.float64)


def half_precision(rng, n):
    return rng.random((n, n)).astype(np.float16).astype(np.float64)


def duplicates(rng, n):
    points = rng.integers(0, 3, (n, 2)).astype(np.float64)
    return np.square(points[:, None] - points).sum(-1)


def missing(rng, n):
    return np.where(
        rng.random((n, n)) < 0.3, np.copysign(np.nan, rng.normal(size=(n, n))), rng.random((n, n))
    )


def infinite(rng, n):
    return np.where(
        rng.random((n, n)) < 0.3, rng.choice([np.inf, -np.inf, np.nan], (n, n)), rng.random((n, n))
    )


def signed_zeros(rng, n):
    return rng.choice([0.0, -0.0, 1e-40, -1e-40, 1.0, -1.0], (n, n))


def constant(rng, n):
    return np.full((n, n), rng.choice([0.0, 1.0, np.nan]))


def pixels(rng, n):
    return rng.integers(0, 4, (n, n)) * 611_755_200 + rng.integers(0, 2, (n, n))


KINDS = (uniform, many_ties, half_precision, duplicates, missing, infinite, signed_zeros, constant, pixels)


def random_case(number):
    """A kind, a size from 2 to 80, a type, and whether it is symmetric (which the packed loops ask for), all drawn from the number."""
    rng = np.random.default_rng(number)
    kind = KINDS[number % len(KINDS)]
    distances = kind(rng, int(rng.integers(2, 81)))
    if rng.random() < 0.6:
        distances = mirrored(distances)
    dtype = np.int64 if kind is pixels else rng.choice([np.float32, np.float64])
    return kind.__name__, distances.astype(dtype)


def mirrored(distances):
    return np.where(np.tri(len(distances), dtype=bool), distances.T, distances)


def test_all_algorithms_return_the_same_edges():
    for number in range(CASES):
        kind, distances = random_case(number)
        first, *others = (road(distances) for road in ROADS.values())
        assert all(np.array_equal(first, other) for other in others), (number, kind)


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
def test_the_tree_spans_in_ascending_order(road):
    for number in range(90):
        kind, distances = random_case(number)
        edges = road(distances)
        n = len(distances)
        component = np.arange(n)
        for i, j in edges:
            assert i < j
            assert component[i] != component[j], (kind, "a circle")
            component[component == component[j]] = component[i]
        lengths = [
            (math.isnan(d), 0.0 if math.isnan(d) else d, i, j)
            for (i, j) in edges.tolist()
            for d in [distances[i, j]]
        ]
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("n", [30, 70])
def test_only_the_upper_triangle_matters(road, dtype, n):
    distances = (1000 * np.random.default_rng(0).random((n, n))).astype(dtype)
    below, one = distances.copy(), mirrored(distances)
    below[np.tril_indices(n)] = -1
    one[n - 1, 0] -= 1
    for other in (below, mirrored(distances), one):
        assert np.array_equal(road(distances), road(other))


def test_what_packs_is_packed_and_nothing_else():
    packed, general = compiled(spanning_tree._packed_loops), compiled(spanning_tree._prim_loops)
    used = []

    def watching(loops):
        return lambda *arguments: used.append(loops) or (packed if loops == "packed" else general)(*arguments)

    def roads(distances):
        used.clear()
        with pytest.MonkeyPatch.context() as patch:
            names = {spanning_tree._packed_loops: "packed", spanning_tree._prim_loops: "general"}
            patch.setattr(
                spanning_tree, "compiled", lambda f: watching(names[f]) if f in names else compiled(f)
            )
            assert np.array_equal(prim_numba(distances), prim_numpy(distances))
        return used == ["packed"]

    plain = mirrored(np.random.default_rng(0).integers(0, 1000, (40, 40)))
    assert roads(plain)
    assert roads(plain.astype(np.float32))
    assert roads(np.where(plain > 900, np.inf, plain).astype(np.float32))
    assert roads(plain * 5_000_000)  # above 2^32
    for length in (-1, 2**33 - 1, -(2**62), 2**62):
        assert not roads(np.where(plain % 50 == 7, length, plain))
    for length in (-0.0, -1.0, -np.inf, np.nan, -np.nan):
        assert not roads(np.where(plain % 50 == 7, length, plain).astype(np.float32))
    assert not roads(np.triu(plain))


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_equal_lengths_give_the_star(road, dtype):
    assert road(np.zeros((9, 9), dtype)).tolist() == [[0, k] for k in range(1, 9)]


def test_larger_matrices_agree_too():
    rng = np.random.default_rng(1)
    for n in (32, 33, 127, 128, 129, 300):
        for distances in (mirrored(rng.random((n, n), np.float32)), mirrored(rng.integers(0, 50, (n, n)))):
            assert np.array_equal(prim_numba(distances), ROADS["Boruvka"](distances)), n


def test_half_types_are_ranked_as_they_are():
    distances = torch.rand(40, 40, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.bfloat16):
        rounded = distances.to(dtype)
        assert torch.equal(boruvka(rounded), h0_edges(rounded))


def test_boruvka_is_traced_without_reading_a_value():
    """Fake tensors have no values: a shape or branch that depended on one would raise."""
    with FakeTensorMode():
        for n in (2, 3, 128):
            for dtype in (torch.float32, torch.float64, torch.int64):
                assert boruvka(torch.empty(n, n, dtype=dtype)).shape == (n - 1, 2)
    distances = torch.rand(50, 50, generator=torch.Generator().manual_seed(1))
    traced = make_fx(boruvka, tracing_mode="fake")(distances)
    other = torch.rand(50, 50, generator=torch.Generator().manual_seed(2))
    assert torch.equal(traced(other), boruvka(other)), "the trace holds for other values"


def test_too_many_points_are_refused_rather_than_packed_wrongly():
    with FakeTensorMode(), pytest.raises(ValueError, match="46340"):
        boruvka(torch.empty(46341, 46341))


def test_without_numba_the_numpy_tree_serves(monkeypatch):
    distances = torch.rand(20, 20, generator=torch.Generator().manual_seed(3))
    expected = h0_edges(distances)
    monkeypatch.setattr(spanning_tree, "compiled", lambda loops: None)
    assert torch.equal(h0_edges(distances), expected)
    with pytest.raises(UserError, match=r"topoface\[fast\]"):
        prim_numba(distances.numpy())
