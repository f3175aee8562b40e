"""Code vectors the slow way, written from gif.md sections 3.2 to 3.4 and the fixtures of section 14, row by row."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def fixture(n: int, d: int, a: float = 1.7, b: float = 0.9, c: float = 0.31) -> Floats:
    """F[i, k] = sin(a i + b k + c i k), both from 1."""
    return np.array([[math.sin(a * i + b * k + c * i * k) for k in range(1, d + 1)] for i in range(1, n + 1)])


def unit(rows: Floats) -> Floats:
    result: Floats = rows / np.sqrt((rows**2).sum(1, keepdims=True))
    return result


def simplex(n: int) -> Floats:
    """n points of equal distance on the unit sphere of n - 1 dimensions."""
    centered = np.eye(n) - 1 / n
    basis = np.linalg.svd(centered)[0][:, : n - 1]
    return unit(centered @ basis)


def kernel_sum(rows: Floats, t: float, *, own: bool) -> float:
    return sum(
        math.exp(-t * float(((rows[i] - rows[j]) ** 2).sum()))
        for i in range(len(rows))
        for j in range(len(rows))
        if own or i != j
    )


def ambient_gradient(rows: Floats, t: float) -> Floats:
    total = kernel_sum(rows, t, own=True)
    gradient = np.zeros_like(rows)
    for i, one in enumerate(rows):
        for other in rows:
            gradient[i] += 4 * t / total * math.exp(-t * float(((one - other) ** 2).sum())) * (other - one)
    return gradient


def off_diagonal_mean(rows: Floats) -> float:
    cosines = [float(a @ b) for i, a in enumerate(rows) for b in rows[:i]]
    return float(np.mean(cosines))
