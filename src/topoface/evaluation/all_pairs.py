"""Every pair of a set of labelled faces, as MR-ALL counts them: TAR at FAR, exactly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoface.data.opening import open_source
from topoface.errors import UserError
from topoface.evaluation.features import Features
from topoface.evaluation.images import Images, SourceImages
from topoface.evaluation.operating_points import TEMPLATE_FARS, tar_at
from topoface.evaluation.pair_counts import points_of_all_pairs, same_pairs
from topoface.evaluation.verification import TarAtFar, count_of, without_nan


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSet:
    """Faces of which every pair is judged.

    Attributes:
        name: short, for tables.
        uri: of the source.
        images: all of it.
        labels: int64 ``[n]``, who is on each.
        fingerprint: of the source.
    """

    name: str
    uri: str
    images: Images
    labels: NDArray[np.int64]
    fingerprint: str

    def stamps(self) -> list[str]:
        """What changes when the images do."""
        return [self.fingerprint]


def open_labelled(uri: str) -> LabelledSet:
    """All of a source, as ``data.train`` names one. UserError as there."""
    source = open_source(uri)
    return LabelledSet(
        name=f"all pairs of {uri.rstrip('/').rpartition('/')[2]}",
        uri=uri,
        images=SourceImages(source, range(len(source))),
        labels=source.labels,
        fingerprint=source.fingerprint(),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class AllPairs:
    """What features reached on all pairs of a set.

    Attributes:
        name: of the set.
        images: in it; ``identities``: in it.
        genuine: pairs of one person, with those of images that have no feature (which are never accepted).
        impostors: pairs of two people, both with a feature.
        tar: one for each FAR.
        failures: name and reason for each image without a feature.
        contract: how the figures came about, in words.
    """

    name: str
    images: int
    identities: int
    genuine: int
    impostors: int
    tar: tuple[TarAtFar, ...]
    failures: tuple[tuple[str, str], ...]
    contract: dict[str, str]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits these figures, a sentence each."""
        failed = count_of(len(self.failures), "image")
        head = (f"{failed} had no feature; their genuine pairs count as rejected.",) if self.failures else ()
        return head + tuple(point.warning for point in self.tar if point.warning)

    def summary(self) -> dict[str, float]:
        """The figures by name, for tables."""
        return {f"tar@{point.target:g}": point.tar.value for point in self.tar}

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that ``json`` can write; NaN and inf become null."""
        content = {
            **{key: value for key, value in vars(self).items() if key not in ("tar", "failures")},
            "tar_at_far": [{**vars(point), "tar": point.tar.value} for point in self.tar],
            "failures": [list(failure) for failure in self.failures],
            "warnings": list(self.warnings),
        }
        return {key: without_nan(value) for key, value in content.items()}


def judge_all_pairs(
    features: Features,
    faces: LabelledSet,
    *,
    fars: Sequence[float] = TEMPLATE_FARS,
    progress: Callable[[int, int], None] | None = None,
) -> AllPairs:
    """TAR at each FAR over all pairs of a set.

    Time: two float32 products of all pairs. Memory beside the features: unit rows of the same size and a few tiles.

    Args:
        features: a row for each image, of any length.
        faces: whose they are.
        fars: targets in (0, 1].
        progress: called with tiles done and tiles in all.

    Raises:
        UserError: pairs of one kind only.
    """
    units, present = _unit_rows(features.rows)
    codes = np.unique(faces.labels, return_inverse=True)[1].astype(np.int32)
    genuine, own = same_pairs(codes), same_pairs(codes[present])
    impostors = len(present) * (len(present) - 1) // 2 - own
    if not genuine or not impostors:
        raise UserError(
            f"{genuine} genuine and {impostors} impostor pairs",
            faces.uri,
            "give several people, some with several images",
        )
    points = points_of_all_pairs(units, codes[present], fars, progress=progress)
    return AllPairs(
        name=faces.name,
        images=len(codes),
        identities=int(codes.max()) + 1,
        genuine=genuine,
        impostors=impostors,
        tar=tuple(
            tar_at(far, threshold, accepted, genuine, false, impostors)
            for far, (threshold, accepted, false) in zip(fars, points, strict=True)
        ),
        failures=features.failures,
        contract={
            "protocol": f"all pairs of {faces.uri}",
            "fingerprint": faces.fingerprint,
            "features": features.origin,
            "score": "cosine, in steps of 2^-28",
            "TAR at FAR": "lowest threshold whose FAR does not exceed the target (exact)",
            "intervals": "not computed",
            "failures": f"{len(features.failures)} of {len(codes)} images: their genuine pairs count as rejected, and their "
            "impostor pairs are left out",
        },
    )


def _unit_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit rows of the images that have a feature, and which those are."""
    present = np.flatnonzero(rows.any(axis=1))
    units = np.empty((len(present), rows.shape[1]), np.float32)
    for at in range(0, len(present), 1 << 13):
        part = rows[present[at : at + (1 << 13)]].astype(np.float64)
        units[at : at + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return units, present
