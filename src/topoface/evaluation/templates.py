"""Judge features on a template protocol: pool the images of each template, compare pairs, search galleries."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.evaluation.features import Features
from topoface.evaluation.figures import Figure, PairFigures, cost_in_words, count_of, interval_in_words
from topoface.evaluation.operating_points import drawn_points, pair_figures
from topoface.evaluation.template_protocol import Search, TemplateProtocol
from topoface.evaluation.template_results import (
    FPIRS,
    RANKS,
    SearchFigures,
    TemplateVerification,
    TpirAtFpir,
)
from topoface.functional import identification as exact
from topoface.functional.bootstrap import Floats
from topoface.functional.search_bootstrap import search_bootstrap
from topoface.functional.tail_bootstrap import ScoredPairs
from topoface.functional.templates import pair_cosines, pool

Weighting = Literal["none", "norm", "detector", "detector+norm"]
# A template of which no image has a feature scores outside the range of cosines, on the wrong side of every threshold.
FAILED_GENUINE, FAILED_IMPOSTOR = -2.0, 2.0
_PAIRS = 1 << 20  # looked at together: figures do not depend on it
_CMC_RANKS = range(1, 21)


def judge_templates(
    features: Features,
    protocol: TemplateProtocol,
    *,
    weighting: Weighting = "detector+norm",
    bootstrap: int = 1000,
    seed: int = 0,
) -> TemplateVerification:
    """All figures of a template protocol.

    Args:
        features: a row for each image of the protocol.
        protocol: from ``open_ijb``.
        weighting: how much an image counts within its medium, beside the others. ``norm``: by the length of its feature, small
            for images that the model finds poor; otherwise every feature is normalised first. ``detector``: by the detector's
            score. Both is what the field's published figures use.
        bootstrap: replicates of the identity bootstrap; 0 for figures without intervals.
        seed: of the bootstrap. Two models judged with one seed see the same replicates.

    Raises:
        UserError: detection scores are wanted and the protocol has none, or the features are of other images.
    """
    units = template_vectors(features.rows, protocol, weighting)
    broken = ~np.logical_or.reduce(units, axis=1)
    return TemplateVerification(
        protocol=protocol,
        pairs=_verify(units, broken, protocol, bootstrap, seed) if len(protocol.pairs) else None,
        searches=tuple(
            _search(units, broken, search, protocol.people, bootstrap, seed) for search in protocol.searches
        ),
        failed_templates=int(broken.sum()),
        failures=features.failures,
        contract=_contract(features, protocol, weighting, bootstrap, seed),
    )


def template_vectors(
    rows: NDArray[Any], protocol: TemplateProtocol, weighting: Weighting
) -> NDArray[np.float32]:
    """Unit vectors ``[t, D]`` in the order of ``template_ids``; zeros where no image of a template has a feature.

    Images without a feature (rows of zeros) are left out: they take part in no mean.
    """
    if weighting not in get_args(Weighting):
        raise UserError(f"is {weighting!r}", "--weighting", f"give one of {', '.join(get_args(Weighting))}")
    if len(rows) != len(protocol.templates):
        raise UserError(
            f"{len(rows):,} features for {len(protocol.templates):,} images",
            protocol.uri,
            "give a row for each image",
        )
    weights = np.ones(len(rows))
    if "detector" in weighting:
        if protocol.detector is None:
            raise UserError(
                "has no scores of a detector (*_name_5pts_score.txt)",
                protocol.uri,
                "give --weighting norm or none",
            )
        weights = weights * protocol.detector
    lengths = _lengths(rows)
    if "norm" not in weighting:
        weights = weights / np.where(lengths > 0, lengths, 1.0)
    present = lengths > 0
    if present.all():
        ids, pooled = pool(rows, protocol.media, protocol.templates, weights)
    else:
        ids, pooled = pool(
            rows[present], protocol.media[present], protocol.templates[present], weights[present]
        )
    if len(ids) == len(protocol.template_ids):
        return pooled.astype(np.float32, copy=False)
    units = np.zeros((len(protocol.template_ids), rows.shape[1]), np.float32)
    units[np.searchsorted(protocol.template_ids, ids)] = pooled
    return units


def _lengths(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Norms ``[n]``, a block of rows at a time."""
    step = 1 << 14
    parts = [
        np.einsum("nd,nd->n", part, part)
        for part in (rows[at : at + step] for at in range(0, len(rows), step))
    ]
    return np.sqrt(np.concatenate(parts).astype(np.float64))


def _verify(
    units: NDArray[np.float32],
    broken: NDArray[np.bool_],
    protocol: TemplateProtocol,
    bootstrap: int,
    seed: int,
) -> PairFigures:
    """The figures of 1:1. Memory: a float32 for each pair, twice; with a bootstrap, also a few integers."""
    same = protocol.same
    scores = np.empty(len(same), np.float32)
    for at in range(0, len(same), _PAIRS):
        left, right = protocol.pairs[at : at + _PAIRS].T
        part = scores[at : at + _PAIRS]
        part[:] = pair_cosines(units, left, right)
        if broken.any():
            failed = broken[left] | broken[right]
            part[failed] = np.where(same[at : at + _PAIRS][failed], FAILED_GENUINE, FAILED_IMPOSTOR)
    genuine, impostor = scores[same], scores[~same]
    del scores
    if not bootstrap:
        return pair_figures(genuine, impostor)
    people = protocol.people.astype(np.int32)
    kinds = [
        ScoredPairs(values, *(people[protocol.pairs[kind, side]] for side in (0, 1)))
        for kind, values in ((same, genuine), (~same, impostor))
    ]
    drawn = drawn_points(kinds[0], kinds[1], int(people.max()) + 1, bootstrap=bootstrap, seed=seed)
    return pair_figures(genuine, impostor, drawn)


def _search(
    units: NDArray[np.float32],
    broken: NDArray[np.bool_],
    search: Search,
    people: NDArray[np.int64],
    bootstrap: int,
    seed: int,
) -> SearchFigures:
    whole = ~broken[search.gallery]  # what failed finds nobody and is found by nobody
    searches = exact.search(
        units[search.probes],
        units[search.gallery[whole]],
        search.probe_people,
        search.gallery_people[whole],
        depth=_CMC_RANKS[-1],
    )
    has_mate, failed = np.isin(search.probe_people, search.gallery_people), broken[search.probes]
    searches = searches._replace(
        mated=has_mate,
        mate=np.where(failed, FAILED_GENUINE, searches.mate),
        stranger=np.where(
            failed, FAILED_IMPOSTOR, searches.stranger
        ),  # a stranger who failed is a false alarm
        rank=np.where(failed, 1 + len(search.gallery), searches.rank),
    )
    mated = int(searches.mated.sum())
    strangers = len(searches.mated) - mated
    fpirs = [*FPIRS, *_det_fpirs(strangers)] if mated and strangers else []
    shares, tpir = (
        search_bootstrap(
            searches,
            people[search.probes],
            int(people.max()) + 1,
            _CMC_RANKS,
            fpirs,
            replicates=bootstrap,
            seed=seed,
        )
        if bootstrap and mated
        else (None, None)
    )
    cmc = exact.shares_within(searches, _CMC_RANKS) if mated else []
    points = [exact.point_at_fpir(searches, fpir) for fpir in fpirs]
    found = SearchFigures(
        name=search.name,
        gallery=len(search.gallery),
        mated=mated,
        strangers=strangers,
        ranks={r: Figure(cmc[r - 1]).within(_column(shares, r - 1), mated) for r in RANKS} if mated else {},
        tpir=tuple(
            TpirAtFpir(
                target=fpir,
                **point._asdict() | {"tpir": Figure(point.tpir).within(_column(tpir, k), mated)},
                warning=_search_warning(search.name, fpir, point.allowed, strangers),
            )
            for k, (fpir, point) in enumerate(zip(FPIRS, points, strict=False))
        ),
        cmc=_curve(_CMC_RANKS if mated else (), cmc, shares),
        det=_curve(fpirs, [1 - point.tpir for point in points], None if tpir is None else 1 - tpir)[
            :, len(FPIRS) :
        ],
        replicates={},
    )
    drawn = (
        {}
        if shares is None or tpir is None
        else (
            {f"{search.name} rank-{r}": shares[:, r - 1] for r in RANKS}
            | {f"{search.name} tpir@{fpir:g}": tpir[:, k] for k, fpir in enumerate(FPIRS if fpirs else ())}
        )
    )
    return replace(found, replicates=drawn)


def _det_fpirs(strangers: int) -> list[float]:
    """Eight FPIRs a decade, from one false alarm up."""
    return (
        np.geomspace(1 / strangers, 1, max(2, int(8 * np.log10(strangers)))).tolist()
        if strangers > 1
        else [1.0]
    )


def _column(replicates: Floats | None, k: int) -> Floats | None:
    return None if replicates is None else replicates[:, k]


def _curve(at: Sequence[float], values: Sequence[float], replicates: Floats | None) -> Floats:
    """``[4, points]``: where, value, and the ends of its interval."""
    figures = [Figure(value).within(_column(replicates, k)) for k, value in enumerate(values)]
    return np.array([(where, *figure) for where, figure in zip(at, figures, strict=True)]).reshape(-1, 4).T


def _search_warning(gallery: str, fpir: float, allowed: int, strangers: int) -> str:
    if allowed >= 10:
        return ""
    return (
        f"TPIR at FPIR {fpir:g} in {gallery} rests on {count_of(allowed, 'false alarm')} of "
        f"{strangers:,} searches without a mate."
    )


def _contract(
    features: Features, protocol: TemplateProtocol, weighting: Weighting, bootstrap: int, seed: int
) -> dict[str, str]:
    weights: Mapping[str, str] = {
        "none": "none: every feature is normalised",
        "norm": "length of the feature",
        "detector": "score of the detector; every feature is normalised",
        "detector+norm": "score of the detector times length of the feature",
    }
    return {
        "protocol": protocol.uri,
        "fingerprint": protocol.fingerprint,
        "features": features.origin,
        "alignment": protocol.alignment,
        "pooling": "mean of each medium, sum of the media, normalised",
        "weight of an image": weights[weighting],
        "score": "cosine of two templates",
        "TAR at FAR": "lowest threshold whose FAR does not exceed the target (exact)",
        "rank": "mate among the so many most similar, of the probes with a mate; ties count against it",
        "TPIR at FPIR": "mate above the lowest bar that so many of the probes without a mate pass (exact), at any rank",
        "minDCF": cost_in_words(),
        "intervals": interval_in_words(bootstrap, "people, in searches over those of the probes", seed),
        "failures": f"{len(features.failures)} of {len(protocol.images)} images, left out of their templates; an empty template "
        "counts as an error",
    }
