"""A small table of identity codes, for tests of heads, methods and recipes that need one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from topoface.codes.table import CodeTable, write_table


@dataclass
class NamedSource:
    """As much of a source as codes need: the names of its identities, by label."""

    names: Sequence[str]

    def fingerprint(self) -> str:
        """Of no faces."""
        return "of the test"


def named_source(identities: int) -> NamedSource:
    """Whose labels run the other way round than the rows of a table of its names."""
    return NamedSource([f"{identities - label:09d}" for label in range(identities)])


@dataclass(kw_only=True)
class CodesOf:
    """A table of random codes, vectors and books, and the source that it is for."""

    folder: Path
    identities: int = 5
    alphabets: tuple[int, ...] = (3, 3)
    dimension: int = 8
    seed: int = 0
    table: CodeTable = field(init=False)
    source: NamedSource = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        packed = rng.choice(int(np.prod(self.alphabets)), self.identities, replace=False)
        codes = np.stack(np.unravel_index(packed, self.alphabets), 1)
        vectors = rng.normal(size=(self.identities, self.dimension))
        books = rng.normal(size=(sum(self.alphabets), self.dimension))
        self.source = named_source(self.identities)
        self.table = write_table(
            self.folder,
            codes=codes,
            alphabets=self.alphabets,
            uids=self.source.names,
            vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
            books=books,
        )
