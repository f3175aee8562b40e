"""What the report on a table of codes says, in numbers."""

from dataclasses import dataclass

import numpy as np

from topoface.codes.packing import pack
from topoface.codes.table import CodeTable
from topoface.diagnostics.prediction import Floats, Integers
from topoface.functional.draws import generator

SAMPLED = 4096
"""Identities among which every pair is looked at."""


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


def drawn(count: int, seed: int) -> Integers:
    """At most 4,096 of so many, ascending."""
    if count <= SAMPLED:
        return np.arange(count)
    return np.sort(generator(seed, "code report").choice(count, SAMPLED, replace=False))
