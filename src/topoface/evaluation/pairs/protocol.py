"""What a verification protocol is: which pairs of which images are judged, in which folds, and who is on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from topoface.data.source import content_hash
from topoface.errors import UserError
from topoface.evaluation.alignment import AS_STORED
from topoface.evaluation.images import Images


@dataclass(frozen=True, kw_only=True, eq=False)
class PairProtocol:
    """Pairs of images, each said to show one person or two.

    Attributes:
        name: short, for tables.
        uri: what ``open_protocol`` was given.
        images: the ``n`` different images that occur in pairs; read one at a time.
        pairs: int64 ``[m, 2]``, positions in ``images``.
        same: bool ``[m]``.
        folds: int64 ``[m]``, from 0.
        identities: int64 ``[n]``, who is on each image: what the bootstrap draws.
        interval_unit: ``"identity"`` where the people are known; ``"linked images"`` where they are not, and images are taken
            to show one person when genuine pairs link them.
        fingerprint: 32 hex digits over pairs, labels, folds, names and sizes or checksums of the images.
        synthetic: the faces are drawn, so that nobody's picture is in a report.
        notes: what a reader of the figures should know, a sentence each.
        alignment: how images become 112 x 112, for the record.
    """

    name: str
    uri: str
    images: Images
    pairs: NDArray[np.int64]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]
    identities: NDArray[np.int64]
    interval_unit: Literal["identity", "linked images"]
    fingerprint: str
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    alignment: str = AS_STORED


def build_protocol(
    *,
    name: str,
    uri: str,
    images: Images,
    pairs: NDArray[np.int64],
    same: NDArray[np.bool_],
    folds: NDArray[np.int64],
    people: Sequence[object] | None,
    stamps: Sequence[str],
    synthetic: bool = False,
    notes: tuple[str, ...] = (),
    where: str | None = None,
) -> PairProtocol:
    """The protocol, if figures can be computed from it.

    Args:
        name: as in :class:`PairProtocol`, like all that are not named here.
        uri: also stands in errors if ``where`` is not given.
        images: as there.
        pairs: as there.
        same: as there.
        folds: as there.
        people: who is on each image, or None if nobody knows.
        stamps: what changes when the images do.
        synthetic: as there.
        notes: as there.
        where: the file that lists the pairs.

    Raises:
        UserError: pairs of one kind are missing, altogether or outside one fold, or there is one fold only.
    """
    genuine = int(same.sum())
    if genuine in (0, len(same)):
        raise UserError(
            f"{genuine} genuine and {len(same) - genuine} impostor pairs",
            where or uri,
            "list pairs of both kinds",
        )
    if folds.min() == folds.max():
        raise UserError(
            "all pairs are in one fold", where or uri, "give at least two folds, or none for ten by position"
        )
    for fold in np.unique(folds):
        if len(np.unique(same[folds != fold])) < 2:
            raise UserError(
                f"all pairs of one kind are in fold {fold}", where or uri, "spread both kinds over the folds"
            )
    if people is None:
        notes += (
            "The people are not named: intervals treat images linked by genuine pairs as one person, and are a little too narrow.",
        )
    content = [
        pairs.tobytes(),
        same.tobytes(),
        folds.tobytes(),
        "\n".join(stamps).encode("utf-8", "surrogatepass"),
    ]
    return PairProtocol(
        name=name,
        uri=uri,
        images=images,
        pairs=pairs.astype(np.int64),
        same=same,
        folds=folds.astype(np.int64),
        identities=linked(len(images), pairs[same])
        if people is None
        else np.unique(np.array(people), return_inverse=True)[1].astype(np.int64),
        interval_unit="linked images" if people is None else "identity",
        fingerprint=content_hash(content),
        synthetic=synthetic,
        notes=notes,
    )


def people_from_folders(
    members: list[str], pairs: NDArray[np.int64], same: NDArray[np.bool_]
) -> list[str] | None:
    """Identities by folder, at the first depth where folders agree with every label; None if none does."""
    parts = [member.split("/")[:-1] for member in members]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        people = ["/".join(folders[:depth]) for folders in parts]
        codes = np.unique(people, return_inverse=True)[1][pairs]
        if np.array_equal(codes[:, 0] == codes[:, 1], same):
            return people
    return None


def linked(images: int, genuine: NDArray[Any]) -> NDArray[np.int64]:
    """A number for each image from 0, equal where pairs ``[m, 2]`` link them (union-find)."""
    parent = list(range(images))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for left, right in genuine.tolist():
        parent[root(left)] = root(right)
    return np.unique([root(i) for i in range(images)], return_inverse=True)[1].astype(np.int64)
