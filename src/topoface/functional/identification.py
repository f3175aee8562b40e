"""Search: who is most similar, and the figures of a search, rank (CMC) and TPIR at FPIR; all exact.

A probe is *mated* when its identity is in the gallery. Rates are over searches, not over pairs: one stranger above the threshold
makes a search a false alarm, however large the gallery. (Definitions: NIST, face recognition 1:N; FNIR there is 1 - TPIR.)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.compiled import compiled
from topoface.functional.verification import allowed_false_accepts, as_array

_BLOCK = 1 << 22  # similarities looked at together
_PROBES, _ENTRIES = 512, 8192  # of a tile of the product; no result depends on them


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


def most_similar(
    probes: NDArray[Any], gallery: NDArray[Any], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ``k`` gallery entries most similar to each probe, exactly: what sorting all cosines would give.

    A float32 product of tiles finds candidates: all that could be among the ``k`` best if the product errs as far as it can
    (`product_error`). They alone are computed again, in float64, so that no answer depends on tiles, threads or library.

    Args:
        probes: float32 ``[p, D]``, unit rows (or zeros).
        gallery: float32 ``[g, D]``, unit rows (or zeros).
        k: at least 1; all entries where there are fewer.

    Returns:
        ``(positions, cosines)``, ``[p, min(k, g)]``, best first; of equal ones the lower position first.

    Raises:
        ValueError: rows longer than 1, tables of two widths, an empty gallery, or ``k`` below 1.
    """
    left, right = unit_table(probes), unit_table(gallery)
    k = min(k, len(right))
    if k < 1 or left.shape[1] != right.shape[1]:
        raise ValueError(
            f"k of {k}, probes {left.shape} and gallery {right.shape}; give k >= 1 and tables of one width"
        )
    found = [_most_similar(left[at : at + _PROBES], right, k) for at in range(0, len(left), _PROBES)]
    positions = np.concatenate([np.empty((0, k), np.int64), *(part[0] for part in found)])
    return positions, np.concatenate([np.empty((0, k)), *(part[1] for part in found)])


def product_error(dimension: int) -> float:
    """Bound of what a float32 product of unit rows errs by, in whatever order it adds (Higham: gamma_D, with room)."""
    return float(1.01 * (dimension + 2) * 2.0**-24)


def unit_table(rows: NDArray[Any]) -> NDArray[np.float32]:
    """The rows as a contiguous float32 table, if none is longer than 1. ValueError otherwise."""
    table = np.ascontiguousarray(rows, dtype=np.float32)
    for at in range(0, len(table), 1 << 14):
        part = table[at : at + (1 << 14)]
        if not np.einsum("nd,nd->n", part, part).max(initial=0.0) < 1 + 1e-5:  # NaN is refused too
            raise ValueError("rows must be finite and no longer than 1; normalise them first")
    return table


def exact_cosines(
    rows: NDArray[np.float32], columns: NDArray[np.float32], i: NDArray[Any], j: NDArray[Any]
) -> NDArray[np.float64]:
    """Inner products of ``rows[i]`` and ``columns[j]`` summed in float64, ``[m]``: right to 1e-15, whatever the order."""
    loops = compiled(_exact_loops, exact_loop)
    if loops is not None:
        products: NDArray[np.float64] = loops(rows, columns, i, j)
        return products
    step = 1 << 12
    parts = [
        np.einsum("md,md->m", rows[i[at : at + step]].astype(np.float64), columns[j[at : at + step]])
        for at in range(0, len(i), step)
    ]
    return np.concatenate([np.empty(0), *parts])


def exact_loop(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Inner product of two float32 vectors in float64, as a loop to compile."""
    total = 0.0
    for d in range(len(a)):
        total += np.float64(a[d]) * np.float64(b[d])
    return total


def _exact_loops(
    rows: NDArray[np.float32], columns: NDArray[np.float32], i: NDArray[Any], j: NDArray[Any]
) -> NDArray[np.float64]:
    products = np.empty(len(i))
    for m in range(len(i)):
        products[m] = exact_loop(rows[i[m]], columns[j[m]])
    return products


def _most_similar(
    probes: NDArray[np.float32], gallery: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """`most_similar` for one tile of probes: keep whatever reaches the k-th best so far, less twice the error."""
    slack = np.float32(2 * product_error(probes.shape[1]))
    bar = np.full(len(probes), -np.inf, np.float32)
    row, entry = np.empty(0, np.int64), np.empty(0, np.int64)
    for at in range(0, len(gallery), _ENTRIES):
        product = probes @ gallery[at : at + _ENTRIES].T
        width = product.shape[1]
        if at == 0 and k <= width:
            bar = np.partition(product, width - k, axis=1)[:, width - k] - slack
        fresh = np.flatnonzero(product >= bar[:, None])
        row, entry = np.append(row, fresh // width), np.append(entry, at + fresh % width)
        if len(row) > 4 * k * len(probes):
            best, exact = _best(probes, gallery, row, entry, k)
            row, entry = row[best].ravel(), entry[best].ravel()
            bar = exact[:, -1].astype(np.float32) - slack
    best, exact = _best(probes, gallery, row, entry, k)
    return entry[best], exact


def _best(
    probes: NDArray[np.float32],
    gallery: NDArray[np.float32],
    row: NDArray[np.int64],
    entry: NDArray[np.int64],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Places ``[p, k]`` of the best candidates of each row, each of which has k or more, and their exact cosines."""
    exact = exact_cosines(probes, gallery, row, entry)
    order = np.lexsort((entry, -exact, row))
    starts = np.searchsorted(row[order], np.arange(len(probes)))
    best = order[starts[:, None] + np.arange(k)]
    return best, exact[best]
