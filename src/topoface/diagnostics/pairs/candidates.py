"""Identities of `topoface.diagnostics.pairs.distribution` that may be one person: chosen on the sample, looked at again on all their images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from topoface.data.source import spread
from topoface.diagnostics.opening import progress_bar
from topoface.diagnostics.page import Face
from topoface.diagnostics.pairs.sample import Measured, Sample
from topoface.diagnostics.pairs.similarities import Integers, expected_above
from topoface.diagnostics.prediction import embed_training_images, sample_name
from topoface.evaluation.images import SourceImages
from topoface.evaluation.report.page import jpeg_of
from topoface.functional.directions import unit_rows
from topoface.training.run import Run

LOOKED_AT = 24  # images of an identity


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two identities in the sample.

    Attributes:
        labels: of both, ascending.
        mean: of their cosines.
        highest: of them.
        above: pairs of images above the fence.
        pairs: pairs of images.
    """

    labels: tuple[int, int]
    mean: float
    highest: float
    above: int
    pairs: int

    @property
    def evidence(self) -> float:
        """The mean drawn towards 0 as by one more pair, of strangers: a single pair is easily alike by chance."""
        return self.mean * self.pairs / (self.pairs + 1)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Two identities on up to `LOOKED_AT` images each, chosen without regard to the sample.

    Attributes:
        sampled: what the sample said, which chose them.
        mean: of the cosines between both.
        above: share of them above the fence.
        own: mean cosine within each; NaN for an identity of one image.
        images: how many of each.
        typical: position in the source of the image of each that is closest to its identity's mean direction.
    """

    sampled: Pair
    mean: float
    above: float
    own: tuple[float, float]
    images: tuple[int, int]
    typical: tuple[int, int]


def suspicious_identities(sample: Sample, measured: Measured) -> list[Pair]:
    """Identities with a suspicious pair of images, those with most evidence first."""
    hardest = np.sort(sample.labels[measured.suspicious.hardest], axis=1)
    rows_of = {int(label): sample.rows[sample.labels == label] for label in np.unique(hardest)}

    def pair(one: int, other: int) -> Pair:
        cosines = rows_of[one] @ rows_of[other].T
        return Pair(
            labels=(one, other),
            mean=float(cosines.mean()),
            highest=float(cosines.max()),
            above=int((cosines > measured.positive).sum()),
            pairs=cosines.numel(),
        )

    found = [pair(*labels) for labels in np.unique(hardest, axis=0).tolist()]
    return sorted(found, key=lambda pair: (-pair.evidence, pair.labels))


def look_again(run: Run, pairs: Sequence[Pair], fence: float) -> list[Candidate]:
    """The same identities on images that are not those of the sample alone, the most alike first.

    The sample chose its pairs for being alike, and on few images; so what it says of them is too high.
    """
    wanted = sorted({label for pair in pairs for label in pair.labels})
    positions = _images_of(run, wanted)
    rows = _embeddings(run, positions)

    def candidate(pair: Pair) -> Candidate:
        one, other = (rows[label] for label in pair.labels)
        cosines = one @ other.T
        first, second = (_typical(rows[label], positions[label]) for label in pair.labels)
        return Candidate(
            sampled=pair,
            mean=float(cosines.mean()),
            above=float((cosines > fence).double().mean()),
            own=(_own(one), _own(other)),
            images=(len(one), len(other)),
            typical=(first, second),
        )

    return sorted(map(candidate, pairs), key=lambda found: (-found.mean, found.sampled.labels))


def faces_of(run: Run, candidates: Iterable[Candidate]) -> list[Face]:
    """Both identities of each side by side, by their most typical images."""

    def face(found: Candidate) -> Face:
        pair = found.sampled
        images = SourceImages(run.source, found.typical)
        names = [sample_name(run.source, position) for position in found.typical]
        within = " and ".join("–" if np.isnan(own) else f"{own:.2f}" for own in found.own)
        return Face(
            jpeg=jpeg_of(images[0]),
            name=names[0],
            beside=[(jpeg_of(images[1]), names[1])],
            lines=[
                f"labels {pair.labels[0]} and {pair.labels[1]}: mean {found.mean:.3f}, {found.above:.0%} above the fence "
                f"({found.images[0]} × {found.images[1]} images)",
                f"within each {within}",
                f"in the sample: {pair.above} of {pair.pairs} above, up to {pair.highest:.3f}",
                " · ".join(names),
            ],
        )

    return [face(found) for found in candidates]


def alike_faces(run: Run, sample: Sample, measured: Measured, count: int) -> list[Face]:
    """The most alike images of different labels in the sample, side by side."""
    found = []
    suspicious = measured.suspicious
    for at, cosine in zip(suspicious.hardest[:count], suspicious.cosines[:count].tolist(), strict=True):
        images = SourceImages(run.source, sample.positions[at].tolist())
        names = [sample_name(run.source, position) for position in sample.positions[at].tolist()]
        expected = expected_above(measured.every.counts, cosine)
        chance = " to ".join(dict.fromkeys(_few(pairs) for pairs in sorted(expected) if not np.isnan(pairs)))
        found.append(
            Face(
                jpeg=jpeg_of(images[0]),
                name=names[0],
                beside=[(jpeg_of(images[1]), names[1])],
                lines=[
                    f"cosine {cosine:.3f}; by chance {chance} so alike",
                    f"labels {' and '.join(str(label) for label in sample.labels[at])}",
                    " · ".join(names),
                ],
            )
        )
    return found


def _images_of(run: Run, wanted: Iterable[int]) -> dict[int, Integers]:
    """Up to `LOOKED_AT` positions of each identity, evenly spread over its images."""
    by_label = np.argsort(run.source.labels, kind="stable")
    ends = np.searchsorted(run.source.labels[by_label], np.arange(run.source.identities + 1))
    own = {label: by_label[ends[label] : ends[label + 1]] for label in wanted}
    return {label: images[spread(len(images), LOOKED_AT)] for label, images in own.items()}


def _embeddings(run: Run, positions: Mapping[int, Integers]) -> dict[int, Tensor]:
    found = {}
    with progress_bar("identities") as bar:
        for label, images in bar.track(positions.items(), description="suspicious identities"):
            found[label] = unit_rows(embed_training_images(run, images))
    return found


def _own(rows: Tensor) -> float:
    """Mean cosine of different images of one identity."""
    places = torch.triu_indices(len(rows), len(rows), offset=1)
    return float((rows @ rows.T)[places[0], places[1]].mean())


def _few(pairs: float) -> str:
    return f"{pairs:,.0f}" if pairs >= 10 else f"{pairs:.1f}" if pairs >= 0.05 else "none"


def _typical(rows: Tensor, positions: Integers) -> int:
    return int(positions[int((rows @ rows.mean(0)).argmax())])
