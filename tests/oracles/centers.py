"""Center memory, hard levels, contrast and clustering figures, written from jlcc.md sample by sample in plain loops."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def fixture(rows: int, dims: int) -> Floats:
    """x[i, j] = sin(1 + .7 i + 1.3 j + .11 i j)."""
    return np.array(
        [[math.sin(1 + 0.7 * i + 1.3 * j + 0.11 * i * j) for j in range(dims)] for i in range(rows)]
    )


def class_weights(classes: int, dims: int) -> Floats:
    """w[c, j] = cos(.5 + .9 c + .4 j + .17 c j)."""
    return np.array(
        [[math.cos(0.5 + 0.9 * c + 0.4 * j + 0.17 * c * j) for j in range(dims)] for c in range(classes)]
    )


def unit(rows: Floats) -> Floats:
    result: Floats = rows / np.sqrt((rows**2).sum(1, keepdims=True))
    return result


class Memory:
    """Section 3.1 as a dictionary of running means."""

    def __init__(self) -> None:
        self.r: dict[int, Floats] = {}
        self.psi: dict[int, float] = {}
        self.v: dict[int, int] = {}

    def update(self, rows: Floats, labels: list[int], beta: float) -> None:
        for k in sorted(set(labels)):
            own = [row for row, label in zip(rows, labels, strict=True) if label == k]
            mean = sum(own) / len(own)
            v = self.v.get(k, 0)
            b = min(beta, v / (v + 1))
            self.r[k] = b * self.r.get(k, 0 * mean) + (1 - b) * mean
            self.psi[k] = b * b * self.psi.get(k, 0.0) + (1 - b) ** 2 / len(own)
            self.v[k] = v + 1

    def center(self, k: int) -> Floats:
        c: Floats = self.r[k] / np.linalg.norm(self.r[k])
        return c

    def nearest(self, row: Floats, label: int) -> tuple[float, float, int]:
        """a (NaN if unseen), b and n: the lowest class among the nearest others."""
        a = float(row @ self.center(label)) if label in self.r else math.nan
        others = [(float(row @ self.center(k)), -k) for k in sorted(self.r) if k != label]
        b, minus_k = max(others)
        return a, b, -minus_k

    def contrast(self, rows: Floats, labels: list[int], tau: float) -> float:
        losses = []
        for row, label in zip(rows, labels, strict=True):
            if label in self.r:
                masses = [math.exp(float(row @ self.center(k)) / tau) for k in self.r]
                losses.append(math.log(sum(masses)) - float(row @ self.center(label)) / tau)
        return sum(losses) / len(losses)


def silhouette(a: float, b: float) -> float:
    widest = max(1 - a, 1 - b)
    return 0.5 if widest == 0 else (1 - (a - b) / widest) / 2


def bcubed(assigned: list[int], labels: list[int]) -> tuple[list[float], list[float]]:
    """Precision and recall of each sample, by looking at every other."""
    n = range(len(labels))
    precision, recall = [], []
    for i in n:
        both = sum(assigned[j] == assigned[i] and labels[j] == labels[i] for j in n)
        precision.append(both / sum(assigned[j] == assigned[i] for j in n))
        recall.append(both / sum(labels[j] == labels[i] for j in n))
    return precision, recall


def pairs(assigned: list[int], labels: list[int]) -> tuple[float, float]:
    """Precision and recall over all pairs; 1 where there is none to get wrong."""
    n = len(labels)
    both = together = alike = 0
    for i in range(n):
        for j in range(i):
            in_cluster, same = assigned[i] == assigned[j], labels[i] == labels[j]
            together += in_cluster
            alike += same
            both += in_cluster and same
    return both / together if together else 1.0, both / alike if alike else 1.0


def nmi(assigned: list[int], labels: list[int]) -> float:
    n = len(labels)

    def share(*columns: list[int]) -> dict[tuple[int, ...], float]:
        cells = list(zip(*columns, strict=True))
        return {cell: cells.count(cell) / n for cell in cells}

    def entropy(shares: dict[tuple[int, ...], float]) -> float:
        return -sum(p * math.log(p) for p in shares.values())

    first, second, joint = share(assigned), share(labels), share(assigned, labels)
    information = entropy(first) + entropy(second) - entropy(joint)
    mean = (entropy(first) + entropy(second)) / 2
    return 1.0 if mean == 0 else information / mean
