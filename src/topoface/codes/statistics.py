"""Class statistics of embeddings in one pass, in any order and from any number of shards; what rare identities need.

Sections 3.1 and 3.2 of our reading of GIF. Sums are float64, so that shards and restarts combine without a trace.
"""

import tempfile
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MOST_IN_MEMORY = 4 * 2**30  # bytes of sums; more of them live in a temporary file
_RIDGE = 1e-6  # of the mean noise, added to every direction: with few second images some have no noise that could be seen


@dataclass(frozen=True, kw_only=True)
class ClassSums:
    """What has been seen of C identities.

    Attributes:
        sums: float64 ``[C, d]``, of the rows of each.
        counts: int64 ``[C]``, rows of each.
        products: float64 ``[d, d]``, sum of the outer products of all rows.
    """

    sums: Floats
    counts: NDArray[np.int64]
    products: Floats

    @staticmethod
    def empty(identities: int, dimension: int) -> "ClassSums":
        """Nothing seen yet."""
        shape = (identities, dimension)
        if identities * dimension * 8 > MOST_IN_MEMORY:
            with tempfile.TemporaryFile() as file:  # the map holds it open, and nobody else can see it
                sums: Floats = np.memmap(file, np.float64, "w+", shape=shape)
        else:
            sums = np.zeros(shape)
        return ClassSums(
            sums=sums, counts=np.zeros(identities, np.int64), products=np.zeros((dimension, dimension))
        )

    def add(self, rows: NDArray[np.floating], labels: NDArray[np.int64]) -> None:
        """Take in rows ``[n, d]`` of the identities ``[n]``."""
        rows = rows.astype(np.float64)
        np.add.at(self.sums, labels, rows)
        np.add.at(self.counts, labels, 1)
        self.products[:] += rows.T @ rows

    def merge(self, other: "ClassSums") -> None:
        """Take in what another shard has seen."""
        self.sums[:] += other.sums
        self.counts[:] += other.counts
        self.products[:] += other.products

    @property
    def means(self) -> Floats:
        """``[C, d]``; 0 where nothing was seen."""
        means: Floats = self.sums / np.maximum(self.counts, 1)[:, None]
        return means


class Variances(NamedTuple):
    """One-way analysis of variance, classes of unequal size.

    Attributes:
        within: mean square within classes, MSW.
        between: mean square between classes, MSB.
        size: n0, which stands for the class size.
        signal: variance of the class directions, (MSB - MSW) / n0, 0 at the least.
    """

    within: float
    between: float
    size: float
    signal: float

    @property
    def kappa(self) -> float:
        """How many images it takes until a mean is signal by half; infinite if there is no signal."""
        return self.within / self.signal if self.signal > 0 else float("inf")


def analyse(seen: ClassSums) -> Variances | None:
    """Variances of the rows, summed over dimensions; None if no identity has a second row, or there is but one."""
    spreads = _spreads(seen)
    if spreads is None:
        return None
    within, between, size, _ = spreads
    msw, msb = float(np.trace(within)), float(np.trace(between))
    return Variances(msw, msb, size, max((msb - msw) / size, 0.0))


@dataclass(frozen=True, kw_only=True)
class Shrinkage:
    """Wiener filter of class means: each direction is trusted as far as its signal goes and images are many.

    Attributes:
        center: ``[d]``, mean of all rows.
        basis: ``[d, d]``, the directions in which signal and noise are independent, as columns.
        inverse: ``[d, d]``, of the basis.
        gain: ``[d]``, signal by noise of a single row, g.
    """

    center: Floats
    basis: Floats
    inverse: Floats
    gain: Floats

    def __call__(self, means: NDArray[np.floating], counts: NDArray[np.int64]) -> Floats:
        """Means ``[n, d]`` of ``counts`` rows each, shrunk to the center: y_k g_k / (g_k + 1/n) in every direction k."""
        trust = self.gain / (self.gain + 1 / np.maximum(counts, 1)[:, None])
        shrunk: Floats = self.center + ((means - self.center) @ self.inverse.T * trust) @ self.basis.T
        return shrunk


def wiener(seen: ClassSums) -> Shrinkage | None:
    """The filter that the rows ask for; None where `analyse` says None."""
    spreads = _spreads(seen)
    if spreads is None:
        return None
    within, between, size, center = spreads
    noise = within + np.eye(len(within)) * _RIDGE * max(float(np.trace(within)) / len(within), 1e-12)
    root = np.linalg.cholesky(noise)
    signal = np.linalg.solve(root, np.linalg.solve(root, (between - within) / size).T)
    gain, turn = np.linalg.eigh((signal + signal.T) / 2)
    return Shrinkage(
        center=center,
        basis=root @ turn,
        inverse=np.linalg.solve(root.T, turn).T,
        gain=np.maximum(gain, 0),
    )


def _spreads(seen: ClassSums) -> tuple[Floats, Floats, float, Floats] | None:
    """Mean squares within and between classes as ``[d, d]``, n0, and the mean of all rows."""
    present = seen.counts > 0
    counts = seen.counts[present].astype(np.float64)
    total, classes = counts.sum(), len(counts)
    if classes < 2 or total == classes:
        return None
    sums = seen.sums[present]
    center = sums.sum(0) / total
    explained = sums.T @ (sums / counts[:, None])  # sum over classes of n M M^T
    within = (seen.products - explained) / (total - classes)
    between = (explained - total * np.outer(center, center)) / (classes - 1)
    size = float((total - (counts**2).sum() / total) / (classes - 1))
    return within, between, size, center
