"""Templates: many images of one person as one unit vector, and the cosines of pairs of such vectors.

A template holds images, and an image belongs to a medium: a still picture is a medium of its own, the frames of one video
share one. Frames resemble each other, so they are averaged first and each medium has one voice (IJB-A to IJB-C).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from topoface.functional.compiled import compiled
from topoface.functional.verification import as_array

_BLOCK = 8192  # rows gathered at a time where nothing can be compiled
_SORTED = 1 << 18  # pairs sorted at a time where it can


def pool(
    embeddings: ArrayLike, media: ArrayLike, templates: ArrayLike, weights: ArrayLike | None = None
) -> tuple[NDArray[Any], NDArray[np.floating[Any]]]:
    """A unit vector for each template: the mean of each medium, their sum, normalised.

    Args:
        embeddings: ``[n, D]``, one an image, of any length: what is not normalised weighs by its norm.
        media: ``[n]``, the medium of each image, any labels; one label in two templates is two media.
        templates: ``[n]``, the template of each image, any labels.
        weights: ``[n]``, not negative: each embedding is multiplied by its own *before* the mean over the images of the
            medium, as the field does with detection scores. (So a medium of poor images weighs little, too; a mean divided by
            the sum of weights would give it a full voice.)

    Returns:
        ``(template_ids, vectors)``: the labels, ascending, ``[t]``; and ``[t, D]`` of length 1, float64 for float64
        embeddings and float32 for others; zeros for a template whose images cancel or weigh nothing. Sums are float64.

    Raises:
        ValueError: shapes that do not fit, negative or infinite weights, an embedding that is not finite.
    """
    rows, media, templates = as_array(embeddings), as_array(media), as_array(templates)
    if rows.ndim != 2 or media.shape != templates.shape or media.shape != rows.shape[:1]:
        raise ValueError(
            f"embeddings {rows.shape}, media {media.shape} and templates {templates.shape} must be [n, D], [n] and [n]"
        )
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32)
    ids, template = np.unique(templates, return_inverse=True)
    names, medium = np.unique(media, return_inverse=True)
    _, group, images = np.unique(
        template.astype(np.int64) * len(names) + medium, return_inverse=True, return_counts=True
    )
    share = 1.0 / images[group]
    if weights is not None:
        given = as_array(weights).astype(np.float64)
        if given.shape != share.shape or not (np.isfinite(given) & (given >= 0)).all():
            raise ValueError(f"weights must be {len(share)} finite numbers, none negative")
        share *= given
    order = np.argsort(template, kind="stable")
    ends = np.cumsum(np.bincount(template, minlength=len(ids)))
    loops = compiled(_pool_loops)
    pooled: NDArray[np.floating[Any]] = (loops or _pool_arrays)(
        np.ascontiguousarray(rows), share, order, ends
    )
    broken = np.flatnonzero(~np.isfinite(pooled).all(axis=1))
    if len(broken):
        raise ValueError(
            f"template {ids[broken[0]]} holds an embedding that is not finite; leave that image out"
        )
    return ids, pooled


def pair_cosines(units: NDArray[Any], left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float32]:
    """Inner products of pairs of unit vectors, ``[m]``.

    Each is a sum of its own over D, so that it depends on nothing but its two rows: not on block, thread or neighbour, as an
    entry of a matrix product may.

    Args:
        units: float ``[t, D]``.
        left: integers ``[m]``, rows of ``units``.
        right: integers ``[m]``, rows of ``units``.
    """
    rows = np.ascontiguousarray(units, dtype=np.float32)
    for side in (left, right):  # compiled loops do not look where they read
        if len(side) and not 0 <= side.min() <= side.max() < len(rows):
            raise ValueError(f"positions from {side.min()} to {side.max()} in a table of {len(rows)} rows")
    loops = compiled(_cosine_loops, fused=True)
    if loops is not None:
        scores: NDArray[np.float32] = loops(
            rows, np.ascontiguousarray(left), np.ascontiguousarray(right), _SORTED
        )
        return scores
    parts = [
        np.einsum("pd,pd->p", rows[left[at : at + _BLOCK]], rows[right[at : at + _BLOCK]])
        for at in range(0, len(left), _BLOCK)
    ]
    return np.concatenate([np.empty(0, np.float32), *parts])


def _pool_loops(
    rows: NDArray[Any], share: NDArray[np.float64], order: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[Any]:
    """Weighted sums of the rows of each template, to unit length, as loops to compile.

    Args:
        rows: ``[n, D]``.
        share: ``[n]``.
        order: ``[n]``, the images by template.
        ends: ``[t]``, where in ``order`` each template ends.
    """
    pooled = np.empty((len(ends), rows.shape[1]), rows.dtype)
    total = np.empty(rows.shape[1], np.float64)
    start = 0
    for t in range(len(ends)):
        total[:] = 0.0
        for place in range(start, ends[t]):
            i = order[place]
            for d in range(rows.shape[1]):
                total[d] += share[i] * rows[i, d]
        start = ends[t]
        largest = 0.0  # taken off first: the square of 1e200 is infinite, that of 1e-200 zero
        for d in range(rows.shape[1]):
            largest = max(largest, abs(total[d]))
        scale = largest if largest > 0.0 else 1.0
        square = 0.0
        for d in range(rows.shape[1]):
            total[d] /= scale
            square += total[d] * total[d]
        length = np.sqrt(square) if square != 0.0 else 1.0
        for d in range(rows.shape[1]):
            pooled[t, d] = total[d] / length
    return pooled


def _pool_arrays(
    rows: NDArray[Any], share: NDArray[np.float64], order: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[Any]:
    """`_pool_loops` where nothing can be compiled."""
    total = torch.zeros(len(ends), rows.shape[1], dtype=torch.float64)
    template = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    for at in range(0, len(order), _BLOCK):
        images = order[at : at + _BLOCK]
        part = torch.from_numpy(rows[images] * share[images, None])
        total.index_add_(0, torch.from_numpy(template[at : at + _BLOCK]), part)
    largest = total.abs().amax(dim=1, keepdim=True)
    total /= largest.where(largest != 0, 1.0)
    lengths = total.norm(dim=1, keepdim=True)
    pooled: NDArray[Any] = (total / lengths.where(lengths != 0, 1.0)).numpy().astype(rows.dtype)
    return pooled


def _cosine_loops(
    rows: NDArray[Any], left: NDArray[Any], right: NDArray[Any], block: int
) -> NDArray[np.float32]:
    """`pair_cosines` as loops to compile; its time is that of fetching rows from memory.

    So the pairs of a block are taken by their right row, which is then fetched once (lists are by their left template mostly, and
    the left rows of a block stay in the cache), and four at a time, so that rows are fetched while others are multiplied. The last
    four may repeat the last pair: a loop of its own for the rest would add in another order.
    """
    scores = np.empty(len(left), np.float32)
    order = np.empty(min(block, len(left)), np.int64)
    place = np.empty(len(rows) + 1, np.int64)
    for start in range(0, len(left), block):
        stop = min(start + block, len(left))
        place[:] = 0
        for p in range(start, stop):
            place[right[p] + 1] += 1
        for row in range(len(rows)):
            place[row + 1] += place[row]
        for p in range(start, stop):
            order[place[right[p]]] = p
            place[right[p]] += 1
        last = stop - start - 1
        for q in range(0, stop - start, 4):
            p0, p1 = order[q], order[min(q + 1, last)]
            p2, p3 = order[min(q + 2, last)], order[min(q + 3, last)]
            a0, a1, a2, a3 = rows[left[p0]], rows[left[p1]], rows[left[p2]], rows[left[p3]]
            b0, b1, b2, b3 = rows[right[p0]], rows[right[p1]], rows[right[p2]], rows[right[p3]]
            s0 = s1 = s2 = s3 = np.float32(0.0)
            for d in range(rows.shape[1]):
                s0 += a0[d] * b0[d]
                s1 += a1[d] * b1[d]
                s2 += a2[d] * b2[d]
                s3 += a3[d] * b3[d]
            scores[p0], scores[p1], scores[p2], scores[p3] = s0, s1, s2, s3
    return scores
