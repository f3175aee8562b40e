"""Expectation maximisation of the mixture as loops for numba to compile, with exponentials in vector instructions."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

WEIGHT_MARGIN = 1e-3  # least share of each part


def em_loops(
    entropy: NDArray[Any], fit: int, support: float, iterations: int, floor: float
) -> NDArray[np.float64]:
    """`mixture._em` as loops to compile: weight, variance, upper and the n values of hardness in one array.

    It ends early where an iteration changes nothing, since all others would change nothing either.

    Args:
        entropy: float ``[n]``.
        fit: 0 for ``ml``, 1 for ``moments``, 2 for ``eq7``.
        support: NaN for the largest entropy.
        iterations: as for `fit_mixture`.
        floor: as for `fit_mixture`.
    """
    n, tiny = len(entropy), 1e-300
    squares, odds, scratch, fitted = np.empty(n), np.empty(n), np.empty(n, np.int64), np.empty(3 + n)
    hard = fitted[3:]
    total = largest = 0.0
    for k in range(n):
        squares[k] = np.float64(entropy[k]) ** 2
        total += squares[k]
        largest = max(largest, entropy[k])
    start = largest if math.isnan(support) else support
    weight, variance, upper = 0.5, max(total / n, floor**2), max(start, 10 * floor)
    for iteration in range(iterations + 1):
        at_zero = math.log((1 - weight) / (weight * upper) * math.sqrt(variance * (math.pi / 2)))
        slope = 1 / (2 * variance)
        for k in range(n):
            odds[k] = -at_zero - slope * squares[k]
        exponentials(odds, scratch)  # odds of easy
        easy_mass = easy_squares = hard_mass = hard_squares = 0.0
        for k in range(n):
            hard[k] = 1 / (1 + odds[k])
            easy = odds[k] * hard[k]
            easy_mass += easy
            easy_squares += easy * squares[k]
            hard_mass += hard[k]
            hard_squares += hard[k] * squares[k]
        if iteration == iterations:
            break
        before = (weight, variance, upper)
        variance = max(easy_squares / max(easy_mass, tiny), floor**2)
        if fit > 0:
            share = easy_mass / n if fit == 2 else 1.0
            upper = max(math.sqrt(3 * hard_squares / max(hard_mass * share, tiny)), 10 * floor)
        weight = min(max(easy_mass / n, WEIGHT_MARGIN), 1 - WEIGHT_MARGIN)
        if (weight, variance, upper) == before:
            break
    fitted[0], fitted[1], fitted[2] = weight, variance, upper
    return fitted


def exponentials(x: NDArray[np.float64], scratch: NDArray[np.int64]) -> None:
    """exp(x) in the place of x, as loops to compile: vector instructions, where a call of the library takes one at a time.

    x = q log 2 + r with an integer q and abs(r) < 0.35: the Taylor series of exp(r) to degree 11 is exact to 1e-14, and 2^q is
    written into the exponent of a float. Exact to 2e-13 at the ends, +-700, beyond which exp(+-700) stands in; NaN stays.

    Args:
        x: float64 ``[n]``.
        scratch: int64 ``[n]``.
    """
    powers = scratch.view(np.float64)
    for k in range(len(x)):
        value = 700.0 if x[k] > 700 else (-700.0 if x[k] < -700 else x[k])
        q = math.floor(value / math.log(2) + 0.5)
        r = value - q * math.log(2)
        scratch[k] = (np.int64(q) + 1023) << 52
        high = 1 / 720 + r * (
            1 / 5040 + r * (1 / 40320 + r * (1 / 362880 + r * (1 / 3628800 + r / 39916800)))
        )
        x[k] = 1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * high)))))
    for k in range(len(x)):
        x[k] *= powers[k]
