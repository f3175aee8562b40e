"""Batch normalisation with its activation as loops to compile: each reads its inputs once from memory, image by image.

Images are ``[n, P, W]``: P rows that each hold some pixels' channels. What belongs to a channel is repeated for each pixel of a row, ``[W]``;
sums are kept for each image, ``[n, W]``, so that they do not depend on how images are shared out among threads.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.floating[Any]]


def moment_loops(x: _Array, means: _Array, squares: _Array, start: int, stop: int) -> None:
    """Each image's mean, and its sum of squares around that: nothing cancels when the mean is large."""
    for i in range(start, stop):
        image, mean, square = x[i], means[i], squares[i]
        mean[:] = 0
        square[:] = 0
        for p in range(image.shape[0]):
            row = image[p]
            for c in range(row.shape[0]):
                mean[c] += row[c]
        for c in range(mean.shape[0]):
            mean[c] /= image.shape[0]
        for p in range(image.shape[0]):
            row = image[p]
            for c in range(row.shape[0]):
                distance = row[c] - mean[c]
                square[c] += distance * distance


def apply_loops(
    x: _Array, out: _Array, mean: _Array, gain: _Array, bias: _Array, slope: _Array, start: int, stop: int
) -> None:
    """``(x - mean) gain + bias``, times the slope where that is not positive."""
    for i in range(start, stop):
        for p in range(x.shape[1]):
            row, result = x[i, p], out[i, p]
            for c in range(row.shape[0]):
                value = (row[c] - mean[c]) * gain[c] + bias[c]
                result[c] = value if value > 0 else value * slope[c]


def gradient_sum_loops(
    x: _Array,
    gradient: _Array,
    mean: _Array,
    gain: _Array,
    bias: _Array,
    slope: _Array,
    sums: _Array,
    start: int,
    stop: int,
) -> None:
    """Each image's sums ``[n, 3, W]``: of the gradient before the activation, of that times ``x - mean``, and for the slope."""
    for i in range(start, stop):
        plain, with_x, of_slope = sums[i, 0], sums[i, 1], sums[i, 2]
        sums[i] = 0
        for p in range(x.shape[1]):
            row, given = x[i, p], gradient[i, p]
            for c in range(row.shape[0]):
                centred = row[c] - mean[c]
                value = centred * gain[c] + bias[c]
                inner = given[c] if value > 0 else given[c] * slope[c]
                plain[c] += inner
                with_x[c] += inner * centred
                of_slope[c] += min(value, x.dtype.type(0)) * given[c]


def input_gradient_loops(
    x: _Array,
    gradient: _Array,
    out: _Array,
    mean: _Array,
    gain: _Array,
    bias: _Array,
    slope: _Array,
    offset: _Array,
    pull: _Array,
    start: int,
    stop: int,
) -> None:
    """``gain (gradient before the activation - offset - pull (x - mean))``."""
    for i in range(start, stop):
        for p in range(x.shape[1]):
            row, given, result = x[i, p], gradient[i, p], out[i, p]
            for c in range(row.shape[0]):
                centred = row[c] - mean[c]
                value = centred * gain[c] + bias[c]
                inner = given[c] if value > 0 else given[c] * slope[c]
                result[c] = gain[c] * (inner - offset[c] - pull[c] * centred)
