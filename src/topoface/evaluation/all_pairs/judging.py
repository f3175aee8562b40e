"""Every pair of a set of labelled faces, as MR-ALL counts them: TAR at FAR, exactly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoface.data.opening import open_source
from topoface.errors import UserError
from topoface.evaluation.alignment import AS_STORED
from topoface.evaluation.all_pairs.bookmark import Bookmark
from topoface.evaluation.all_pairs.counts import Along, points_of_all_pairs, same_pairs
from topoface.evaluation.all_pairs.people import accepted_by_person, drawn_tar, left_out, tar_influence
from topoface.evaluation.features import Features
from topoface.evaluation.figures import (
    TEMPLATE_FARS,
    Curve,
    Figure,
    PairFigures,
    TarAtFar,
    band,
    band_fars,
    count_of,
    differences,
    interval_in_words,
    tar_at,
    with_intervals,
    without_nan,
)
from topoface.evaluation.images import Images, SourceImages
from topoface.functional.bootstrap import Floats
from topoface.functional.influences import error_of_sums


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSet:
    """Faces of which every pair is judged.

    Attributes:
        name: short, for tables.
        uri: of the source.
        images: all of it.
        labels: int64 ``[n]``, who is on each.
        fingerprint: of the source.
        stamp: of the source, where it is one on disk: times of change, too.
    """

    name: str
    uri: str
    images: Images
    labels: NDArray[np.int64]
    fingerprint: str
    stamp: str = ""

    def stamps(self) -> list[str]:
        """What changes when the images do."""
        return [self.stamp or self.fingerprint]


def open_labelled(uri: str) -> LabelledSet:
    """All of a source, as ``data.train`` names one. UserError as there."""
    source = open_source(uri)
    return LabelledSet(
        name=f"all pairs of {uri.rstrip('/').rpartition('/')[2]}",
        uri=uri,
        images=SourceImages(source, range(len(source))),
        labels=source.labels,
        fingerprint=source.fingerprint(),
        stamp=source.stamp(),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class AllPairs:
    """What features reached on all pairs of a set.

    Attributes:
        name: of the set.
        images: in it; ``identities``: in it.
        pairs: the figures. Genuine pairs are counted with those of images that have no feature (which are never accepted),
            impostor pairs are those of two images with a feature.
        influence: float64 ``[identities]`` by name of a figure, what each person does to it; empty without a bootstrap.
        failures: name and reason for each image without a feature.
        fingerprint: of the set: results with one can be compared.
        contract: how the figures came about, in words.
    """

    name: str
    images: int
    identities: int
    pairs: PairFigures
    influence: Mapping[str, Floats]
    failures: tuple[tuple[str, str], ...]
    fingerprint: str
    contract: dict[str, str]

    @property
    def tar(self) -> tuple[TarAtFar, ...]:
        """TAR at each FAR."""
        return self.pairs.tar

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits these figures, a sentence each."""
        failed = count_of(len(self.failures), "image")
        head = (f"{failed} had no feature; their genuine pairs count as rejected.",) if self.failures else ()
        return head + self.pairs.warnings

    def named(self) -> dict[str, Figure]:
        """The figures by name, for tables."""
        return self.pairs.named()

    def summary(self) -> dict[str, float]:
        """The values of the figures by name."""
        return {name: figure.value for name, figure in self.named().items()}

    def minus(self, other: "AllPairs") -> dict[str, Figure]:
        """This one's figures minus the other's on the same set, with intervals of the differences.

        Raises:
            ValueError: the two were judged on different sets.
        """
        if self.fingerprint != other.fingerprint:
            raise ValueError(f"{self.name} and {other.name} are different sets; compare models on one")
        intervals = {}
        for name in self.pairs.comparable().keys() & other.pairs.comparable().keys() & self.influence.keys():
            value = self.named()[name].value - other.named()[name].value
            reach = error_of_sums(self.influence[name] - other.influence[name], 0.0).reach
            intervals[name] = value - reach, value + reach
        return differences(self.named(), other.named(), intervals, self.pairs.trials())

    def to_json(self) -> dict[str, Any]:
        """Everything but the replicates, in types that ``json`` can write; NaN and inf become null."""
        content = {
            "name": self.name,
            "images": self.images,
            "identities": self.identities,
            **self.pairs.to_json(),
            "failures": [list(failure) for failure in self.failures],
            "warnings": list(self.warnings),
            "contract": self.contract,
        }
        return {key: without_nan(value) for key, value in content.items()}


def judge_all_pairs(
    features: Features,
    faces: LabelledSet,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    keep: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AllPairs:
    """TAR at each FAR over all pairs of a set.

    Time: two float32 products of all pairs, with a bootstrap three. Memory beside the features: unit rows of the same size, a few
    tiles, and a few numbers a person.

    Args:
        features: a row for each image, of any length.
        faces: whose they are.
        bootstrap: replicates of the identity bootstrap; 0 for figures without intervals.
        seed: of the bootstrap. Two models judged with one seed see the same replicates.
        keep: folder that says every twenty seconds how far the count is, so that one that was cut off goes on from there.
        progress: called with tiles done and tiles in all.

    Raises:
        UserError: pairs of one kind only.
    """
    units, present = unit_rows(features.rows)
    codes = np.unique(faces.labels, return_inverse=True)[1].astype(np.int32)
    own = codes[present]
    genuine = same_pairs(codes)
    impostors = len(present) * (len(present) - 1) // 2 - same_pairs(own)
    if not genuine or not impostors:
        raise UserError(
            f"{genuine} genuine and {impostors} impostor pairs",
            faces.uri,
            "give several people, some with several images",
        )
    along = [0.0, *band_fars(impostors, top=max(TEMPLATE_FARS)), 10**-0.5, 1.0]
    fars = [*TEMPLATE_FARS, *along]
    bookmark = Bookmark(keep, [np.array(fars), own, units]) if keep else None
    found = points_of_all_pairs(units, own, fars, bookmark=bookmark, progress=progress)
    points = [
        tar_at(far, threshold, accepted, genuine, false, impostors)
        for far, (threshold, accepted, false) in zip(fars, found.points, strict=True)
    ]
    roc = np.unique([(p.far, p.tar.value, p.threshold) for p in points], axis=0).T
    named: dict[str, Floats] = {}
    influence: dict[str, Floats] = {}
    banded = along[1:-2:2]
    if bootstrap:
        wanted = [*TEMPLATE_FARS, *banded]
        tar, moved = _drawn(
            units, own, codes, points, found.along, wanted, bootstrap, seed, bookmark, progress
        )
        named = {f"tar@{far:g}": tar[:, k] for k, far in enumerate(wanted)}
        influence = {f"tar@{far:g}": moved[:, k] for k, far in enumerate(TEMPLATE_FARS)}
    if bookmark:
        bookmark.close()
    return AllPairs(
        name=faces.name,
        images=len(codes),
        identities=int(codes.max()) + 1,
        pairs=PairFigures(
            genuine=genuine,
            impostors=impostors,
            tar=with_intervals(points[: len(TEMPLATE_FARS)], named, genuine),
            min_dcf=None,
            curve=Curve(roc, band(banded if bootstrap else [], named), impostors),
            histogram=found.histogram,
            replicates=named,
        ),
        influence=influence,
        failures=features.failures,
        fingerprint=faces.fingerprint,
        contract={
            "protocol": f"all pairs of {faces.uri}",
            "fingerprint": faces.fingerprint,
            "features": features.origin,
            "alignment": AS_STORED,
            "score": "cosine, in steps of 2^-28",
            "TAR at FAR": "lowest threshold whose FAR does not exceed the target (exact)",
            "intervals": interval_in_words(
                bootstrap, "people, thresholds moved by leaving out one at a time", seed
            ),
            "failures": f"{len(features.failures)} of {len(codes)} images: their genuine pairs count as rejected, and their "
            "impostor pairs are left out",
        },
    )


def _drawn(
    units: NDArray[np.float32],
    own: NDArray[np.int32],
    codes: NDArray[np.int32],
    points: Sequence[TarAtFar],
    curve: Along,
    wanted: Sequence[float],
    bootstrap: int,
    seed: int,
    bookmark: Bookmark | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Floats, Floats]:
    """TAR in each replicate, ``[bootstrap, wanted]``, and what each of all people does to the first of them, ``[identities, TEMPLATE_FARS]``."""
    rungs = {point.target: point for point in points if point.target <= max(wanted)}
    names, people = np.unique(own, return_inverse=True)  # those of whom an image has a feature
    size = np.bincount(codes)[names]
    accepted = accepted_by_person(
        units,
        people.astype(np.int32),
        np.array([point.threshold for point in rungs.values()]),
        bookmark=bookmark,
        progress=progress,
    )
    places = [list(rungs).index(far) for far in wanted]
    asked = accepted, left_out([(accepted, people.astype(np.int32))]), size * (size - 1) // 2, curve
    influence = np.zeros((int(codes.max()) + 1, len(TEMPLATE_FARS)))
    influence[names] = tar_influence(*asked, places[: len(TEMPLATE_FARS)])
    return drawn_tar(*asked, places, replicates=bootstrap, seed=seed), influence


def unit_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit rows of the images that have a feature, and which those are."""
    present = np.flatnonzero(rows.any(axis=1))
    units = np.empty((len(present), rows.shape[1]), np.float32)
    for at in range(0, len(present), 1 << 13):
        part = rows[present[at : at + (1 << 13)]].astype(np.float64)
        units[at : at + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return units, present
