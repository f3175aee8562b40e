"""Intervals of searches: the people of the probes are drawn anew, the gallery stays; spread as in `bootstrap`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoface.functional.bootstrap import BLOCK, Floats, identity_counts, towards
from topoface.functional.identification import Searches, point_at_fpir, shares_within
from topoface.functional.influences import Meetings, ranked, tar_influence
from topoface.functional.verification import allowed_false_accepts


def search_bootstrap(
    searches: Searches,
    who: NDArray[Any],
    people: int,
    ranks: Sequence[int],
    fpirs: Sequence[float],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Rank and TPIR figures in each replicate: a search counts as often as the person of its probe was drawn.

    Args:
        searches: from ``identification.describe``.
        who: integers ``[p]``, the person of each probe, from 0.
        people: how many there are.
        ranks: of `identification.shares_within`.
        fpirs: targets of `identification.point_at_fpir`.
        replicates: how often the people are drawn.
        seed: as in ``bootstrap.identity_bootstrap``; with the same people the draws are the same.

    Returns:
        ``(shares, tpir)``, ``[replicates, ranks]`` and ``[replicates, fpirs]``; NaN where a replicate drew no mated probe, or
        for TPIR no probe without a mate.
    """
    mated = searches.mated
    found = np.zeros((people, len(ranks)))
    np.add.at(found, who[mated], searches.rank[mated, None] <= np.asarray(ranks))
    asked = np.bincount(who[mated], minlength=people).astype(np.float64)

    mates, own = _descending(searches.mate[mated], who[mated])
    strangers, others = _descending(searches.stranger[~mated], who[~mated])
    above = np.searchsorted(-mates, -strangers, side="left")  # mates above each stranger
    shares, tpir = np.empty((replicates, len(ranks))), np.full((replicates, len(fpirs)), np.nan)
    step = max(1, BLOCK // max(1, len(who), people))
    for start in range(0, replicates, step):
        block = range(start, min(start + step, replicates))
        counts = identity_counts(people, block, seed)
        with np.errstate(invalid="ignore"):
            shares[start : block.stop] = (counts @ found) / (counts @ asked)[:, None]
        if not len(strangers) or not len(mates):
            continue
        alarms, hits = np.cumsum(counts[:, others], axis=1), np.cumsum(counts[:, own], axis=1)
        for row in np.flatnonzero((alarms[:, -1] > 0) & (hits[:, -1] > 0)):
            allowed = [allowed_false_accepts(int(alarms[row, -1]), fpir) for fpir in fpirs]
            first = np.searchsorted(alarms[row], allowed, side="right")  # the stranger who is one too many
            kept = np.append(above, len(mates))[first]
            tpir[start + row] = np.append(0.0, hits[row])[kept] / hits[row, -1]
    if not len(mates):
        return shares, tpir
    meetings = Meetings(np.stack([who, who], axis=1))
    for k, (rank, share) in enumerate(zip(ranks, shares_within(searches, ranks), strict=True)):
        off = np.where(mated, (searches.rank <= rank) - share, 0.0) / len(mates)
        shares[:, k] = towards(share, shares[:, k], meetings.error(off))
    if not len(strangers):
        return shares, tpir
    # A search is as a pair of one person: its mate or its best stranger, above the bar or not.
    scores = np.where(mated, searches.mate, searches.stranger)
    order = np.argsort(-scores, kind="stable")
    points, off = ranked(scores[order], mated[order]), np.empty(len(order))
    for k, fpir in enumerate(fpirs):
        off[order] = tar_influence(points, fpir)
        tpir[:, k] = towards(point_at_fpir(searches, fpir).tpir, tpir[:, k], meetings.error(off))
    return shares, tpir


def _descending(scores: NDArray[Any], who: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    order = np.argsort(-scores, kind="stable")
    return scores[order], who[order]
