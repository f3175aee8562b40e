"""Judge features on a template protocol: pool the images of each template, compare pairs, search galleries."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.embedding import FAILED_GENUINE, FAILED_IMPOSTOR
from topoface.evaluation.features import Features
from topoface.evaluation.figures import PairFigures, cost_in_words, interval_in_words
from topoface.evaluation.operating_points import drawn_points, pair_figures
from topoface.evaluation.templates.pooling import Fusion, Weighting, fused_gallery, template_vectors
from topoface.evaluation.templates.protocol import TemplateProtocol
from topoface.evaluation.templates.results import TemplateVerification
from topoface.evaluation.templates.searching import judge_search
from topoface.functional.tail_bootstrap import ScoredPairs
from topoface.functional.templates import pair_cosines

_PAIRS = 1 << 20  # looked at together: figures do not depend on it


def judge_templates(
    features: Features,
    protocol: TemplateProtocol,
    *,
    weighting: Weighting = "detector+norm",
    fusion: Fusion = "pool",
    bootstrap: int = 1000,
    seed: int = 0,
) -> TemplateVerification:
    """All figures of a template protocol.

    Args:
        features: a row for each image of the protocol.
        protocol: from ``open_ijb`` or ``open_manifest``.
        weighting: how much an image counts within its medium, beside the others. ``norm``: by the length of its feature, small
            for images that the model finds poor; otherwise every feature is normalised first. ``detector``: by the detector's
            score. Both is what the field's published figures use.
        fusion: what becomes of a person with several templates in a gallery. ``pool``: all their images make one template;
            ``max``: the highest of the scores counts; ``mean``: the mean of the scores.
        bootstrap: replicates of the identity bootstrap; 0 for figures without intervals.
        seed: of the bootstrap, and of the order in which distractors join a gallery. Two models judged with one seed see the
            same replicates and the same galleries.

    Raises:
        UserError: detection scores are wanted and the protocol has none, or the features are of other images.
    """
    units = template_vectors(features.rows, protocol, weighting)
    broken = ~np.logical_or.reduce(units, axis=1)
    return TemplateVerification(
        protocol=protocol,
        pairs=_verify(units, broken, protocol, bootstrap, seed) if len(protocol.pairs) else None,
        searches=tuple(
            judge_search(
                units,
                broken,
                search,
                *fused_gallery(features.rows, units, protocol, search, weighting, fusion),
                protocol.people,
                by_person=fusion == "max",
                bootstrap=bootstrap,
                seed=seed,
            )
            for search in protocol.searches
        ),
        failed_templates=int(broken.sum()),
        failures=features.failures,
        contract=_contract(features, protocol, weighting, fusion, bootstrap, seed),
    )


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


def _contract(
    features: Features,
    protocol: TemplateProtocol,
    weighting: Weighting,
    fusion: Fusion,
    bootstrap: int,
    seed: int,
) -> dict[str, str]:
    weights: Mapping[str, str] = {
        "none": "none: every feature is normalised",
        "norm": "length of the feature",
        "detector": "score of the detector; every feature is normalised",
        "detector+norm": "score of the detector times length of the feature",
    }
    fusions: Mapping[str, str] = {
        "pool": "pool: all images of a person's templates make one",
        "max": "max: the highest of their scores; ranks count people",
        "mean": "mean: of their scores",
    }
    distractors = max((len(search.distractors) for search in protocol.searches), default=0)
    several = {
        "several templates of a person in a gallery": fusions[fusion],
        "distractors": f"{distractors:,}, nobody's mates; smaller galleries have the first ones of one order, drawn with seed {seed}"
        if distractors
        else "none",
        "mates": "each other template of the probe's person in turn, alone beside the distractors"
        if any(search.in_turn for search in protocol.searches)
        else "the templates of the gallery",
    }
    return {
        "protocol": protocol.uri,
        "fingerprint": protocol.fingerprint,
        "features": features.origin,
        "alignment": protocol.alignment,
        "pooling": "mean of each medium, sum of the media, normalised",
        "weight of an image": weights[weighting],
        "score": "cosine of two templates",
        **(several if protocol.searches else {}),
        "TAR at FAR": "lowest threshold whose FAR does not exceed the target (exact)",
        "rank": "mate among the so many most similar, of the probes with a mate; ties count against it",
        "TPIR at FPIR": "mate above the lowest bar that so many of the probes without a mate pass (exact), at any rank",
        "minDCF": cost_in_words(),
        "intervals": interval_in_words(bootstrap, "people, in searches over those of the probes", seed),
        "failures": f"{len(features.failures)} of {len(protocol.images)} images, left out of their templates; an empty template "
        "counts as an error",
    }
