"""Balanced hierarchical k-means (sections 4.3 and 4.4 of our reading of GIF): the published tokeniser, plus balance.

A node with m members and an alphabet of K splits into K children of m/K members, rounded down or up; a node with m <= K
gives every member a child of its own. So m members always fit into the levels that are left, and no two
identities share a code, whatever the vectors are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from topoface.codes.assign import PRICED_ROWS, Integers, assign_exactly, even_prices
from topoface.codes.clustering import Rows, balanced_kmeans, group_means, kmeans
from topoface.codes.nodes import Nodes, Progress
from topoface.functional.draws import generator

_Book = tuple[Rows, NDArray[np.float32]]
Labels = Literal["arbitrary", "axis", "aligned"]
LARGE, LEADING = 20_000, 64
"""From so many identities on, clusters are sought in so many leading principal directions."""
_ALIGNED_ROUNDS, _ALIGNED_NODES = 5, 512
_AXIS_ROUNDS = 100


@dataclass(frozen=True, kw_only=True)
class _Split:
    """Some nodes of equal size, and their children.

    Attributes:
        numbers: int64 ``[B]``, of the nodes on their level.
        members: int64 ``[B, m]``, identities.
        child: int64 ``[B, m]``, of each member.
        offsets: float32 ``[B, k, d]``, center of each child less that of the node.
        axis: float32 ``[B, d]``, first principal axis of the node; None where nobody asks, or it has too few members.
    """

    numbers: Integers
    members: Integers
    child: Integers
    offsets: Rows
    axis: Rows | None = None


def build_tree(
    vectors: NDArray[np.float32],
    alphabets: Sequence[int],
    *,
    labels: Labels,
    seed: int,
    progress: Progress | None = None,
) -> Integers:
    """Codes ``[C, L]`` of vectors ``[C, D]``, all different, siblings differing by one in size at most.

    Args:
        vectors: a row for each identity, in the order of their uids.
        alphabets: K of each position; their product is C or more.
        labels: which token a child gets. ``arbitrary``: any, drawn for each node. ``axis``: along the node's
            first principal axis (drawn where a node has less than K children). ``aligned``: one code book for
            each level says what its tokens mean, and children get them by optimal matching.
        seed: of starting points and drawn labels.
        progress: called with levels done and in all.
    """
    rows = leading_directions(vectors) if len(vectors) >= LARGE else vectors
    codes = np.empty((len(rows), len(alphabets)), np.int64)
    nodes = Nodes.root(len(rows))
    for level, k in enumerate(alphabets):
        splits = list(_splits(rows, nodes, k, level, labels, seed))
        book = _aligned_book(splits, k, level, seed) if labels == "aligned" else None
        for split in splits:
            tokens = _tokens(split, k, level, book, seed)
            codes[split.members, level] = np.take_along_axis(tokens, split.child, 1)
        nodes = nodes.split(codes[:, level])
        if progress:
            progress(level + 1, len(alphabets))
    return codes


def leading_directions(vectors: NDArray[np.float32]) -> Rows:
    """The vectors ``[C, D]`` in their 64 leading principal directions; as they are if D is no more than that."""
    if vectors.shape[1] <= LEADING:
        return vectors
    center = vectors.mean(0)
    covariance = vectors.T @ vectors / len(vectors) - np.outer(center, center)
    axes = np.linalg.eigh(covariance.astype(np.float64))[1][:, : -LEADING - 1 : -1]
    leading: Rows = (vectors - center) @ axes.astype(np.float32)
    return leading


def _splits(rows: Rows, nodes: Nodes, k: int, level: int, labels: Labels, seed: int) -> Iterator[_Split]:
    wide = np.diff(nodes.starts).max() > k  # then there are at most C / K nodes
    draws = generator(seed, "code tree", level).random((len(nodes), k)) if wide else np.empty((len(nodes), 0))
    for numbers, members in nodes.batches(max(rows.shape[1], k)):
        inside = rows[members]
        b, m = members.shape
        child, centers = np.broadcast_to(np.arange(m), (b, m)), inside
        if m > k:
            child, centers = balanced_kmeans(inside, k, draws[numbers])
        middle = inside.mean(1, keepdims=True)
        offsets = centers - middle
        axis = _first_axis(inside - middle) if labels == "axis" and m >= k else None
        yield _Split(numbers=numbers, members=members, child=child, offsets=offsets, axis=axis)


def _first_axis(rows: Rows) -> Rows:
    """First principal axis ``[B, d]`` of centered rows ``[B, m, d]``; its largest component is positive."""
    longest = np.einsum("bmd,bmd->bm", rows, rows).argmax(1)
    axis: Rows = rows[np.arange(len(rows)), longest]
    for _ in range(_AXIS_ROUNDS):
        axis[:] = ((rows @ axis[..., None]).swapaxes(1, 2) @ rows)[:, 0]
        length = np.sqrt(np.einsum("bd,bd->b", axis, axis))
        axis /= np.maximum(length, np.finfo(np.float32).tiny)[:, None]
    largest = np.take_along_axis(axis, np.abs(axis).argmax(1)[:, None], 1)
    np.negative(axis, out=axis, where=largest < 0)
    return axis


# --- which token a child gets -----------------------------------------------------------------------------


def _tokens(split: _Split, k: int, level: int, book: _Book | None, seed: int) -> Integers:
    """Token ``[B, children]`` of each child."""
    only_child = split.offsets.shape[1] == 1  # it lies at its parent, which says nothing
    if book is not None and not only_child:
        rows, prices = book
        return assign_exactly(prices - split.offsets @ rows.T)
    if split.axis is not None:
        along = (split.offsets @ split.axis[..., None])[..., 0]
        return np.argsort(np.argsort(along, axis=1, kind="stable"), axis=1)
    b, children = split.offsets.shape[:2]
    drawn = generator(seed, "code labels", level, int(split.numbers[0])).random((b, k))
    tokens: Integers = np.argsort(drawn, axis=1)[:, :children]
    return tokens


def _aligned_book(splits: Sequence[_Split], k: int, level: int, seed: int) -> _Book:
    """The code book ``[K, d]`` that the offsets of all nodes' children agree on best.

    With it go prices ``[K]``: under nodes of few children all tokens are to be used alike.
    """
    offsets = np.concatenate([split.offsets.reshape(-1, split.offsets.shape[-1]) for split in splits])
    book = kmeans(offsets[None], k, generator(seed, "code book", level).random((1, k)))[0]
    share = min(_ALIGNED_NODES / sum(len(split.numbers) for split in splits), 1)
    some = [split.offsets[: max(round(share * len(split.numbers)), 1)] for split in splits]
    rows = np.concatenate([each.reshape(-1, each.shape[-1]) for each in some])
    for _ in range(_ALIGNED_ROUNDS):
        matched = np.concatenate([assign_exactly(-(each @ book.T)).ravel() for each in some])
        book = group_means(rows[None], matched[None], book[None])[0]
    priced = offsets[np.linspace(0, len(offsets) - 1, min(len(offsets), PRICED_ROWS * k)).astype(np.int64)]
    return book, even_prices(-(priced @ book.T))
