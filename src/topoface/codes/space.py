"""How a set of code vectors lies on the sphere (section 3.5 of our reading of GIF), in a few figures."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.codes.potential import least_potential, potential
from topoface.codes.vectors import unit

SAMPLED = 4096
NEIGHBOURS = 10
DUPLICATE = 0.9999


class Space(NamedTuple):
    """Figures of unit vectors; those of pairs over at most 4,096 vectors, evenly spread.

    Attributes:
        mean_cosine: of two of them.
        nearest_cosine: of one and its nearest other, on average.
        largest_cosine: of two of them.
        potential: Gaussian, t = 2, pairs of distinct vectors.
        least_potential: of vectors spread evenly in so many dimensions.
        effective_rank: exponential of the entropy of the eigenvalues of the covariance.
        duplicates: vectors with another at a cosine above 0.9999.
    """

    mean_cosine: float
    nearest_cosine: float
    largest_cosine: float
    potential: float
    least_potential: float
    effective_rank: float
    duplicates: int


def evenly(count: int) -> NDArray[np.int64]:
    """At most 4,096 of so many, evenly spread."""
    return np.linspace(0, count - 1, min(count, SAMPLED)).astype(np.int64)


def measure_space(vectors: NDArray[np.floating]) -> Space:
    """The figures of unit vectors ``[C, D]``, two or more."""
    rows = vectors[evenly(len(vectors))].astype(np.float64)
    cosines = rows @ rows.T
    pairs = cosines[np.triu_indices(len(rows), 1)]
    np.fill_diagonal(cosines, -1)
    nearest = cosines.max(1)
    spectrum = np.linalg.eigvalsh(np.cov(rows.T, bias=True).reshape(rows.shape[1], -1)).clip(min=0)
    share = spectrum[spectrum > 0] / spectrum.sum() if spectrum.sum() > 0 else np.ones(1)
    return Space(
        mean_cosine=float(pairs.mean()),
        nearest_cosine=float(nearest.mean()),
        largest_cosine=float(pairs.max()),
        potential=potential(rows),
        least_potential=least_potential(rows.shape[1]),
        effective_rank=float(np.exp(-(share * np.log(share)).sum())),
        duplicates=int((nearest > DUPLICATE).sum()),
    )


class Treatment(NamedTuple):
    """What became of the encoder's class means on the way to code vectors.

    Attributes:
        kept_neighbours: share of the ten nearest of each that were among its ten nearest before.
        travel: angle between before and after in radians, on average; None where the dimensions differ.
    """

    kept_neighbours: float
    travel: float | None


def measure_treatment(means: NDArray[np.floating], vectors: NDArray[np.floating]) -> Treatment:
    """Class means ``[n, d]`` of any length beside the unit vectors ``[n, D]`` made of them, two or more."""
    before, after = unit(means.astype(np.float64)), vectors.astype(np.float64)
    count = min(NEIGHBOURS, len(before) - 1)
    one, other = _nearest(before, count), _nearest(after, count)
    same = (one[:, :, None] == other[:, None]).sum()
    travel = None
    if before.shape == after.shape:
        travel = float(np.arccos(np.clip((before * after).sum(1), -1, 1)).mean())
    return Treatment(kept_neighbours=float(same / one.size), travel=travel)


def _nearest(rows: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """The ``count`` nearest others ``[n, count]`` of each unit row."""
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argpartition(-cosines, count - 1, axis=1)[:, :count]
