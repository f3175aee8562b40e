"""Loops over rows of class centers that :mod:`topoface.functional.center_sgd` compiles: each reads and writes a row once."""

from typing import Any

Rows = Any


def take_out_along(change: Rows, centers: Rows, inverse: Rows) -> None:
    """Take out of each change what lies along its center, where ``inverse`` are the inverse lengths."""
    k, d = change.shape
    for i in range(k):
        along = change[i, 0] * centers[i, 0]
        for j in range(1, d):
            along += change[i, j] * centers[i, j]
        along *= inverse[i] * inverse[i]
        for j in range(d):
            change[i, j] -= along * centers[i, j]


def move_block(
    centers: Rows, speeds: Rows, change: Rows, inverse: Rows, lr: Rows, mu: Rows, decay: Rows, ahead: Rows
) -> None:
    """take_out_along, and a step of SGD with the result; ``ahead`` is 1 for Nesterov's, else 0."""
    k, d = change.shape
    for i in range(k):
        along = change[i, 0] * centers[i, 0]
        for j in range(1, d):
            along += change[i, j] * centers[i, j]
        along *= inverse[i] * inverse[i]
        for j in range(d):
            w = centers[i, j]
            g = change[i, j] - along * w + decay * w
            v = mu * speeds[i, j] + g
            speeds[i, j] = v
            centers[i, j] = w - lr * (ahead * (g + mu * v) + (1 - ahead) * v)


def catch_up_rows(centers: Rows, speeds: Rows, moved: Rows, chosen: Rows, factors: Rows, now: Rows) -> None:
    """Bring chosen rows to step ``now`` by the product of the steps that they have missed."""
    d = centers.shape[1]
    for i in range(len(chosen)):
        row = chosen[i]
        age = moved[row]
        if age < now:
            a, b, c, e = factors[age, 0], factors[age, 1], factors[age, 2], factors[age, 3]
            for j in range(d):
                w, v = centers[row, j], speeds[row, j]
                centers[row, j] = a * w + b * v
                speeds[row, j] = c * w + e * v
            moved[row] = now


def move_rows(
    centers: Rows,
    speeds: Rows,
    chosen: Rows,
    gradient: Rows,
    lr: Rows,
    mu: Rows,
    decay: Rows,
    ahead: Rows,
) -> None:
    """A step of SGD of chosen rows."""
    d = centers.shape[1]
    for i in range(len(chosen)):
        row = chosen[i]
        for j in range(d):
            w = centers[row, j]
            g = gradient[i, j] + decay * w
            v = mu * speeds[row, j] + g
            speeds[row, j] = v
            centers[row, j] = w - lr * (ahead * (g + mu * v) + (1 - ahead) * v)
