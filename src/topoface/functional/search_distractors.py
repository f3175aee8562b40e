"""Searches in galleries that grow by distractors: entries whom nobody searches for, and who only get in the way.

MegaFace (I. Kemelmacher-Shlizerman et al., 2016) and TinyFace (Z. Cheng et al., 2018) ask how often the mate stays first as a
gallery grows. Similarities to distractors of several parts of the gallery add up, so that nested galleries cost one search.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.identification import Searches
from topoface.functional.search import exact_cosines, unit_table
from topoface.functional.verification import as_array

_BLOCK = 1 << 16  # searches looked at together


def in_turn(rows: NDArray[Any], ids: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], Searches]:
    """Searches of each row with each other row of its identity alone in the gallery, as MegaFace enrols mates.

    Args:
        rows: float32 ``[p, D]``, unit rows (or zeros).
        ids: ``[p]``, who each row is; any labels.

    Returns:
        ``(asked, mates, searches)``: the row that each search asks for, int64 ``[s]``, ascending; the row of its mate, -1 where it
        has none; and the searches. An identity of ``m`` rows makes ``m (m - 1)`` mated searches of rank 1, and one of a single row
        a search without a mate.
    """
    who = np.unique(as_array(ids), return_inverse=True)[1]
    asked, mates = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    order = np.argsort(who, kind="stable")
    for own in np.split(order, np.cumsum(np.bincount(who))[:-1]):
        if len(own) == 1:
            asked.append(own)
            mates.append(np.array([-1]))
        else:
            one, other = np.nonzero(~np.eye(len(own), dtype=np.bool_))
            asked.append(own[one])
            mates.append(own[other])
    probe, mate = np.concatenate(asked), np.concatenate(mates)
    place = np.argsort(probe, kind="stable")
    probe, mate = probe[place], mate[place]
    table, mated = unit_table(rows), mate >= 0
    found = alone(len(probe))
    found.mate[mated] = exact_cosines(table, table, probe[mated], mate[mated])
    return probe, mate, found._replace(mated=mated)


def alone(searches: int) -> Searches:
    """So many searches in an empty gallery."""
    return Searches(
        mated=np.zeros(searches, np.bool_),
        mate=np.full(searches, -np.inf),
        stranger=np.full(searches, -np.inf),
        rank=np.ones(searches, np.int64),
    )


def among(searches: Searches, asked: NDArray[np.int64], nearest: NDArray[Any]) -> Searches:
    """The same searches after more entries, nobody's mates, came into the gallery.

    Args:
        searches: in the gallery as it was.
        asked: ``[s]``, the probe of each search.
        nearest: ``[p, k]``, for each probe the cosines of the ``k`` new entries that are most similar to it.

    Returns:
        Ranks up to ``k`` are right (all, if there are ``k`` new entries), larger ones are only known to be larger. Ties count
        against the mate.
    """
    rank, stranger = searches.rank.copy(), searches.stranger.copy()
    for at in range(0, len(asked), _BLOCK):
        part = slice(at, at + _BLOCK)
        new = nearest[asked[part]]
        rank[part] += (new >= searches.mate[part, None]).sum(axis=1)
        stranger[part] = np.maximum(stranger[part], new.max(axis=1, initial=-np.inf))
    return searches._replace(rank=rank, stranger=stranger)
