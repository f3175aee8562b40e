"""Are identities with few images pushed together? Learned class centers beside code vectors, by images of an identity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topoface.codes.vectors import random_vectors, unit
from topoface.diagnostics.calibration import Estimate
from topoface.diagnostics.prediction import Floats, Integers
from topoface.functional.draws import generator

SAMPLED = 2048
"""Identities of a group among which every pair is looked at."""
SIZES = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 10**9))
"""Images of an identity, from and to."""
LEAST = 20
"""Identities without which such a group is left out."""
_NORMAL_95 = 1.959964


@dataclass(frozen=True, kw_only=True, eq=False)
class Crowding:
    """How close directions lie.

    Attributes:
        cosines: float32 ``[n (n - 1) / 2]``, of every pair.
        nearest: float64 ``[n]``, of each and its nearest other.
    """

    cosines: NDArray[np.float32]
    nearest: Floats

    def means(self) -> tuple[float, float]:
        """Mean cosine of two, and of one and its nearest."""
        return float(self.cosines.mean(dtype=np.float64)), float(self.nearest.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Crowd:
    """Identities with about equally many images; the rows of both members are the same people.

    Attributes:
        name: of the group: ``"4 to 7"`` images, the fewest and the most that one of them has.
        identities: in it, looked at or not.
        vectors: of their code vectors, within the group.
        centers: of their learned class centers, within the group.
    """

    name: str
    identities: int
    vectors: Crowding
    centers: Crowding

    @property
    def images(self) -> str:
        """``"1 image"`` or ``"4 to 7 images"``."""
        return f"{self.name} image" + ("" if self.name == "1" else "s")

    def beyond(self) -> Floats:
        """``[n]``: by how much the nearest center is closer than the nearest code vector."""
        return self.centers.nearest - self.vectors.nearest


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """The claim in two figures: identities with fewest images less those with most.

    Attributes:
        centers: of the cosine of the nearest learned center.
        beyond: of how much it is closer than the nearest code vector of the same person, so that people who look
            alike anyway do not pass for collapsed centers.
    """

    centers: Estimate
    beyond: Estimate

    @property
    def found(self) -> bool:
        """The rare lie closer by both figures, beyond chance."""
        return self.centers.low > 0 and self.beyond.low > 0

    @property
    def absent(self) -> bool:
        """The rare lie further apart than the frequent, beyond chance."""
        return self.centers.high < 0


def crowds(
    vectors: NDArray[np.floating], centers: NDArray[np.floating], images: Integers, seed: int
) -> list[Crowd]:
    """Code vectors and learned centers ``[C, *]`` by images ``[C]`` of the identity, fewest first.

    Equally many identities of each group are looked at: among more, the nearest is nearer. One group, of all, where
    no two groups are large enough.
    """
    sized = [np.flatnonzero((images >= low) & (images <= high)) for low, high in SIZES]
    groups = [rows for rows in sized if len(rows) >= LEAST]
    if len(groups) < 2:
        groups = [np.arange(len(images))]
    equally = min([SAMPLED, *map(len, groups)])
    found = []
    for rows in groups:
        some = np.sort(generator(seed, "crowds").choice(rows, equally, replace=False))
        found.append(
            Crowd(
                name=_range(images[rows]),
                identities=len(rows),
                vectors=_crowding(vectors[some]),
                centers=_crowding(centers[some]),
            )
        )
    return found


def collapse(found: Sequence[Crowd]) -> Collapse:
    """The first group against the last, of two or more."""
    rare, common = found[0], found[-1]
    return Collapse(
        centers=_difference(rare.centers.nearest, common.centers.nearest),
        beyond=_difference(rare.beyond(), common.beyond()),
    )


def drawn_crowding(identities: int, dimension: int, seed: int) -> Crowding:
    """The same of directions drawn at random: what nobody pushed."""
    return _crowding(random_vectors(identities, dimension, seed))


def _range(images: Integers) -> str:
    low, high = images.min(), images.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _crowding(rows: NDArray[np.floating]) -> Crowding:
    directions = unit(rows.astype(np.float64))
    cosines = directions @ directions.T
    pairs = cosines[np.triu_indices(len(rows), 1)].astype(np.float32)
    np.fill_diagonal(cosines, -1)
    return Crowding(cosines=pairs, nearest=cosines.max(1))


def _difference(first: Floats, second: Floats) -> Estimate:
    """Of two means, identities taken as independent."""
    value = float(first.mean() - second.mean())
    half = _NORMAL_95 * math.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    return Estimate(value, value - half, value + half)
