"""Lengths of edges: loops and tensor operations agree, with their gradient, whatever the points."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from topoface.functional import lengths
from topoface.functional.distances import unit_factors
from topoface.functional.lengths import edge_lengths, matrix_lengths

EDGES = torch.tensor([[0, 1], [1, 2], [0, 1], [4, 5], [5, 0]])
UNITS = (None, (0, 3), (2, 5), (4, 5))


@pytest.fixture(params=["compiled", "tensors"])
def road(request, monkeypatch):
    if request.param == "tensors":
        without_numba(monkeypatch)


def without_numba(monkeypatch):
    monkeypatch.setattr(lengths, "compiled", lambda *loops: None)


def cloud(n=6, width=3, dtype=torch.float64):
    return torch.randn(n, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


def measured(points, edges, directions, unit):
    return edge_lengths(points, edges, factors=unit_factors(points) if directions else None, unit=unit)


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("directions", [False, True])
def test_gradcheck_with_repeated_edges(directions, unit):
    assert torch.autograd.gradcheck(lambda p: measured(p, EDGES, directions, unit), cloud().requires_grad_())


@pytest.mark.usefixtures("road")
def test_edges_of_length_zero_have_gradient_zero_and_nan_stays():
    points = torch.tensor([[1.0, 2], [1, 2], [4, 6], [math.nan, 0]], requires_grad=True)
    found = edge_lengths(points, torch.tensor([[0, 1], [1, 2], [2, 3]]))
    assert found[:2].tolist() == [0, 5]
    found.sum().backward()
    assert points.grad[0].tolist() == [0, 0]
    assert points.grad[1] == pytest.approx(torch.tensor([-0.6, -0.8]))
    assert points.grad[3].isnan().all()


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_directions_are_at_length_zero_exactly(dtype):
    point = cloud(1, 40, dtype)
    points = torch.cat([point, point, 4 * point]).requires_grad_()
    found = measured(points, torch.tensor([[0, 1], [1, 2]]), True, (0, 2))
    found.sum().backward()
    assert not found.any()
    assert not points.grad.any()


@pytest.mark.usefixtures("road")
def test_a_point_at_zero_has_no_direction_and_passes_its_gradient_unscaled():
    points = torch.tensor([[0.0, 0], [3, 4]], requires_grad=True)
    found = measured(points, torch.tensor([[0, 1]]), True, None)
    assert found.tolist() == [1]
    found.backward()
    torch.testing.assert_close(points.grad, torch.tensor([[-0.6, -0.8], [0, 0]]))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("unit", [None, (0, 127), (127, 254)])
@pytest.mark.parametrize("directions", [False, True])
@pytest.mark.parametrize("kind", ["plain", "duplicates", "not contiguous", "no edges", "tiny", "offset"])
def test_loops_equal_tensor_operations(kind, directions, unit, dtype, tolerance, monkeypatch):
    points = cloud(128, 70, dtype)
    edges = torch.randint(0, 128, (254, 2), generator=torch.Generator().manual_seed(1))
    if kind == "duplicates":
        points[20:90] = points[0]
        points[100:] = 0
    elif kind == "not contiguous":
        points, edges = cloud(70, 128, dtype).T, edges.T.contiguous().T
    elif kind == "no edges":
        edges, unit = edges[:0], unit and (0, 0)
    elif kind == "tiny":
        points *= 1e-12
    elif kind == "offset":
        points += 3
    results = []
    for _ in ("loops", "tensors"):
        leaf = points.detach().clone().requires_grad_()
        found = measured(leaf, edges, directions, None if kind == "no edges" else unit)
        slope = torch.linspace(-1, 2, len(edges), dtype=dtype)
        (gradient,) = torch.autograd.grad(found @ slope, leaf)
        results.append((found.detach(), gradient))
        without_numba(monkeypatch)
    (found, gradient), (expected, slope) = results
    assert found.dtype == gradient.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=10 * tolerance * float(slope.abs().max()))


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_a_matrix_is_read_at_the_edges(dtype):
    distances = torch.arange(36).reshape(6, 6).to(dtype)
    like = torch.zeros(1, dtype=torch.float64)
    found = matrix_lengths(distances, EDGES, like=like)
    assert found.dtype == torch.float64
    assert found.tolist() == [1, 8, 1, 29, 30]
    assert matrix_lengths(distances.T, EDGES, like=like).tolist() == [6, 13, 6, 34, 5]
    scaled = matrix_lengths(distances, EDGES, like=like, unit=(1, 3))
    torch.testing.assert_close(scaled, found / 4.5, rtol=1e-15, atol=0)
    assert not matrix_lengths(torch.zeros(6, 6), EDGES, like=like, unit=(1, 3)).any()


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("edge", [[0, 6], [7, 1]])
def test_an_edge_without_its_points_is_refused_and_nothing_else_is_read(edge):
    with pytest.raises(IndexError):
        edge_lengths(cloud(), torch.tensor([edge]))
    with pytest.raises(IndexError):
        matrix_lengths(torch.zeros(6, 6), torch.tensor([edge]), like=cloud())


def test_fake_tensors_never_reach_the_loops():
    with FakeTensorMode():
        points, edges = torch.empty(6, 3, requires_grad=True), torch.empty(5, 2, dtype=torch.int64)
        found = measured(points, edges, True, (0, 3))
        found.sum().backward()
        assert found.shape == (5,)
        assert matrix_lengths(torch.empty(6, 6), edges, like=points, unit=(0, 3)).shape == (5,)
