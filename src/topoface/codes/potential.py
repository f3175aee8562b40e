"""The Gaussian potential of directions (arXiv 2005.10242), how it spreads them over the sphere, and its least value.

G(H) = log of the mean over pairs of exp(-t |h_i - h_j|^2). Section 3.4: the published step divides by a sum over all pairs
of a block, so it shrinks with the square of the block; ours divides by the row's own sum and does not.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from topoface.codes.vectors import unit
from topoface.functional.draws import generator

Step = Literal["row", "sum"]


def potential(rows: NDArray[np.floating], *, t: float = 2.0, published: bool = False) -> float:
    """G of unit rows ``[n, D]``.

    Args:
        rows: of length 1.
        t: of the kernel.
        published: log((1/n) sum over all i, j), which grows with n. Otherwise the log of the mean over pairs of
            distinct rows, which can be compared between sets and with `least_potential`.
    """
    kernel = _kernel(rows, t)
    n = len(rows)
    if published:
        return float(np.log(kernel.sum() / n))
    return float(np.log((kernel.sum() - np.trace(kernel)) / (n * (n - 1))))


def least_potential(dimension: int, *, t: float = 2.0) -> float:
    """G of directions spread evenly over the sphere: -2t + log 0F1(; D/2; t^2)."""
    term, total, k = 1.0, 1.0, 0
    while term > 1e-17 * total:
        term *= t * t / ((dimension / 2 + k) * (k + 1))
        total += term
        k += 1
    return -2 * t + math.log(total)


def tangent_gradient(
    rows: NDArray[np.floating], *, t: float = 2.0, step: Step = "row"
) -> NDArray[np.floating]:
    """In which direction rows ``[n, D]`` move, tangent to the sphere; see the head of this file.

    ``sum`` is the gradient of the published G; ``row`` has its directions, and a length that does not depend on n.
    """
    kernel = _kernel(rows, t)
    if step == "sum":
        pull = kernel @ rows * (4 * t / kernel.sum())
    else:
        np.fill_diagonal(kernel, 0)
        pull = kernel @ rows / np.maximum(kernel.sum(1, keepdims=True), np.finfo(rows.dtype).tiny)
    tangent: NDArray[np.floating] = pull - rows * (rows * pull).sum(1, keepdims=True)
    return tangent


def spread_out(
    rows: NDArray[np.float32],
    *,
    epochs: int,
    rate: float = 0.1,
    block: int = 2048,
    momentum: float = 0.0,
    step: Step = "row",
    t: float = 2.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Unit rows ``[C, D]`` after descending the potential over random blocks.

    Args:
        rows: of length 1; not changed.
        epochs: passes over all rows.
        rate: step size; radians where rows lie close together and ``step`` is ``row``.
        block: rows that see each other at a time.
        momentum: of each row, over its own visits.
        step: see `tangent_gradient`.
        t: of the kernel.
        seed: of the order.
        progress: called with epochs done and in all.
    """
    rows = rows.copy()
    speed = np.zeros_like(rows) if momentum else None
    blocks = max(round(len(rows) / block), 1)
    for epoch in range(epochs):
        order = generator(seed, "potential", epoch).permutation(len(rows))
        for chosen in np.array_split(order, blocks):
            move = tangent_gradient(rows[chosen], t=t, step=step)
            if speed is not None:
                speed[chosen] = momentum * speed[chosen] + move
                move = speed[chosen]
            rows[chosen] = unit(rows[chosen] - rate * move)
        if progress:
            progress(epoch + 1, epochs)
    return rows


def _kernel(rows: NDArray[np.floating], t: float) -> NDArray[np.floating]:
    """exp(-t |h_i - h_j|^2), ``[n, n]``."""
    kernel: NDArray[np.floating] = rows @ rows.T
    kernel -= 1
    kernel *= 2 * t
    np.exp(kernel, out=kernel)
    return kernel
