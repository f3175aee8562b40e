"""From features of images to vectors of templates, and to those of the people in a gallery."""

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.evaluation.templates.protocol import Search, TemplateProtocol
from topoface.functional.templates import pool

Weighting = Literal["none", "norm", "detector", "detector+norm"]
Fusion = Literal["pool", "max", "mean"]


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


def fused_gallery(
    rows: NDArray[Any],
    units: NDArray[np.float32],
    protocol: TemplateProtocol,
    search: Search,
    weighting: Weighting,
    fusion: Fusion,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What a probe is compared with: a vector a person; with ``max`` one a template. Those without any feature are left out.

    The mean of a person's cosines is the product with the mean of his unit vectors (rounded to float32), which is shorter than 1.

    Args:
        rows: ``[n, D]``, of the images.
        units: float32 ``[t, D]``, of the templates.
        protocol: which they belong to.
        search: of this protocol, with the gallery.
        weighting: as in `template_vectors`.
        fusion: as in ``judge_templates``.

    Returns:
        ``(vectors, people)``, float32 ``[g, D]`` and int64 ``[g]``.

    Raises:
        UserError: the fusion is unknown.
    """
    if fusion not in get_args(Fusion):
        raise UserError(f"is {fusion!r}", "--fusion", f"give one of {', '.join(get_args(Fusion))}")
    vectors, owners = units[search.gallery], search.gallery_people
    people, owner, counts = np.unique(owners, return_inverse=True, return_counts=True)
    if fusion == "pool" and counts.max(initial=1) > 1:
        vectors, owners = _pooled(rows, protocol, search.gallery, owner, weighting), people
    elif fusion == "mean" and counts.max(initial=1) > 1:
        whole = np.logical_or.reduce(vectors, axis=1)
        sums = np.zeros((len(people), units.shape[1]))
        np.add.at(sums, owner[whole], vectors[whole])
        present = np.bincount(owner[whole], minlength=len(people))
        vectors, owners = (sums / np.maximum(present, 1)[:, None]).astype(np.float32), people
    whole = np.logical_or.reduce(vectors, axis=1)
    return vectors[whole], owners[whole]


def _pooled(
    rows: NDArray[Any],
    protocol: TemplateProtocol,
    gallery: NDArray[np.int32],
    owner: NDArray[np.int64],
    weighting: Weighting,
) -> NDArray[np.float32]:
    """Vectors of the people from all images of their templates in the gallery; media of one label become one."""
    of_template = np.full(len(protocol.template_ids), -1)
    of_template[gallery] = owner
    of_image = of_template[np.searchsorted(protocol.template_ids, protocol.templates)]
    images = np.flatnonzero(of_image >= 0)
    enrolled = replace(
        protocol,
        template_ids=np.arange(int(owner.max()) + 1),
        templates=of_image[images],
        media=protocol.media[images],
        detector=None if protocol.detector is None else protocol.detector[images],
    )
    return template_vectors(rows[images], enrolled, weighting)
