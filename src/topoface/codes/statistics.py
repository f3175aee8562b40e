"""Class statistics of embeddings in one pass, in any order and from any number of shards; what rare identities need.

Sections 3.1 and 3.2 of our reading of GIF. Sums are float64, so that shards and restarts combine without a trace.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MOST_IN_MEMORY = 4 * 2**30  # bytes of sums; more of them live in a temporary file
BLOCK = 65536  # rows worked on at a time: there may be millions
_RIDGE = 1e-6  # of the mean noise, added to every direction: with few second images some have no noise that could be seen
_ROUNDING = 1e-12  # of the rows' squares to a degree of freedom: noise below it is what their differences are rounded to


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

    def means(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """``[n, d]`` of the identities ``[n]``; 0 where nothing was seen."""
        means = np.empty((len(rows), self.sums.shape[1]), np.float32)
        for part in blocks(len(rows)):
            means[part] = self.sums[rows[part]] / np.maximum(self.counts[rows[part]], 1)[:, None]
        return means


def blocks(count: int) -> Iterator[slice]:
    """So many rows in parts that fit beside a large array."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


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
    msw = max(float(np.trace(within)), 0.0)  # copies leave rounding, of either sign
    msb = float(np.trace(between))
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

    def __call__(self, means: NDArray[np.floating], counts: NDArray[np.int64]) -> NDArray[np.floating]:
        """Means ``[n, d]`` of ``counts`` rows each, shrunk to the center: y_k g_k / (g_k + 1/n) in every direction k."""
        shrunk = np.empty_like(means)
        for part in blocks(len(means)):
            trust = self.gain / (self.gain + 1 / np.maximum(counts[part], 1)[:, None])
            along = (means[part] - self.center) @ self.inverse.T
            shrunk[part] = self.center + (along * trust) @ self.basis.T
        return shrunk


def wiener(seen: ClassSums) -> Shrinkage | None:
    """The filter that the rows ask for; None where `analyse` says None."""
    spreads = _spreads(seen)
    if spreads is None:
        return None
    within, between, size, center = spreads
    freedom = int(seen.counts.sum()) - np.count_nonzero(seen.counts)
    floor = _ROUNDING * float(np.trace(seen.products)) / freedom
    ridge = max(_RIDGE * float(np.trace(within)) / len(within), floor)
    noise = within + np.eye(len(within)) * ridge
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
    counts = seen.counts[seen.counts > 0].astype(np.float64)
    total, classes = counts.sum(), len(counts)
    if classes < 2 or total == classes:
        return None
    center = seen.sums.sum(0) / total
    explained = np.zeros_like(seen.products)  # sum over classes of n M M^T
    for part in blocks(len(seen.sums)):
        sums = seen.sums[part]
        explained += sums.T @ (sums / np.maximum(seen.counts[part], 1)[:, None])
    within = (seen.products - explained) / (total - classes)
    between = (explained - total * np.outer(center, center)) / (classes - 1)
    size = float((total - (counts**2).sum() / total) / (classes - 1))
    return within, between, size, center
