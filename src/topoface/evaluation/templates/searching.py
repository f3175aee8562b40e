"""Judge one search (1:N): ranks, TPIR at FPIR, their curves and intervals, in galleries that grow by distractors."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.embedding import FAILED_GENUINE, FAILED_IMPOSTOR
from topoface.evaluation.figures import Figure, count_of
from topoface.evaluation.templates.protocol import Search
from topoface.evaluation.templates.results import FPIRS, RANKS, GallerySize, SearchFigures, TpirAtFpir
from topoface.functional import identification as exact
from topoface.functional.bootstrap import Floats
from topoface.functional.draws import generator
from topoface.functional.identification import Searches
from topoface.functional.search import most_similar, prepare
from topoface.functional.search_bootstrap import search_bootstrap
from topoface.functional.search_distractors import alone, among, in_turn

_CMC_RANKS = range(1, 21)
_NEVER = np.iinfo(np.int64).max  # rank of a mate who is not found however far one looks


class _Asked(NamedTuple):
    """The searches before any distractor joins the gallery.

    Attributes:
        probe: int64 ``[s]``, the probe of each search.
        mated: bool ``[s]``, whether it should find somebody.
        failed: bool ``[s]``, whether the probe has no feature.
        found: what it finds; without a mate also where the mate has no feature.
    """

    probe: NDArray[np.int64]
    mated: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    found: Searches


class _Judged(NamedTuple):
    """Shares by rank and points by FPIR with their replicates; nothing where no probe has a mate, no points where every has."""

    mated: int
    shares: list[float]
    points: list[exact.SearchPoint]
    drawn_shares: Floats | None
    drawn_tpir: Floats | None

    def share(self, rank: int) -> Figure:
        """Of mates at this rank or a better one."""
        return Figure(self.shares[rank - 1]).within(_column(self.drawn_shares, rank - 1), self.mated)

    def tpir(self, k: int) -> Figure:
        """At the FPIR of this place."""
        return Figure(self.points[k].tpir).within(_column(self.drawn_tpir, k), self.mated)


def judge_search(
    units: NDArray[np.float32],
    broken: NDArray[np.bool_],
    search: Search,
    gallery: NDArray[np.float32],
    owners: NDArray[np.int64],
    people: NDArray[np.int64],
    *,
    by_person: bool,
    bootstrap: int,
    seed: int,
) -> SearchFigures:
    """All figures of one search.

    Args:
        units: float32 ``[t, D]``, of all templates.
        broken: bool ``[t]``: no image of them has a feature. What is broken finds nobody and is found by nobody, and a broken
            probe without a mate raises an alarm.
        search: who is searched for.
        gallery: float32 ``[g, D]``, whom they are searched in, as fused; without the distractors.
        owners: int64 ``[g]``, the person of each, as in ``search.gallery_people``.
        people: int64 ``[t]``, of ``TemplateProtocol``.
        by_person: ranks count people, where one has several entries.
        bootstrap: replicates; 0 for none.
        seed: of the bootstrap and of the order of the distractors.
    """
    asked = _asked(units, broken, search, gallery, owners, by_person)
    who = np.unique(people[search.probes[asked.probe]], return_inverse=True)[1]
    enrolled = 1 if search.in_turn else len(np.unique(search.gallery_people))
    strangers = int((~asked.mated).sum())
    sizes: list[GallerySize] = []
    drawn: dict[str, Floats] = {}
    for count, grown in _growing(units, broken, search, asked, seed):
        searches = _settled(asked, grown)
        last = count == len(search.distractors)
        judged = _judge(searches, who, [*FPIRS, *(_det_fpirs(strangers) if last else ())], bootstrap, seed)
        if len(search.distractors) and judged.mated:
            sizes.append(_size(judged, count, enrolled + count))
        if not last:
            drawn |= _drawn_of_size(judged, search.name, enrolled + count)
    return SearchFigures(
        name=search.name,
        gallery=enrolled + len(search.distractors),
        distractors=len(search.distractors),
        mated=judged.mated,
        strangers=strangers,
        ranks={rank: judged.share(rank) for rank in RANKS if judged.mated},
        tpir=tuple(
            TpirAtFpir(
                target=fpir,
                **point._asdict() | {"tpir": judged.tpir(k)},
                warning=_search_warning(search.name, fpir, point.allowed, strangers),
            )
            for k, (fpir, point) in enumerate(zip(FPIRS, judged.points, strict=False))
        ),
        cmc=_curve(_CMC_RANKS, judged.shares, judged.drawn_shares),
        det=_det(judged, strangers),
        sizes=tuple(sizes),
        replicates=_drawn(judged, search.name) | drawn,
    )


def _asked(
    units: NDArray[np.float32],
    broken: NDArray[np.bool_],
    search: Search,
    gallery: NDArray[np.float32],
    owners: NDArray[np.int64],
    by_person: bool,
) -> _Asked:
    probes, failed = units[search.probes], broken[search.probes]
    if search.in_turn:
        asked, mates, found = in_turn(probes, search.probe_people)
        mated = mates >= 0
        return _Asked(asked, mated, failed[asked], found._replace(mated=mated & ~failed[mates]))
    mated = np.isin(search.probe_people, search.gallery_people)
    if len(gallery):
        depth = _CMC_RANKS[-1]
        found = exact.search(probes, gallery, search.probe_people, owners, depth=depth, by_person=by_person)
    else:
        found = alone(len(probes))
    return _Asked(np.arange(len(probes)), mated, failed, found)


def _growing(
    units: NDArray[np.float32], broken: NDArray[np.bool_], search: Search, asked: _Asked, seed: int
) -> Iterator[tuple[int, Searches]]:
    """The searches among none, 10, 100, ... and all distractors; each gallery holds all smaller ones."""
    total, searches = len(search.distractors), asked.found
    if not search.in_turn:
        yield 0, searches
    order = search.distractors[generator(seed, "distractors").permutation(total)]
    start, stop = 0, 10
    while start < total:
        added = order[start:stop]
        added = added[~broken[added]]
        if len(added):
            nearest = most_similar(units[search.probes], prepare(units[added]), _CMC_RANKS[-1])[1]
            searches = among(searches, asked.probe, nearest)
        start, stop = min(stop, total), 10 * stop
        yield start, searches


def _settled(asked: _Asked, found: Searches) -> Searches:
    """The searches with those that failed on the wrong side of every bar and rank."""
    lost = asked.failed | (asked.mated & ~found.mated)
    return Searches(
        mated=asked.mated,
        mate=np.where(lost, FAILED_GENUINE, found.mate),
        stranger=np.where(
            asked.failed, FAILED_IMPOSTOR, found.stranger
        ),  # a stranger who failed is a false alarm
        rank=np.where(lost, _NEVER, found.rank),
    )


def _judge(
    searches: Searches, who: NDArray[np.int64], fpirs: list[float], bootstrap: int, seed: int
) -> _Judged:
    """``who``: the person of each search, from 0."""
    mated = int(searches.mated.sum())
    if not mated:
        return _Judged(0, [], [], None, None)
    if mated == len(searches.mated):
        fpirs = []
    shares, tpir = (
        search_bootstrap(
            searches, who, int(who.max()) + 1, _CMC_RANKS, fpirs, replicates=bootstrap, seed=seed
        )
        if bootstrap
        else (None, None)
    )
    points = [exact.point_at_fpir(searches, fpir) for fpir in fpirs]
    return _Judged(mated, exact.shares_within(searches, _CMC_RANKS), points, shares, tpir)


def _size(judged: _Judged, distractors: int, gallery: int) -> GallerySize:
    found = {fpir: judged.tpir(k) for k, fpir in enumerate(FPIRS[: len(judged.points)])}
    return GallerySize(
        distractors=distractors,
        gallery=gallery,
        rank1=judged.share(1),
        fnir={fpir: Figure(1 - tpir.value, 1 - tpir.high, 1 - tpir.low) for fpir, tpir in found.items()},
    )


def _drawn(judged: _Judged, name: str) -> dict[str, Floats]:
    """Replicates by the names of ``SearchFigures.named``."""
    shares, tpir = judged.drawn_shares, judged.drawn_tpir
    if shares is None or tpir is None:
        return {}
    found = {f"{name} rank-{rank}": shares[:, rank - 1] for rank in RANKS}
    return found | {f"{name} tpir@{f:g}": tpir[:, k] for k, f in enumerate(FPIRS[: tpir.shape[1]])}


def _drawn_of_size(judged: _Judged, name: str, gallery: int) -> dict[str, Floats]:
    """The same of a smaller gallery."""
    shares, tpir = judged.drawn_shares, judged.drawn_tpir
    if shares is None or tpir is None:
        return {}
    found = {f"{name} rank-1 of {gallery:,}": shares[:, 0]}
    return found | {
        f"{name} fnir@{f:g} of {gallery:,}": 1 - tpir[:, k] for k, f in enumerate(FPIRS[: tpir.shape[1]])
    }


def _det_fpirs(strangers: int) -> list[float]:
    """Eight FPIRs a decade, from one false alarm up."""
    return (
        np.geomspace(1 / strangers, 1, max(2, int(8 * np.log10(strangers)))).tolist()
        if strangers > 1
        else [1.0]
    )


def _det(judged: _Judged, strangers: int) -> Floats:
    points, drawn = judged.points[len(FPIRS) :], judged.drawn_tpir
    fpirs = _det_fpirs(strangers) if points else []
    missed = None if drawn is None else 1 - drawn[:, len(FPIRS) :]
    return _curve(fpirs, [1 - point.tpir for point in points], missed)


def _column(replicates: Floats | None, k: int) -> Floats | None:
    return None if replicates is None else replicates[:, k]


def _curve(at: Sequence[float], values: Sequence[float], replicates: Floats | None) -> Floats:
    """``[4, points]``: where, value, and the ends of its interval; no points without values."""
    figures = [Figure(value).within(_column(replicates, k)) for k, value in enumerate(values)]
    return np.array([(where, *figure) for where, figure in zip(at, figures, strict=False)]).reshape(-1, 4).T


def _search_warning(gallery: str, fpir: float, allowed: int, strangers: int) -> str:
    if allowed >= 10:
        return ""
    return (
        f"TPIR at FPIR {fpir:g} in {gallery} rests on {count_of(allowed, 'false alarm')} of "
        f"{strangers:,} searches without a mate."
    )
