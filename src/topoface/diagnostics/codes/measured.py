"""What the report on a table of codes says, in numbers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topoface.codes.packing import pack
from topoface.codes.table import CodeTable
from topoface.codes.vectors import unit
from topoface.diagnostics.prediction import Floats, Integers
from topoface.functional.draws import generator

SAMPLED = 4096
"""Identities among which every pair is looked at."""
MANY = 10**9
SIZES = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, MANY))
"""Images of an identity, from and to."""
LEAST = 20
"""Identities without which such a group is left out."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """Prefixes of one length.

    Attributes:
        sizes: int64 ``[nodes]``, identities that share each prefix.
    """

    sizes: Integers

    @property
    def shared(self) -> int:
        """Identities that are not alone under theirs."""
        return int(self.sizes[self.sizes > 1].sum())


def levels(table: CodeTable) -> list[Level]:
    """The prefixes of every length from 1 on."""
    found = []
    for length in range(1, table.length + 1):
        packed = np.sort(pack(table.codes[:, :length], table.alphabets))
        found.append(Level(sizes=np.unique(packed, return_counts=True)[1]))
    return found


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Cosines of the code vectors of pairs of identities, by how many first tokens they share.

    Attributes:
        cosines: float64 ``[pairs]``.
        shared: int64 ``[pairs]``, 0 to L - 1.
    """

    cosines: Floats
    shared: Integers

    def means(self) -> list[tuple[int, int, float]]:
        """Tokens shared, pairs that share so many, their mean cosine."""
        kinds = np.unique(self.shared)
        return [
            (int(k), int((self.shared == k).sum()), float(self.cosines[self.shared == k].mean()))
            for k in kinds
        ]


def vector_pairs(table: CodeTable, seed: int) -> Pairs:
    """Every pair among at most 4,096 drawn identities."""
    rows = drawn(table.num_identities, seed)
    vectors, codes = table.unit_vectors(rows).astype(np.float64), table.tokens(rows)
    first, second = np.triu_indices(len(rows), 1)
    cosines = (vectors @ vectors.T)[first, second]
    alike = np.ones(len(first), np.bool_)
    shared = np.zeros(len(first), np.int64)
    for token in codes.T:
        alike &= token[first] == token[second]
        shared += alike
    return Pairs(cosines=cosines, shared=shared)


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Directions of identities with so many images.

    Attributes:
        name: of the group: ``"4 to 7"`` images.
        identities: in it.
        vectors: mean and mean nearest cosine of code vectors, within the group.
        centers: the same of learned class centers.
    """

    name: str
    identities: int
    vectors: tuple[float, float]
    centers: tuple[float, float]


def crowds(
    vectors: NDArray[np.floating], centers: NDArray[np.floating], images: Integers, seed: int
) -> list[Crowd]:
    """Code vectors and learned centers ``[C, *]`` by images ``[C]`` of the identity: if rare ones collapse, their cosines rise.

    Equally many identities of each group are looked at: among more, the nearest is nearer.
    """
    groups = {}
    for low, high in SIZES:
        rows = np.flatnonzero((images >= low) & (images <= high))
        if len(rows) >= LEAST:
            groups[f"{low}" if low == high else f"{low} to {high}" if high < MANY else f"{low} or more"] = (
                rows
            )
    equally = min([SAMPLED, *map(len, groups.values())])
    found = []
    for name, rows in groups.items():
        some = np.sort(generator(seed, "crowds").choice(rows, equally, replace=False))
        found.append(
            Crowd(
                name=name,
                identities=len(rows),
                vectors=_crowding(vectors[some]),
                centers=_crowding(centers[some]),
            )
        )
    return found


def pairwise_cosines(rows: NDArray[np.floating], seed: int) -> Floats:
    """Cosines ``[pairs]`` of rows ``[C, D]``, over at most 4,096 of them."""
    directions = unit(rows[drawn(len(rows), seed)].astype(np.float64))
    cosines: Floats = (directions @ directions.T)[np.triu_indices(len(directions), 1)]
    return cosines


def drawn(count: int, seed: int) -> Integers:
    """At most 4,096 of so many, ascending."""
    if count <= SAMPLED:
        return np.arange(count)
    return np.sort(generator(seed, "code report").choice(count, SAMPLED, replace=False))


def _crowding(rows: NDArray[np.floating]) -> tuple[float, float]:
    directions = unit(rows.astype(np.float64))
    cosines = directions @ directions.T
    mean = float(cosines[np.triu_indices(len(rows), 1)].mean())
    np.fill_diagonal(cosines, -1)
    return mean, float(cosines.max(1).mean())
