"""Search: who is most similar, and the figures of a search, rank (CMC) and TPIR at FPIR; all exact.

A probe is *mated* when its identity is in the gallery. Rates are over searches, not over pairs: one stranger above the threshold
makes a search a false alarm, however large the gallery. (Definitions: NIST, face recognition 1:N; FNIR there is 1 - TPIR.)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.search import exact_cosines, prepare, unit_table
from topoface.functional.search import most_similar as most_similar
from topoface.functional.verification import allowed_false_accepts, as_array

_BLOCK = 1 << 22  # similarities looked at together


class Searches(NamedTuple):
    """All that the figures need to know of each search.

    Attributes:
        mated: bool ``[p]``.
        mate: ``[p]``, similarity of the best gallery entry of the probe's identity; ``-inf`` where there is none.
        stranger: ``[p]``, similarity of the best entry of any other identity; ``-inf`` where there is none.
        rank: int64 ``[p]``, 1 + entries of other identities that are at least as similar as the mate: ties count against it.
            For a probe without a mate, entries of the gallery + 1.
    """

    mated: NDArray[np.bool_]
    mate: NDArray[Any]
    stranger: NDArray[Any]
    rank: NDArray[np.int64]


class SearchPoint(NamedTuple):
    """Where a target FPIR leads.

    Attributes:
        bar: a candidate must lie strictly above it.
        tpir: share of mated searches whose mate lies above the bar.
        fpir: share of searches without a mate that find somebody above it; never above the one asked.
        false_alarms: how many those are.
        allowed: how many the asked FPIR allows, ``floor(fpir * searches without a mate)``; ties can leave some unused.
    """

    bar: float
    tpir: float
    fpir: float
    false_alarms: int
    allowed: int


def tpir_at_fpir(similarity: ArrayLike, probe_ids: ArrayLike, gallery_ids: ArrayLike, fpir: float) -> float:
    """Largest true positive identification rate whose FPIR does not exceed ``fpir``.

    TPIR is the share of mated searches whose mate lies above the threshold, at whatever rank; FPIR is the share of searches
    without a mate in which anybody does.

    Args:
        similarity: ``[probes, gallery]``, higher means more alike.
        probe_ids: ``[probes]``, who each probe is; any labels.
        gallery_ids: ``[gallery]``, who each entry is; one identity may have several entries, the best of which counts.
        fpir: in [0, 1].

    Raises:
        ValueError: shapes that do not fit, a NaN, a rate outside [0, 1], no probe with a mate, or none without.
    """
    return point_at_fpir(describe(similarity, probe_ids, gallery_ids), fpir).tpir


def cmc(
    similarity: ArrayLike, probe_ids: ArrayLike, gallery_ids: ArrayLike, ranks: Sequence[int]
) -> list[float]:
    """Share of mated probes whose mate is among the ``r`` best entries, for each ``r`` in ``ranks``.

    Probes without a mate are left out. Between equal similarities the mate comes last, so a model that tells nobody apart gets 0.
    Arguments as in :func:`tpir_at_fpir`; of several mates the best counts.

    Raises:
        ValueError: shapes that do not fit, a NaN, a rank below 1, or no probe with a mate.
    """
    return shares_within(describe(similarity, probe_ids, gallery_ids), ranks)


def describe(similarity: ArrayLike, probe_ids: ArrayLike, gallery_ids: ArrayLike) -> Searches:
    """What each search found; arguments and errors as in :func:`tpir_at_fpir`.

    Searches of parts of the probes may be put together with :func:`joined`.
    """
    scores, probes, gallery = as_array(similarity), as_array(probe_ids), as_array(gallery_ids)
    if scores.shape != (*probes.shape, *gallery.shape) or scores.ndim != 2:
        raise ValueError(
            f"similarity {scores.shape} must be [probes, gallery] = [{len(probes)}, {len(gallery)}]"
        )
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)
    codes = np.unique(np.concatenate([probes, gallery]), return_inverse=True)[1]
    who, entries = codes[: len(probes)], codes[len(probes) :]
    step = max(1, _BLOCK // max(1, len(gallery)))
    parts = [
        _describe(scores[at : at + step], who[at : at + step, None] == entries)
        for at in range(0, len(probes), step)
    ]
    return joined(parts)


def joined(parts: Sequence[Searches]) -> Searches:
    """Searches of several groups of probes as one."""
    if not parts:
        raise ValueError("no searches; give at least one probe")
    return Searches(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def point_at_fpir(searches: Searches, fpir: float) -> SearchPoint:
    """The lowest bar whose FPIR does not exceed ``fpir``: the ``k + 1``-th largest of the strangers' best, k false alarms allowed."""
    _require_mates(searches)
    strangers = searches.stranger[~searches.mated]
    if not len(strangers):
        raise ValueError("every probe has a mate in the gallery; FPIR is counted over probes without one")
    allowed = allowed_false_accepts(len(strangers), fpir)
    place = len(strangers) - 1 - allowed
    bar = -np.inf if place < 0 else np.partition(strangers, place)[place]
    false_alarms = int((strangers > bar).sum())
    return SearchPoint(
        bar=float(bar),
        tpir=float((searches.mate[searches.mated] > bar).mean()),
        fpir=false_alarms / len(strangers),
        false_alarms=false_alarms,
        allowed=allowed,
    )


def shares_within(searches: Searches, ranks: Sequence[int]) -> list[float]:
    """Share of mated searches whose mate has rank ``r`` or better, for each ``r``."""
    _require_mates(searches)
    if any(rank < 1 for rank in ranks):
        raise ValueError(f"ranks {list(ranks)} must be 1 or more")
    reached = searches.rank[searches.mated]
    return [float((reached <= rank).mean()) for rank in ranks]


def _describe(scores: NDArray[Any], mates: NDArray[np.bool_]) -> Searches:
    if np.isnan(scores).any():
        raise ValueError(
            "a similarity is NaN; leave such probes and entries out, or score them below all others"
        )
    low = np.array(-np.inf, scores.dtype)
    mate = np.where(mates, scores, low).max(axis=1, initial=-np.inf)
    others = np.where(mates, low, scores)
    mated = np.logical_or.reduce(mates, axis=1)
    before = ((others >= mate[:, None]) & ~mates).sum(axis=1)
    return Searches(
        mated=mated,
        mate=mate,
        stranger=others.max(axis=1, initial=-np.inf),
        rank=1 + np.where(mated, before, mates.shape[1]).astype(np.int64),
    )


def _require_mates(searches: Searches) -> None:
    if not searches.mated.any():
        raise ValueError("no probe has a mate in the gallery; check that both name people the same way")


def search(
    probes: NDArray[Any],
    gallery: NDArray[Any],
    probe_ids: ArrayLike,
    gallery_ids: ArrayLike,
    *,
    depth: int = 20,
    by_person: bool = False,
) -> Searches:
    """What each search found, without a table of all similarities: `describe` of exact cosines, with ranks up to ``depth``.

    Args:
        probes: float32 ``[p, D]``, unit rows (or zeros).
        gallery: float32 ``[g, D]``, rows not longer than 1.
        probe_ids: ``[p]``, who each probe is; any labels.
        gallery_ids: ``[g]``, who each entry is; one identity may have several entries, the best of which counts.
        depth: ranks up to this one are right; larger ones are only known to be larger.
        by_person: count the *identities* before the mate, each by its best entry, and not the entries.

    Raises:
        ValueError: as `search.most_similar`, or labels that do not fit.
    """
    who, entries = as_array(probe_ids), as_array(gallery_ids)
    if (len(who), len(entries)) != (len(probes), len(gallery)):
        raise ValueError(
            f"{len(who)} and {len(entries)} labels for {len(probes)} probes and {len(gallery)} entries"
        )
    codes = np.unique(np.concatenate([who, entries]), return_inverse=True)[1]
    who, entries = codes[: len(who)], codes[len(who) :]
    order = np.argsort(entries, kind="stable")
    first, last = (np.searchsorted(entries[order], who, side=side) for side in ("left", "right"))
    enrolled = last - first
    # So many entries hold, beside all of a probe's own, `depth` others; or those of `depth` others.
    most = int(np.bincount(entries).max())
    near = (depth + 1) * most if by_person else depth + most
    positions, cosines = most_similar(probes, prepare(gallery), near)
    # Every entry of a probe's own identity, whatever its place.
    asked = np.repeat(np.arange(len(who)), enrolled)
    offset = np.arange(len(asked)) - np.repeat(np.cumsum(enrolled) - enrolled, enrolled)
    own = exact_cosines(unit_table(probes), unit_table(gallery), asked, order[first[asked] + offset])
    mate = np.full(len(who), -np.inf)
    np.maximum.at(mate, asked, own)
    strange = entries[positions] != who[:, None]
    ahead = strange & (cosines >= mate[:, None])
    before = _distinct(np.where(ahead, entries[positions], -1)) if by_person else ahead.sum(axis=1)
    return Searches(
        mated=enrolled > 0,
        mate=mate,
        stranger=np.where(strange, cosines, -np.inf).max(axis=1),
        rank=1 + np.where(enrolled > 0, before, len(entries)).astype(np.int64),
    )


def _distinct(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many different labels from 0 each row has; -1 is none."""
    ordered = np.sort(labels, axis=1)
    different: NDArray[np.int64] = (np.diff(ordered, axis=1, prepend=-1) != 0).sum(axis=1)
    return different
