"""Lengths of edges in a matrix and between points, and how far the two are apart, with the gradient in closed form.

Compiled on the CPU: the gaps are one node of the graph, no step between two points is kept, and a direction is made where it is read.
"""

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from topoface.functional.compiled import compiled, in_memory
from topoface.functional.directions import unit_rows

Unit = float | tuple[int, int]
"""What lengths are divided by: a length, or the mean length of the edges from start to stop, unless it is 0."""

_Values = TypeVar("_Values", Tensor, NDArray[Any])


def gap_loss(
    distances: Tensor,
    points: Tensor,
    edges: tuple[Tensor, Tensor],
    *,
    factors: Tensor | None = None,
    units: tuple[Unit, Unit] = (1.0, 1.0),
    ranked: bool = False,
    power: int = 2,
    divisor: float = 1.0,
) -> Tensor:
    """`sum_of_gaps` between lengths in a matrix and lengths between points, with its gradient to the points.

    Args:
        distances: ``[n, n]``, no gradient.
        points: float ``[n, D]``.
        edges: int64 ``[m, 2]`` to measure in the matrix, and as many to measure between the points.
        factors: as for `edge_lengths`.
        units: as there, of the lengths in the matrix and of those between the points.
        ranked: as for `sum_of_gaps`.
        power: likewise.
        divisor: of the sum.

    Returns:
        Scalar of the type of the points.

    Raises:
        IndexError: if an edge has an end outside of the matrix.
    """
    if compiled(_gap_loops, _scale_loops) is not None and in_memory(distances, points, *edges):
        loss: Tensor = _CompiledGaps.apply(  # type: ignore[no-untyped-call]
            points, factors, distances, *edges, units, ranked, power, divisor
        )
        return loss
    a = matrix_lengths(distances, edges[0], like=points, unit=units[0])
    b = edge_lengths(points, edges[1], factors=factors, unit=units[1])
    return sum_of_gaps(a, b, ranked=ranked, power=power) / divisor


def sum_of_gaps(a: Tensor, b: Tensor, *, ranked: bool = False, power: int = 2) -> Tensor:
    """Sum of ``|b - a|`` to the ``power`` 1 or 2 over lengths ``[m]``, the shortest compared with the shortest if ``ranked``."""
    gaps = _ranked(b)[0] - _ranked(a)[0] if ranked else b - a
    return gaps @ gaps if power == 2 else gaps.abs().sum()


def matrix_lengths(distances: Tensor, edges: Tensor, *, like: Tensor, unit: Unit = 1.0) -> Tensor:
    """Lengths of edges as a matrix has them; no gradient.

    Args:
        distances: ``[n, n]``.
        edges: int64 ``[m, 2]``.
        like: a tensor of the type wanted.
        unit: as for `edge_lengths`.

    Returns:
        ``[m]``.

    Raises:
        IndexError: if an edge has an end outside of the matrix.
    """
    i, j = edges.unbind(1)
    return _in_unit(distances.detach()[i, j].to(like.dtype), unit)


def edge_lengths(points: Tensor, edges: Tensor, *, factors: Tensor | None = None, unit: Unit = 1.0) -> Tensor:
    """Euclidean lengths of edges, with a backward of O(m D) instead of O(n^2 D).

    Args:
        points: float ``[n, D]``.
        edges: int64 ``[m, 2]``, repeats allowed.
        factors: ``[n]`` from `unit_factors`, to measure the directions of the points instead.
        unit: what the lengths are divided by.

    Returns:
        ``[m]``. An edge of length 0 has gradient 0, not NaN.

    Raises:
        IndexError: if an edge has an end that is no point.
    """
    lengths: Tensor = _EdgeLengths.apply(points if factors is None else unit_rows(points), edges)  # type: ignore[no-untyped-call]
    return _in_unit(lengths, unit)


def _in_unit(lengths: Tensor, unit: Unit) -> Tensor:
    if not isinstance(unit, tuple):
        return lengths if unit == 1 else lengths / unit
    scale = lengths[slice(*unit)].mean()
    return lengths / (scale + (scale == 0))


def _ranked(lengths: _Values) -> tuple[_Values, _Values]:
    """Lengths from the shortest on, and where each of them stood."""
    order = lengths.argsort(stable=True)  # equal lengths in one order, compiled or not
    return lengths[order], order


class _EdgeLengths(torch.autograd.Function):
    """The lengths in tensor operations."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, edges: Tensor) -> Tensor:
        steps = points.index_select(0, edges[:, 0]) - points.index_select(0, edges[:, 1])
        lengths: Tensor = torch.linalg.vector_norm(steps, dim=1)
        ctx.save_for_backward(steps, lengths, edges)
        ctx.shape = points.shape
        return lengths

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        steps, lengths, edges = ctx.saved_tensors
        # only exact zeros are replaced: a NaN length must reach the gradient
        pull = steps * (gradient / lengths.where(lengths != 0, 1))[:, None]
        total = steps.new_zeros(ctx.shape)
        return total.index_add_(0, edges[:, 0], pull).index_add_(0, edges[:, 1], pull, alpha=-1), None


class _CompiledGaps(torch.autograd.Function):
    """Lengths in loops, units and directions included, and their gaps in arrays, which cost less than small tensors."""

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        factors: Tensor | None,
        distances: Tensor,
        first: Tensor,
        second: Tensor,
        units: tuple[Unit, Unit],
        ranked: bool,
        power: int,
        divisor: float,
    ) -> Tensor:
        loops = compiled(_gap_loops, _scale_loops)
        assert loops is not None
        ctx.directions = factors is not None
        factors = points.new_ones(len(points)) if factors is None else factors
        ranges = [unit if isinstance(unit, tuple) else (0, 0) for unit in units]
        fixed = [1.0 if isinstance(unit, tuple) else unit for unit in units]
        arrays = _arrays(distances, points, factors, first, second)
        loss, ctx.slope, ctx.lengths, ctx.scale = loops(*arrays, *ranges, *fixed, ranked, power, divisor)
        ctx.unit = ranges[1]
        ctx.save_for_backward(points, factors, second)
        return torch.from_numpy(loss)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        loops = compiled(_pull_loops)
        assert loops is not None
        slope = ctx.slope * gradient.numpy()
        pulled = loops(*_arrays(*ctx.saved_tensors), ctx.lengths, slope, ctx.scale, ctx.directions, *ctx.unit)
        return torch.from_numpy(pulled), *[None] * 8


def _arrays(*tensors: Tensor) -> list[NDArray[Any]]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


# --- loops to compile ------------------------------------------------------------------------------------


def _gap_loops(
    distances: NDArray[Any],
    points: NDArray[Any],
    factors: NDArray[Any],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    first_range: tuple[int, int],
    second_range: tuple[int, int],
    first_unit: float,
    second_unit: float,
    ranked: bool,
    power: int,
    divisor: float,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], Any]:
    """The loss ``[]``, its slope along each length between points, these in their unit, and that unit."""
    n, width = points.shape
    a, b = np.empty(len(first), points.dtype), np.empty(len(second), points.dtype)
    for e in range(len(a)):
        i, j = first[e]
        if not (0 <= i < n and 0 <= j < n):
            raise IndexError("an edge ends outside of the matrix")
        a[e] = distances[i, j]
    for e in range(len(b)):
        i, j = second[e]
        if not (0 <= i < n and 0 <= j < n):
            raise IndexError("an edge ends outside of the points")
        at_i, at_j, squares = factors[i], factors[j], points.dtype.type(0)
        for c in range(width):
            step = at_i * points[i, c] - at_j * points[j, c]
            squares += step * step
        b[e] = np.sqrt(squares)
    _scale_loops(a, first_range, first_unit)
    scale = _scale_loops(b, second_range, second_unit)
    slope, loss = b - a, np.zeros((), points.dtype)
    if ranked:
        order = np.argsort(b, kind="mergesort")
        slope[order] = b[order] - np.sort(a)
    for e in range(len(slope)):
        gap = slope[e]
        loss[()] += gap * gap if power == 2 else abs(gap)
        slope[e] = (2 * gap if power == 2 else np.sign(gap)) / divisor
    loss[()] /= divisor
    return loss, slope, b, scale


def _scale_loops(lengths: NDArray[Any], among: tuple[int, int], unit: float) -> Any:
    """Divides lengths by the mean of those in a range, or by a unit if there are none or it is 0; returns what it was."""
    start, stop = among
    total = lengths[start:stop].sum()
    scale = lengths.dtype.type(unit) if total == 0 else total / lengths.dtype.type(stop - start)
    lengths /= scale
    return scale


def _pull_loops(
    points: NDArray[Any],
    factors: NDArray[Any],
    edges: NDArray[np.int64],
    lengths: NDArray[Any],
    gradient: NDArray[Any],
    scale: Any,
    directions: bool,
    start: int,
    stop: int,
) -> NDArray[Any]:
    """The gradient to the points: each edge pulls its ends along itself; of that to a direction, the part across it.

    Point by point, so that the sum stays in the nearest memory; the edges of a point form a chain, each with the next one.
    """
    n, width = points.shape
    total = np.empty_like(points)
    share = (gradient * lengths).sum() / points.dtype.type(max(stop - start, 1))  # through the unit
    pulls, last, before = np.empty_like(gradient), np.full(n, -1), np.empty(2 * len(edges), np.int64)
    for e in range(len(edges)):
        pull = gradient[e] - share if start <= e < stop else gradient[e]
        # only exact zeros pull nothing: a NaN length must reach the gradient
        pulls[e] = 0 if lengths[e] == 0 else pull / scale / (lengths[e] * scale)
        for end in range(2):
            i = edges[e, end]
            before[2 * e + end], last[i] = last[i], 2 * e + end
    for i in range(n):
        link, at_i = last[i], factors[i]
        for c in range(width):
            total[i, c] = 0
        while link >= 0:
            j, pull = edges[link >> 1, 1 - (link & 1)], pulls[link >> 1]
            at_j = factors[j]
            for c in range(width):
                total[i, c] += pull * (at_i * points[i, c] - at_j * points[j, c])
            link = before[link]
        if directions:
            along = points.dtype.type(0)
            for c in range(width):
                along += total[i, c] * points[i, c]
            along *= at_i * at_i
            for c in range(width):
                total[i, c] = at_i * (total[i, c] - along * points[i, c])
    return total
