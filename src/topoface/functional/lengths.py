"""Lengths of edges: as a matrix has them, and between points, with the gradient in closed form.

Compiled on the CPU: no step between two points is kept, and a direction is made where it is read.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from topoface.functional.compiled import compiled, in_memory
from topoface.functional.directions import unit_rows

Unit = tuple[int, int] | None


def matrix_lengths(distances: Tensor, edges: Tensor, *, like: Tensor, unit: Unit = None) -> Tensor:
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
    loops = compiled(_matrix_loops, _scale_loops) if in_memory(distances, edges, like) else None
    if loops is None:
        i, j = edges.unbind(1)
        return _in_unit(distances.detach()[i, j].to(like.dtype), unit)
    return torch.from_numpy(loops(*_arrays(distances, edges, like), *(unit or (0, 0))))


def edge_lengths(
    points: Tensor, edges: Tensor, *, factors: Tensor | None = None, unit: Unit = None
) -> Tensor:
    """Euclidean lengths of edges, with a backward of O(m D) instead of O(n^2 D).

    Args:
        points: float ``[n, D]``.
        edges: int64 ``[m, 2]``, repeats allowed.
        factors: ``[n]`` from `unit_factors`, to measure the directions of the points instead.
        unit: start and stop of the edges whose mean length becomes 1, by dividing all; unless it is 0.

    Returns:
        ``[m]``. An edge of length 0 has gradient 0, not NaN.

    Raises:
        IndexError: if an edge has an end that is no point.
    """
    if compiled(_length_loops, _scale_loops) is not None and in_memory(points, edges):
        lengths: Tensor = _CompiledLengths.apply(points, edges, factors, unit or (0, 0))  # type: ignore[no-untyped-call]
        return lengths
    lengths = _EdgeLengths.apply(points if factors is None else unit_rows(points), edges)  # type: ignore[no-untyped-call]
    return _in_unit(lengths, unit)


def _in_unit(lengths: Tensor, unit: Unit) -> Tensor:
    if unit is None:
        return lengths
    scale = lengths[slice(*unit)].mean()
    return lengths / (scale + (scale == 0))


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


class _CompiledLengths(torch.autograd.Function):
    """The lengths in loops, units and directions included."""

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, edges: Tensor, factors: Tensor | None, unit: tuple[int, int]
    ) -> Tensor:
        loops = compiled(_length_loops, _scale_loops)
        assert loops is not None
        ctx.directions, ctx.unit = factors is not None, unit
        factors = points.new_ones(len(points)) if factors is None else factors
        values, ctx.scale = loops(*_arrays(points, factors, edges), *unit)
        lengths = torch.from_numpy(values)
        ctx.save_for_backward(points, factors, edges, lengths)
        return lengths

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        loops = compiled(_pull_loops)
        assert loops is not None
        arrays = _arrays(*ctx.saved_tensors, gradient)
        return torch.from_numpy(loops(*arrays, ctx.scale, ctx.directions, *ctx.unit)), None, None, None


def _arrays(*tensors: Tensor) -> list[NDArray[Any]]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


# --- loops to compile ------------------------------------------------------------------------------------


def _matrix_loops(
    distances: NDArray[Any], edges: NDArray[np.int64], like: NDArray[Any], start: int, stop: int
) -> NDArray[Any]:
    n, lengths = len(distances), np.empty(len(edges), like.dtype)
    for e in range(len(edges)):
        i, j = edges[e]
        if not (0 <= i < n and 0 <= j < n):
            raise IndexError("an edge ends outside of the matrix")
        lengths[e] = distances[i, j]
    _scale_loops(lengths, start, stop)
    return lengths


def _length_loops(
    points: NDArray[Any], factors: NDArray[Any], edges: NDArray[np.int64], start: int, stop: int
) -> tuple[NDArray[Any], Any]:
    """Lengths in their unit, and the unit."""
    n, width = points.shape
    lengths = np.empty(len(edges), points.dtype)
    for e in range(len(edges)):
        i, j = edges[e]
        if not (0 <= i < n and 0 <= j < n):
            raise IndexError("an edge ends outside of the points")
        at_i, at_j, squares = factors[i], factors[j], points.dtype.type(0)
        for c in range(width):
            step = at_i * points[i, c] - at_j * points[j, c]
            squares += step * step
        lengths[e] = np.sqrt(squares)
    return lengths, _scale_loops(lengths, start, stop)


def _scale_loops(lengths: NDArray[Any], start: int, stop: int) -> Any:
    """Divides lengths by the mean of those from start to stop and returns it; 1 if there are none or it is 0."""
    total = lengths[start:stop].sum()
    scale = lengths.dtype.type(1) if total == 0 else total / lengths.dtype.type(stop - start)
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
    """The gradient to the points: each edge pulls its ends along itself; of that to a direction, the part across it."""
    n, width = points.shape
    total = np.zeros_like(points)
    share = (gradient * lengths).sum() / points.dtype.type(max(stop - start, 1))  # through the unit
    for e in range(len(edges)):
        i, j = edges[e]
        at_i, at_j, pull = factors[i], factors[j], gradient[e]
        if start <= e < stop:
            pull -= share
        pull /= scale
        if lengths[e] != 0:  # only exact zeros: a NaN length must reach the gradient
            pull /= lengths[e] * scale
        for c in range(width):
            step = pull * (at_i * points[i, c] - at_j * points[j, c])
            total[i, c] += step
            total[j, c] -= step
    if directions:
        for i in range(n):
            factor, along = factors[i], points.dtype.type(0)
            for c in range(width):
                along += total[i, c] * points[i, c]
            along *= factor * factor
            for c in range(width):
                total[i, c] = factor * (total[i, c] - along * points[i, c])
    return total
