"""Template pooling, template verification and search straight from the protocols' definitions, one image and one pair at a time."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def pool(embeddings, media, templates, weights=None) -> dict[object, np.ndarray]:
    """Template label to unit vector: images of a medium are averaged, media added up, the sum normalised."""
    vectors = {}
    for template in set(templates):
        total = np.zeros(len(embeddings[0]))
        own = [i for i in range(len(templates)) if templates[i] == template]
        for medium in {media[i] for i in own}:
            frames = [i for i in own if media[i] == medium]
            scaled = [
                np.asarray(embeddings[i], dtype=float) * (1 if weights is None else weights[i])
                for i in frames
            ]
            total = total + sum(scaled) / len(frames)
        length = math.sqrt(sum(total**2))
        vectors[template] = total / length if length else total
    return vectors


def tpir_at_fpir(
    similarity: Sequence[Sequence[float]], probes: Sequence, gallery: Sequence, fpir: Fraction
) -> Fraction:
    """The largest TPIR of all thresholds whose FPIR is not above the asked one."""
    values = sorted({s for row in similarity for s in row})
    best = Fraction(0)
    for threshold in [-math.inf, *values, math.inf]:
        mated = found = strangers = alarms = 0
        for row, who in zip(similarity, probes, strict=True):
            returned = [name for s, name in zip(row, gallery, strict=True) if s >= threshold]
            if who in gallery:
                mated += 1
                found += who in returned
            else:
                strangers += 1
                alarms += bool(returned)
        if Fraction(alarms, strangers) <= fpir:
            best = max(best, Fraction(found, mated))
    return best


def cmc(similarity: Sequence[Sequence[float]], probes: Sequence, gallery: Sequence, rank: int) -> Fraction:
    """Share of mated probes with a mate among the first ``rank`` entries; among equals, strangers come first."""
    mated = found = 0
    for row, who in zip(similarity, probes, strict=True):
        if who in gallery:
            order = sorted(range(len(gallery)), key=lambda g: (-row[g], gallery[g] == who))
            mated += 1
            found += who in [gallery[g] for g in order[:rank]]
    return Fraction(found, mated)
