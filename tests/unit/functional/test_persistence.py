"""H0 persistence: the tree is unique and the same by every road; its lengths differentiate."""

import math

import gudhi
import numpy as np
import pytest
import scipy.sparse.csgraph
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.oracles import topology as oracle
from topoface.functional.persistence import (
    bottleneck_distance,
    h0_deaths,
    h0_edges,
    tree_overlap,
)
from topoface.functional.spanning_tree import boruvka, prim_numba, prim_numpy

LINE = torch.tensor([0.0, 1, 3, 7], dtype=torch.float64)[:, None]


def matrix(points):
    points = torch.as_tensor(points, dtype=torch.float64)
    return (points[:, None] - points).norm(dim=-1)


@st.composite
def matrices(draw, smallest=2, largest=9):
    """Symmetric matrices of few different values (so with many ties), or of arbitrary ones, some NaN or infinite."""
    n = draw(st.integers(smallest, largest))
    values = draw(
        st.sampled_from(
            [
                st.sampled_from([0.0, -0.0, 1.0, 2.0]),
                st.floats(0, 1e300),
                st.sampled_from([0.0, 1.0, math.inf, math.nan]),
            ]
        )
    )
    full = draw(hnp.arrays(np.float64, (n, n), elements=values))
    upper = np.triu(full, 1)
    return np.where(np.tri(n, dtype=bool), upper.T, upper)


@settings(deadline=None, max_examples=300)
@given(matrices())
def test_every_road_gives_the_tree_of_kruskal(distances):
    expected = oracle.kruskal(distances)
    for tree in (prim_numpy(distances), prim_numba(distances), boruvka(torch.from_numpy(distances)).tolist()):
        assert [tuple(edge) for edge in tree] == expected
    assert [tuple(e) for e in h0_edges(torch.from_numpy(distances)).tolist()] == expected


@settings(deadline=None, max_examples=60)
@given(matrices(largest=5).filter(lambda m: np.isfinite(m).all() and m.max() < 1e6))
def test_the_tree_is_the_least_of_all_trees(distances):
    distances = np.round(distances)  # sums stay exact, so equal totals are equal
    assert [tuple(e) for e in h0_edges(torch.from_numpy(distances)).tolist()] == oracle.smallest_tree(
        distances
    )


def test_equal_distances_give_the_star():
    star = [[0, k] for k in range(1, 9)]
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.float16, torch.float32, torch.float64):
        assert h0_edges(torch.zeros(9, 9, dtype=dtype)).tolist() == star


def test_integers_beyond_float64_are_told_apart():
    distances = torch.full((3, 3), 2**60)
    distances[0, 1] += 1
    assert h0_edges(distances).tolist() == [[0, 2], [1, 2]]


def test_a_point_at_nan_is_attached_last():
    distances = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    distances[3], distances[:, 3] = math.nan, math.nan
    edges = h0_edges(distances).tolist()
    assert edges[-1] == [0, 3]
    assert oracle.spans([tuple(e) for e in edges], 8)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_points_have_no_edges(n):
    assert h0_edges(torch.zeros(n, n)).shape == (0, 2)
    assert h0_edges(torch.zeros(n, n)).dtype == torch.int64
    assert h0_deaths(torch.zeros(n, n)).shape == (0,)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (2, 3, 3)])
def test_what_is_no_square_matrix_is_refused_with_its_shape(shape):
    with pytest.raises(ValueError, match=r"\[n, n\].*" + r", ".join(map(str, shape))):
        h0_edges(torch.zeros(shape))


def test_the_rectangle_has_the_tree_of_the_specification():
    assert h0_edges(matrix([(0, 0), (3, 0), (3, 4), (0, 4)])).tolist() == [[0, 1], [2, 3], [0, 3]]


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float64, (12, 3), elements=st.floats(-10, 10, width=32)), st.permutations(range(12)))
def test_deaths_do_not_depend_on_the_order_of_the_points(points, order):
    distances = matrix(points)
    permuted = distances[order][:, order]
    assert torch.equal(h0_deaths(permuted), h0_deaths(distances))


def test_deaths_scale_with_the_points_and_ignore_isometries():
    rng = np.random.default_rng(1)
    points = rng.standard_normal((40, 5))
    rotation, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    deaths = h0_deaths(matrix(points))
    torch.testing.assert_close(h0_deaths(matrix(3 * points)), 3 * deaths)
    torch.testing.assert_close(h0_deaths(matrix(points @ rotation + 7)), deaths)


def test_squared_distances_give_the_same_tree():
    distances = matrix(np.random.default_rng(2).standard_normal((50, 4)))
    assert torch.equal(h0_edges(distances), h0_edges(distances.square()))


def test_deaths_equal_those_of_gudhi():
    distances = matrix(np.random.default_rng(3).standard_normal((60, 4)))
    distances[7], distances[:, 7] = distances[3], distances[:, 3]  # one duplicate: a bar of length zero
    distances[3, 7] = distances[7, 3] = distances[7, 7] = 0
    simplices = gudhi.RipsComplex(distance_matrix=distances.numpy()).create_simplex_tree(max_dimension=1)
    bars = simplices.persistence(homology_coeff_field=2, min_persistence=-1)
    deaths = sorted(death for dimension, (_, death) in bars if dimension == 0 and death < math.inf)
    assert len(deaths) == 59
    np.testing.assert_allclose(h0_deaths(distances).numpy(), deaths, rtol=1e-7)


def test_total_length_equals_that_of_scipy():
    for seed in range(20):
        distances = matrix(np.random.default_rng(seed).integers(0, 4, (30, 3)))
        keys = np.triu(distances.numpy() + 1, 1)  # scipy takes 0 for "no edge"
        total = scipy.sparse.csgraph.minimum_spanning_tree(keys).sum()
        assert float(h0_deaths(distances).sum()) + 29 == pytest.approx(total, abs=1e-9)


def test_the_gradient_of_the_deaths_is_one_at_the_edges():
    distances = matrix(LINE).requires_grad_()
    h0_deaths(distances).sum().backward()
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[[0, 1, 2], [1, 2, 3]] = 1
    assert torch.equal(distances.grad, expected)


def test_bottleneck_examples():
    assert bottleneck_distance(torch.tensor([1.0, 2, 4]), torch.tensor([1.0, 2, 3])) == 1
    assert bottleneck_distance(torch.tensor([1.0, 2, 4]), torch.tensor([0.4, 0.1, 0.2])) == 2
    assert bottleneck_distance(torch.zeros(0), torch.zeros(0)) == 0
    with pytest.raises(ValueError, match="equally many"):
        bottleneck_distance(torch.zeros(2), torch.zeros(3))


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 4).flatmap(
        lambda m: st.lists(st.lists(st.floats(0, 9), min_size=m, max_size=m), min_size=2, max_size=2)
    )
)
def test_bottleneck_equals_the_search_over_matchings(deaths):
    a, b = deaths
    found = bottleneck_distance(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    assert float(found) == pytest.approx(oracle.bottleneck_by_search(a, b), abs=1e-12)


def test_bottleneck_has_a_finite_gradient():
    a = torch.tensor([1.0, 2, 8], requires_grad=True)
    bottleneck_distance(a, torch.tensor([1.0, 2, 5])).backward()
    assert a.grad.tolist() == [0, 0, 1]  # |8 - 5| is less than dropping all, 8 / 2


def test_overlap_counts_common_edges():
    a = torch.tensor([[0, 1], [1, 2], [2, 3]])
    assert tree_overlap(a, a.flip(0), 4) == 1
    assert tree_overlap(a, torch.tensor([[0, 1], [0, 2], [0, 3]]), 4) == pytest.approx(1 / 3)
    assert tree_overlap(a[:0], a[:0], 1) == 1
