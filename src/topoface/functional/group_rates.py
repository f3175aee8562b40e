"""Error rates of groups of pairs at one threshold for all: false matches and false non-matches, in every bootstrap replicate too.

The threshold is that of all impostor pairs together, whatever their group, since a system in use has one. In each replicate it is
chosen anew, as `verification.threshold_at_far` chooses it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.functional.bootstrap import Floats, PairWeights, towards
from topoface.functional.verification import allowed_false_accepts

Codes = NDArray[np.int64]


class Rates(NamedTuple):
    """Rates of the cells of one partition, NaN where a cell has no pairs (of weight, in a replicate).

    Attributes:
        plain: float64 ``[fars, cells]``.
        people: float64 ``[replicates, fars, cells]``, with people drawn anew; no replicates without a bootstrap.
        couples: the same with couples of two different people drawn anew.
    """

    plain: Floats
    people: Floats
    couples: Floats

    def settled(self, of: Callable[[Floats], Floats], far: int, people: int) -> tuple[float, Floats]:
        """A figure made of these rates, and its replicates as `bootstrap.Replicates.settled` takes them.

        Args:
            of: rates ``[r, cells]`` to the figure ``[r]``.
            far: position of the target.
            people: who are in the pairs of the figure.
        """
        plain = float(of(self.plain[None, far])[0])
        couples = of(self.couples[:, far])
        known = couples[np.isfinite(couples)]
        drawn = of(self.people[:, far])
        drawn = np.where(np.isfinite(drawn), drawn, np.nan)
        if not np.isfinite(plain):
            return plain, np.full_like(drawn, np.nan)
        return plain, towards(plain, drawn, float(known.var()) if len(known) else 0.0, people)


class _Side(NamedTuple):
    """Pairs of one kind, highest score first.

    Attributes:
        pairs: positions among all pairs.
        orders: for each partition the pairs that are in a cell, cell by cell.
        starts: for each partition where each cell that has pairs begins in its order.
        cells: for each partition which cells those are.
    """

    pairs: NDArray[np.intp]
    orders: list[NDArray[np.intp]]
    starts: list[NDArray[np.intp]]
    cells: list[Codes]


def group_rates(
    scores: Floats,
    same: NDArray[np.bool_],
    identities: NDArray[Any],
    partitions: Sequence[Codes],
    fars: Sequence[float],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> list[tuple[Rates, Rates]]:
    """False match and false non-match rate of every cell of every partition.

    Args:
        scores: ``[m]``, higher means more alike; pairs of both kinds.
        same: ``[m]``, true for genuine pairs.
        identities: integers ``[m, 2]``, who is on the two images of each pair.
        partitions: each ``[m]``, the cell of each pair from 0, or -1 for none.
        fars: targets in [0, 1]: largest false match rate of all impostor pairs together.
        replicates: of the identity bootstrap; 0 for none.
        seed: as in ``bootstrap.identity_bootstrap``; with the same people the draws are the same.

    Returns:
        For each partition ``(FMR, FNMR)``; as many cells as its highest number says.
    """
    pairs = PairWeights(identities, seed)
    genuine, impostor = (_side(scores, kind, partitions) for kind in (same, ~same))
    own, other = scores[genuine.pairs], scores[impostor.pairs]
    # Accepted is what lies strictly above the impostor pair that is one too many; where none is, everything.
    matches = np.append(np.searchsorted(-other, -other, side="left"), len(other))
    kept = np.append(np.searchsorted(-own, -other, side="left"), len(own))
    sizes = [int(codes.max(initial=-1)) + 1 for codes in partitions]

    def rates(weights: Floats) -> list[Floats]:
        """For each partition ``[2, r, fars, cells]``."""
        of_genuine, of_impostor = weights[:, genuine.pairs], weights[:, impostor.pairs]
        first = _one_too_many(np.cumsum(of_impostor, axis=1), fars)
        nobody = of_impostor.sum(axis=1) == 0  # drawn: then no threshold can be chosen
        found = []
        for number, size in enumerate(sizes):
            every = [
                _sums(w, side, number, size) for w, side in ((of_impostor, impostor), (of_genuine, genuine))
            ]
            wrong = np.empty((2, *first.shape, size))
            for k in range(len(fars)):
                accepted = np.arange(len(other)) < matches[first[:, k], None]
                rejected = np.arange(len(own)) >= kept[first[:, k], None]
                wrong[0, :, k] = _sums(of_impostor * accepted, impostor, number, size)
                wrong[1, :, k] = _sums(of_genuine * rejected, genuine, number, size)
            wrong[:, nobody] = np.nan
            with np.errstate(invalid="ignore"):
                found.append(wrong / np.stack(every)[:, :, None])
        return found

    plain = rates(np.ones((1, len(scores))))
    blocks = pairs.blocks(replicates)
    drawn = [_joined(rates, way, blocks, plain) for way in (pairs.by_people, pairs.by_couples)]
    return [
        (
            Rates(plain[n][0, 0], drawn[0][n][0], drawn[1][n][0]),
            Rates(plain[n][1, 0], drawn[0][n][1], drawn[1][n][1]),
        )
        for n in range(len(partitions))
    ]


def _joined(
    rates: Callable[[Floats], list[Floats]],
    weigh: Callable[[range], Floats],
    blocks: list[range],
    plain: list[Floats],
) -> list[Floats]:
    """For each partition ``[2, replicates, fars, cells]``, made in blocks that bound the memory."""
    parts = [rates(weigh(block)) for block in blocks]
    return [
        np.concatenate([plain[n][:, :0], *(part[n] for part in parts)], axis=1) for n in range(len(plain))
    ]


def _side(scores: Floats, kind: NDArray[np.bool_], partitions: Sequence[Codes]) -> _Side:
    places = np.flatnonzero(kind)
    places = places[np.argsort(-scores[places], kind="stable")]
    orders, starts, cells = [], [], []
    for codes in partitions:
        own = codes[places]
        order = np.argsort(own, kind="stable")
        order = order[own[order] >= 0]
        present, begin = np.unique(own[order], return_index=True)
        orders.append(order)
        starts.append(begin)
        cells.append(present)
    return _Side(places, orders, starts, cells)


def _sums(weights: Floats, side: _Side, partition: int, cells: int) -> Floats:
    """Weight of the pairs ``[r, cells]`` of each cell."""
    sums = np.zeros((len(weights), cells))
    if len(side.starts[partition]):
        ordered = weights[:, side.orders[partition]]
        sums[:, side.cells[partition]] = np.add.reduceat(ordered, side.starts[partition], axis=1)
    return sums


def _one_too_many(total: Floats, fars: Sequence[float]) -> NDArray[np.intp]:
    """``[r, fars]``: the first impostor pair with which the accepted weight passes the target; the number of pairs if none does."""
    first = np.empty((len(total), len(fars)), dtype=np.intp)
    for row, running in enumerate(total):
        allowed = [allowed_false_accepts(int(running[-1]), far) for far in fars]
        first[row] = np.searchsorted(running, allowed, side="right")
    return first
