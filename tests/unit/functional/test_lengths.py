"""Lengths of edges and their gaps: loops and tensor operations agree, with their gradient, whatever the points."""

import math
from itertools import product

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from topoface.functional import lengths
from topoface.functional.distances import unit_factors
from topoface.functional.lengths import edge_lengths, gap_loss, matrix_lengths, sum_of_gaps

EDGES = torch.tensor([[0, 1], [1, 2], [0, 1], [4, 5], [5, 0]])
UNITS = (1.0, 2.0, (0, 3), (2, 5), (4, 5))
WAYS = list(product((False, True), (1, 2)))  # ranked, power


@pytest.fixture(params=["compiled", "tensors"])
def road(request, monkeypatch):
    if request.param == "tensors":
        without_numba(monkeypatch)


def without_numba(monkeypatch):
    monkeypatch.setattr(lengths, "compiled", lambda *loops: None)


def cloud(n=6, width=3, dtype=torch.float64, seed=0):
    return torch.randn(n, width, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def matrix(points):
    return torch.cdist(points, points)


def factors_of(points, directions):
    return unit_factors(points) if directions else None


def measured(points, edges, directions, unit):
    return edge_lengths(points, edges, factors=factors_of(points, directions), unit=unit)


def loss_of(points, edges, directions, **options):
    """The gaps to no lengths at all: those between the points are what is summed."""
    return gap_loss(
        torch.zeros(len(points), len(points)),
        points,
        (edges, edges),
        factors=factors_of(points, directions),
        **options,
    )


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("directions", [False, True])
def test_gradcheck_of_the_lengths_with_repeated_edges(directions, unit):
    assert torch.autograd.gradcheck(lambda p: measured(p, EDGES, directions, unit), cloud().requires_grad_())


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize(("ranked", "power"), WAYS)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("directions", [False, True])
def test_gradcheck_of_the_gaps_with_repeated_edges(directions, unit, ranked, power):
    source, other = matrix(cloud(seed=1)), torch.tensor([[3, 2], [0, 5], [1, 4], [4, 2], [2, 0]])

    def loss(points):
        return gap_loss(
            source,
            points,
            (other, EDGES),
            factors=factors_of(points, directions),
            units=((1, 4), unit),
            ranked=ranked,
            power=power,
            divisor=3.0,
        )

    assert torch.autograd.gradcheck(loss, cloud().requires_grad_())


@pytest.mark.usefixtures("road")
def test_gaps_by_hand():
    points = torch.tensor([[0.0, 0], [3, 4], [3, 5]], requires_grad=True)
    source = torch.tensor([[0.0, 2, 9], [0, 0, 7], [0, 0, 0]])
    edges = torch.tensor([[0, 1], [1, 2]])  # lengths 2 and 7 in the matrix, 5 and 1 between the points
    results = {
        (ranked, power): gap_loss(source, points, (edges, edges), ranked=ranked, power=power).item()
        for ranked, power in WAYS
    }
    assert results == {(False, 2): 45, (False, 1): 9, (True, 2): 5, (True, 1): 3}
    loss = gap_loss(source, points, (edges, edges), units=(1.0, 2.0), power=1, divisor=2.0)
    assert loss.item() == (0.5 + 6.5) / 2
    loss.backward()
    torch.testing.assert_close(points.grad, torch.tensor([[-0.15, -0.2], [0.15, 0.45], [0, -0.25]]))


def test_ranked_gaps_compare_the_sorted_lists():
    a, b = torch.tensor([3.0, 1, 2]), torch.tensor([1.0, 5, 2])
    assert sum_of_gaps(a, b, ranked=True) == 4
    assert sum_of_gaps(a, b, ranked=False) == 4 + 16
    assert sum_of_gaps(a, b, ranked=True, power=1) == 2


def test_edges_of_length_zero_have_gradient_zero_and_nan_stays():
    points = torch.tensor([[1.0, 2], [1, 2], [4, 6], [math.nan, 0]], requires_grad=True)
    found = edge_lengths(points, torch.tensor([[0, 1], [1, 2], [2, 3]]))
    assert found[:2].tolist() == [0, 5]
    found.sum().backward()
    assert points.grad[0].tolist() == [0, 0]
    assert points.grad[1] == pytest.approx(torch.tensor([-0.6, -0.8]))
    assert points.grad[3].isnan().all()


@pytest.mark.usefixtures("road")
def test_gaps_of_edges_of_length_zero_pull_nothing_and_nan_stays():
    points = torch.tensor([[1.0, 2], [1, 2], [4, 6], [math.nan, 0]], requires_grad=True)
    loss_of(points, torch.tensor([[0, 1], [1, 2]]), False, power=1).backward()
    assert points.grad[0].tolist() == [0, 0]
    torch.testing.assert_close(points.grad[1], torch.tensor([-0.6, -0.8]))
    points.grad = None
    loss = loss_of(points, torch.tensor([[0, 1], [2, 3]]), False)
    loss.backward()
    assert loss.isnan()
    assert points.grad[2:].isnan().all()


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_directions_are_at_length_zero_exactly(dtype):
    point = cloud(1, 40, dtype)
    points = torch.cat([point, point, 4 * point]).requires_grad_()
    edges = torch.tensor([[0, 1], [1, 2]])
    assert not measured(points, edges, True, (0, 2)).any()
    found = loss_of(points, edges, True, units=(1.0, (0, 2)))
    found.backward()
    assert found == 0
    assert not points.grad.any()


@pytest.mark.usefixtures("road")
def test_a_point_at_zero_has_no_direction_and_passes_its_gradient_unscaled():
    points = torch.tensor([[0.0, 0], [3, 4]], requires_grad=True)
    edges = torch.tensor([[0, 1]])
    assert measured(points, edges, True, 1.0).tolist() == [1]
    loss_of(points, edges, True, power=1).backward()
    torch.testing.assert_close(points.grad, torch.tensor([[-0.6, -0.8], [0, 0]]))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("unit", [1.0, 2.0, (0, 127), (127, 254)])
@pytest.mark.parametrize("directions", [False, True])
@pytest.mark.parametrize("kind", ["plain", "duplicates", "not contiguous", "no edges", "tiny", "offset"])
def test_loops_equal_tensor_operations(kind, directions, unit, dtype, tolerance, monkeypatch):
    points, other = cloud(128, 70, dtype), cloud(128, 9, seed=1)
    edges, along = torch.randint(0, 128, (2, 254, 2), generator=torch.Generator().manual_seed(1))
    if kind == "duplicates":
        points[20:90] = points[0]
        points[100:] = 0
    elif kind == "not contiguous":
        points, edges, other = cloud(70, 128, dtype).T, edges.T.contiguous().T, other.T.contiguous().T
    elif kind == "no edges":
        edges, along, unit = edges[:0], along[:0], 1.0
    elif kind == "tiny":
        points, other = 1e-12 * points, 1e-12 * other
    elif kind == "offset":
        points += 3
    tied = (
        kind == "duplicates" and directions
    )  # of edges from 0 to a unit length rounding says which is longer
    for ranked, power in WAYS[:2] if tied else WAYS:
        results = []
        with monkeypatch.context() as patch:
            for _ in ("loops", "tensors"):
                leaf = points.detach().clone().requires_grad_()
                found = gap_loss(
                    matrix(other),
                    leaf,
                    (along, edges),
                    factors=factors_of(leaf, directions),
                    units=((0, 127) if kind != "no edges" else 1.0, unit),
                    ranked=ranked,
                    power=power,
                    divisor=254,
                )
                (gradient,) = torch.autograd.grad(found, leaf)
                results.append((found.detach(), gradient))
                without_numba(patch)
        (found, gradient), (expected, slope) = results
        assert found.dtype == gradient.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=4 * tolerance, atol=0)
        torch.testing.assert_close(
            gradient, slope, rtol=0, atol=10 * tolerance * float(slope.abs().max().nan_to_num())
        )


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
    wrong, right, source = torch.tensor([edge]), EDGES[:1], torch.zeros(6, 6)
    for edges in ((wrong, right), (right, wrong)):
        with pytest.raises(IndexError):
            gap_loss(source, cloud(), edges)
    with pytest.raises(IndexError):
        edge_lengths(cloud(), wrong)
    with pytest.raises(IndexError):
        matrix_lengths(source, wrong, like=cloud())


@pytest.mark.usefixtures("road")
def test_the_graph_may_be_kept_and_points_changed_in_place_are_noticed():
    points = cloud().requires_grad_()
    moved = points * 1
    loss = loss_of(moved, EDGES, True)
    first, again = (torch.autograd.grad(loss, points, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    with torch.no_grad():
        moved += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_fake_tensors_never_reach_the_loops():
    with FakeTensorMode():
        points, edges = torch.empty(6, 3, requires_grad=True), torch.empty(5, 2, dtype=torch.int64)
        found = loss_of(points, edges, True, units=((0, 3), (0, 3)))
        found.backward()
        assert found.shape == ()
