"""New identities into codes that exist (section 4.8 of our reading of GIF): no old code changes, every new one is its own."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topoface.codes.assign import Integers
from topoface.codes.clustering import Rows
from topoface.codes.nodes import Progress
from topoface.codes.packing import place_values, unpack
from topoface.codes.table import CodeTable
from topoface.codes.tokenise import COUNTED, counted_codes
from topoface.errors import UserError


@dataclass(frozen=True, kw_only=True)
class _Children:
    """Under one prefix: identities below each token ``[K]``, the sums of their vectors ``[K, D]``, and where an empty one would lie."""

    counts: Integers
    sums: Rows
    otherwise: Rows


def check_capacity(table: CodeTable, more: int) -> None:
    """Refuse more new identities than the code space has room for.

    Raises:
        UserError: it has not.
    """
    most = math.prod(table.alphabets)
    if table.meta.get("kind") == "rs":
        most = table.alphabets[0] ** int(table.meta["message"])
    total = table.num_identities + more
    if total > most:
        what = f"code space is full: {total:,} identities for {most:,} codes"
        raise UserError(
            what, str(table.path), "build codes with a greater length or more tokens, for a new run"
        )


def codes_for(
    table: CodeTable, vectors: NDArray[np.float32], *, progress: Progress | None = None
) -> NDArray[np.integer]:
    """Codes ``[n, L]`` of new identities, none of them in the table.

    From the root each one goes down to the nearest child that has room. A token that nobody has yet lies where its
    code book puts it, or at its parent where there is no book. Ties go to the token that fewest have at that position.

    Args:
        table: with code vectors, unless its codes follow from the row number alone.
        vectors: ``[n, D]``, made as those of the table were, in the bytewise order of their uids.
        progress: called with identities placed and in all.

    Raises:
        UserError: the code space has no room for all.
    """
    check_capacity(table, len(vectors))
    kind = table.meta.get("kind", "arbitrary")
    if kind in COUNTED:
        rows = np.arange(table.num_identities, table.num_identities + len(vectors))
        seed, message = int(table.meta.get("seed", 0)), int(table.meta.get("message", 1))
        return counted_codes(rows, table.alphabets, kind=kind, seed=seed, message=message)
    walk = _Walk(table)
    packed = np.empty(len(vectors), np.uint64)
    for i, vector in enumerate(vectors):
        packed[i] = walk.place(vector)
        if progress:
            progress(i + 1, len(vectors))
    return unpack(packed, table.alphabets)


def sibling_spread(codes: NDArray[np.integer], alphabets: tuple[int, ...]) -> float:
    """How many more identities the fullest first token has than the emptiest; infinite if one has none."""
    counts = np.bincount(codes[:, 0].astype(np.int64), minlength=min(alphabets[0], len(codes)))
    return float(counts.max() / counts.min()) if counts.min() else float("inf")


class _Walk:
    """The tree of prefixes, of which only nodes that somebody has passed are read."""

    def __init__(self, table: CodeTable) -> None:
        self.table = table
        self.values = place_values(table.alphabets)
        self.used = [np.bincount(table.codes[:, j], minlength=k) for j, k in enumerate(table.alphabets)]
        self.offsets = np.cumsum((0, *table.alphabets))
        self.nodes: dict[tuple[int, int], _Children] = {}
        self.packed = np.asarray(table.packed)

    def place(self, vector: NDArray[np.float32]) -> int:
        """The code, as a number, of a new identity; it then belongs to the tree."""
        prefix, center = 0, np.zeros_like(vector)
        for level, value in enumerate(self.values):
            children = self._children(level, prefix, center)
            there = children.counts > 0
            centers = np.where(
                there[:, None], children.sums / np.maximum(children.counts, 1)[:, None], children.otherwise
            )
            away = ((centers - vector) ** 2).sum(1)
            away[children.counts >= value] = np.inf
            nearest = np.flatnonzero(away == away.min())
            token = int(nearest[self.used[level][nearest].argmin()])
            center = centers[token]
            children.counts[token] += 1
            children.sums[token] += vector
            self.used[level][token] += 1
            prefix += token * value
        return prefix

    def _children(self, level: int, prefix: int, center: NDArray[np.float32]) -> _Children:
        if (level, prefix) in self.nodes:
            return self.nodes[level, prefix]
        table, k, value = self.table, self.table.alphabets[level], self.values[level]
        last = min(prefix + k * value, 2**64 - 1)
        edges = np.array([*range(prefix, prefix + k * value, value), last], np.uint64)
        bounds = np.searchsorted(self.packed, edges)
        sums = np.zeros((k, len(center)), np.float32)
        for token in np.flatnonzero(np.diff(bounds)):
            owners = np.sort(table.owners[bounds[token] : bounds[token + 1]]).astype(np.int64)
            sums[token] = table.unit_vectors(owners).sum(0)
        counts = np.diff(bounds)
        if level == 0:
            center = sums.sum(0) / max(counts.sum(), 1)
        otherwise = np.broadcast_to(center, sums.shape)
        if table.books is not None:
            otherwise = center + table.books[self.offsets[level] : self.offsets[level + 1]]
        made = _Children(counts=counts, sums=sums, otherwise=otherwise)
        self.nodes[level, prefix] = made
        return made
