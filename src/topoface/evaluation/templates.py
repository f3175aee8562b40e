"""Judge features on a template protocol: pool the images of each template, compare pairs, search galleries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.evaluation.features import Features
from topoface.evaluation.operating_points import TEMPLATE_FARS, points_at_fars
from topoface.evaluation.template_protocol import Search, TemplateProtocol
from topoface.evaluation.verification import TarAtFar, count_of, without_nan
from topoface.functional import identification as exact
from topoface.functional.templates import pair_cosines, pool

Weighting = Literal["none", "norm", "detector", "detector+norm"]
RANKS: Final = (1, 5, 10)
FPIRS: Final = (0.1, 0.01)

# A template of which no image has a feature scores outside the range of cosines, on the wrong side of every threshold.
FAILED_GENUINE, FAILED_IMPOSTOR = -2.0, 2.0
_PAIRS, _PROBES = 1 << 20, 2048  # looked at together: figures do not depend on them


@dataclass(frozen=True, kw_only=True)
class SearchFigures:
    """What searching one gallery gave.

    Attributes:
        name: of the gallery.
        gallery: templates in it.
        mated: probes whose person is in it.
        strangers: probes whose person is not.
        ranks: share of mated probes by rank: the mate is among the so many most similar.
        tpir: one for each FPIR in ``FPIRS``; empty where every probe has a mate, as in all galleries together.
    """

    name: str
    gallery: int
    mated: int
    strangers: int
    ranks: dict[int, float]
    tpir: dict[float, exact.SearchPoint]


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateVerification:
    """What features reached on a template protocol.

    Attributes:
        protocol: what was judged on; not part of the JSON.
        tar: one for each FAR in ``TEMPLATE_FARS``; empty where there are no pairs.
        searches: one for each gallery.
        failed_templates: templates of which no image has a feature; their pairs and searches count as errors.
        failures: name and reason for each image without a feature.
        contract: how the figures came about, in words.
    """

    protocol: TemplateProtocol
    tar: tuple[TarAtFar, ...]
    searches: tuple[SearchFigures, ...]
    failed_templates: int
    failures: tuple[tuple[str, str], ...]
    contract: dict[str, str]

    @property
    def name(self) -> str:
        """The protocol's name."""
        return self.protocol.name

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits these figures, a sentence each."""
        found = [point.warning for point in self.tar if point.warning]
        if self.failures:
            found.insert(
                0,
                f"{count_of(len(self.failures), 'image')} had no feature and were left out of their templates; "
                f"{count_of(self.failed_templates, 'template')} had none left and counts as an error.",
            )
        return tuple(
            found
            + [
                f"TPIR at FPIR {fpir:g} in {search.name} rests on {count_of(point.allowed, 'false alarm')} of "
                f"{search.strangers:,} searches without a mate."
                for search in self.searches
                for fpir, point in search.tpir.items()
                if point.allowed < 10
            ]
        )

    def summary(self) -> dict[str, float]:
        """The figures by name, for tables."""
        figures = {f"tar@{point.target:g}": point.tar.value for point in self.tar}
        for search in self.searches:
            figures |= {f"{search.name} rank-{rank}": share for rank, share in search.ranks.items()}
            figures |= {f"{search.name} tpir@{fpir:g}": point.tpir for fpir, point in search.tpir.items()}
        return figures

    def to_json(self) -> dict[str, Any]:
        """Everything but the images, in types that ``json`` can write; NaN and inf become null."""
        same = self.protocol.same
        content = {
            "name": self.name,
            "images": len(self.protocol.images),
            "templates": len(self.protocol.template_ids),
            "genuine": int(same.sum()),
            "impostors": int((~same).sum()),
            "tar_at_far": [{**vars(point), "tar": point.tar.value} for point in self.tar],
            "searches": [
                {
                    **vars(search),
                    "ranks": {str(rank): share for rank, share in search.ranks.items()},
                    "tpir": [{"target": fpir, **point._asdict()} for fpir, point in search.tpir.items()],
                }
                for search in self.searches
            ],
            "failed_templates": self.failed_templates,
            "failures": [list(failure) for failure in self.failures],
            "warnings": list(self.warnings),
            "contract": self.contract,
        }
        return {key: without_nan(value) for key, value in content.items()}


def judge_templates(
    features: Features, protocol: TemplateProtocol, *, weighting: Weighting = "detector+norm"
) -> TemplateVerification:
    """All figures of a template protocol.

    Args:
        features: a row for each image of the protocol.
        protocol: from ``open_ijb``.
        weighting: how much an image counts within its medium, beside the others. ``norm``: by the length of its feature, small
            for images that the model finds poor; otherwise every feature is normalised first. ``detector``: by the detector's
            score. Both is what the field's published figures use.

    Raises:
        UserError: detection scores are wanted and the protocol has none, or the features are of other images.
    """
    units = template_vectors(features.rows, protocol, weighting)
    broken = ~np.logical_or.reduce(units, axis=1)
    return TemplateVerification(
        protocol=protocol,
        tar=_verify(units, broken, protocol) if len(protocol.pairs) else (),
        searches=tuple(_search(units, broken, search) for search in protocol.searches),
        failed_templates=int(broken.sum()),
        failures=features.failures,
        contract=_contract(features, protocol, weighting),
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
    units: NDArray[np.float32], broken: NDArray[np.bool_], protocol: TemplateProtocol
) -> tuple[TarAtFar, ...]:
    """TAR at each FAR. Memory: a float32 for each pair."""
    same = protocol.same
    genuine = np.empty(int(same.sum()), np.float32)
    impostor = np.empty(len(same) - len(genuine), np.float32)
    filled = {True: 0, False: 0}
    for at in range(0, len(same), _PAIRS):
        left, right = protocol.pairs[at : at + _PAIRS].T
        scores = pair_cosines(units, left, right)
        kind = same[at : at + _PAIRS]
        if broken.any():
            failed = broken[left] | broken[right]
            scores[failed] = np.where(kind[failed], FAILED_GENUINE, FAILED_IMPOSTOR)
        for label, target in ((True, genuine), (False, impostor)):
            part = scores[kind == label]
            target[filled[label] : filled[label] + len(part)] = part
            filled[label] += len(part)
    return tuple(points_at_fars(genuine, impostor, TEMPLATE_FARS))


def _search(units: NDArray[np.float32], broken: NDArray[np.bool_], search: Search) -> SearchFigures:
    """Ranks and TPIR of one gallery. Memory: the similarities of ``_PROBES`` probes."""
    gallery = np.ascontiguousarray(units[search.gallery])
    parts = []
    for at in range(0, len(search.probes), _PROBES):
        probes = search.probes[at : at + _PROBES]
        people = search.probe_people[at : at + _PROBES]
        similarity = units[probes] @ gallery.T
        # What failed finds no mate, and a stranger who failed is a false alarm.
        similarity[:, broken[search.gallery]] = FAILED_GENUINE
        has_mate = np.isin(people, search.gallery_people)
        similarity[broken[probes] & has_mate] = FAILED_GENUINE
        similarity[broken[probes] & ~has_mate] = FAILED_IMPOSTOR
        parts.append(exact.describe(similarity, people, search.gallery_people))
    searches = exact.joined(parts)
    mated = int(searches.mated.sum())
    strangers = len(searches.mated) - mated
    return SearchFigures(
        name=search.name,
        gallery=len(gallery),
        mated=mated,
        strangers=strangers,
        ranks=dict(zip(RANKS, exact.shares_within(searches, RANKS), strict=True)) if mated else {},
        tpir={fpir: exact.point_at_fpir(searches, fpir) for fpir in FPIRS} if mated and strangers else {},
    )


def _contract(features: Features, protocol: TemplateProtocol, weighting: Weighting) -> dict[str, str]:
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
        "intervals": "not computed",
        "failures": f"{len(features.failures)} of {len(protocol.images)} images, left out of their templates; an empty template "
        "counts as an error",
    }
