"""The loops of the tail bootstrap, to compile; each beside the same in arrays, for where nothing can be compiled."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.uint16]
"""How often each person was drawn, ``[people + 1, lanes]``."""


def total_arrays(
    weights: Counts, left: NDArray[Any], right: NDArray[Any], times: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`total_loops` where nothing can be compiled."""
    lanes = weights.T.astype(np.float64)
    return np.array([np.dot(lane[left] * lane[right], times) for lane in lanes])


def total_loops(
    weights: Counts, left: NDArray[Any], right: NDArray[Any], times: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sum of times x weight x weight in each lane."""
    total, part = np.zeros(weights.shape[1]), np.zeros(weights.shape[1], np.uint32)
    for start in range(0, len(left), 256):
        part[:] = 0
        for q in range(start, min(start + 256, len(left))):
            a, b, n = left[q], right[q], np.uint32(times[q])
            for r in range(len(total)):
                part[r] += np.uint32(weights[a, r]) * np.uint32(weights[b, r]) * n
        for r in range(len(total)):
            total[r] += part[r]
    return total


def walk_arrays(
    weights: Counts,
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    stops: NDArray[np.int64],
    own_left: NDArray[np.int32],
    own_right: NDArray[np.int32],
    limits: NDArray[np.int64],
    totals: NDArray[np.float64],
    ratio: float,
    places: NDArray[np.int64],
    costs: NDArray[np.float64],
    best: int,
    kept_costs: NDArray[np.float64],
    stride: int,  # noqa: ARG001
) -> bool:
    """`walk_loops` where nothing can be compiled."""
    done = True
    for r, drawn in enumerate(weights.T.astype(np.float64)):
        accepted = np.cumsum(np.append(0.0, drawn[left] * drawn[right]))
        kept = np.cumsum(drawn[own_left] * drawn[own_right])
        places[r] = np.searchsorted(accepted[1:], limits[r], side="right")
        with np.errstate(invalid="ignore", divide="ignore"):
            paid = 1 - kept[: len(stops)] / kept[-1] + ratio * accepted[stops] / totals[r]
        weighed = totals[r] and kept[-1]
        costs[r] = min(1.0, paid.min(initial=1.0)) if weighed else np.nan
        kept_costs[r] = (paid[best - 1] if best else 1.0) if weighed else np.nan
        done &= bool((places[r] < len(left)).all() and ratio * accepted[-1] >= totals[r])
    return done


def walk_loops(
    weights: Counts,
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    stops: NDArray[np.int64],
    own_left: NDArray[np.int32],
    own_right: NDArray[np.int32],
    limits: NDArray[np.int64],
    totals: NDArray[np.float64],
    ratio: float,
    places: NDArray[np.int64],
    costs: NDArray[np.float64],
    best: int,
    kept_costs: NDArray[np.float64],
    stride: int,
) -> bool:
    """See `tail_bootstrap._walk`; fills places and both costs, and says whether no lane needs more."""
    lanes, fars = limits.shape
    every = np.zeros(lanes)
    for g in range(len(own_left)):
        for r in range(lanes):
            every[r] += np.uint32(weights[own_left[g], r]) * np.uint32(weights[own_right[g], r])
    kept, accepted = np.zeros(lanes), np.zeros(lanes)
    part, passed = np.zeros(lanes, np.uint32), np.zeros(lanes, np.int64)
    g, p, open_lanes = 0, 0, lanes
    while True:
        if g < len(stops) and stops[g] == p:
            while g < len(stops) and stops[g] == p:
                for r in range(lanes):
                    kept[r] += np.uint32(weights[own_left[g], r]) * np.uint32(weights[own_right[g], r])
                g += 1
            for r in range(lanes):
                paid = 1 - kept[r] / every[r] + ratio * accepted[r] / totals[r]
                costs[r] = min(costs[r], paid)
                if g == best:
                    kept_costs[r] = paid
        if p == len(left) or (open_lanes == 0 and g >= best):
            break
        end = min(p + stride, len(left))
        if g < len(stops):
            end = min(end, stops[g])
        part[:] = 0
        for q in range(p, end):
            a, b = left[q], right[q]
            for r in range(lanes):
                part[r] += np.uint32(weights[a, r]) * np.uint32(weights[b, r])
        open_lanes = 0
        for r in range(lanes):
            before = accepted[r]
            accepted[r] += part[r]
            if passed[r] < fars and accepted[r] > limits[r, passed[r]]:
                for q in range(p, end):
                    before += np.uint32(weights[left[q], r]) * np.uint32(weights[right[q], r])
                    while passed[r] < fars and before > limits[r, passed[r]]:
                        places[r, passed[r]] = q
                        passed[r] += 1
            if passed[r] < fars or ratio * accepted[r] < totals[r]:
                open_lanes += 1
        p = end
    for r in range(lanes):
        if every[r] == 0 or totals[r] == 0:
            costs[r] = kept_costs[r] = np.nan
    return bool(open_lanes == 0)
