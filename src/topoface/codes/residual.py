"""Residual quantisation with balance (section 4.5 of our reading of GIF): codes whose tokens mean the same everywhere.

A vector is taken as a sum of L rows, one of each code book. Members of a node share out the book of the next level as a
balanced tree does, so codes are unique for the same reason; levels beyond that go on refining.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from topoface.codes.assign import PRICED_ROWS, Costs, Integers, assign_balanced, assign_exactly, even_prices
from topoface.codes.clustering import SAMPLED, Rows, balanced_kmeans, group_means, squared_distances
from topoface.codes.nodes import Nodes, Progress
from topoface.functional.draws import generator

_BLOCK = 65536


def build_residual(
    vectors: NDArray[np.float32], alphabets: Sequence[int], *, seed: int, progress: Progress | None = None
) -> Integers:
    """Codes ``[C, L]`` of vectors ``[C, D]``, all different.

    Args:
        vectors: a row for each identity, in the order of their uids.
        alphabets: K of each position; their product is C or more.
        seed: of the code books' starting points.
        progress: called with levels done and in all.
    """
    left = vectors - vectors.mean(0)
    codes = np.empty((len(left), len(alphabets)), np.int64)
    nodes = Nodes.root(len(left))
    for level, k in enumerate(alphabets):
        book = _book(left, k, generator(seed, "code book", level).random((1, k)))
        prices = even_prices(squared_distances(_some(left, PRICED_ROWS * k)[None], book[None])[0])
        for _, members in nodes.batches(max(left.shape[1], k)):
            costs = squared_distances(left[members], np.broadcast_to(book, (len(members), *book.shape)))
            codes[members, level] = _share_out(costs, prices)
        tokens = codes[:, level]
        book = group_means(left[None], tokens[None], book[None])[0]
        for start in range(0, len(left), _BLOCK):
            left[start : start + _BLOCK] -= book[tokens[start : start + _BLOCK]]
        nodes = nodes.split(tokens)
        if progress:
            progress(level + 1, len(alphabets))
    return codes


def fit_books(vectors: NDArray[np.float32], codes: Integers, alphabets: Sequence[int]) -> Rows:
    """What the tokens of any codes stand for: ``[sum K_j, D]``, the mean of what is left after the positions before.

    The vectors themselves are about their mean plus one row of each position.
    """
    left = vectors - vectors.mean(0)
    books = []
    for level, k in enumerate(alphabets):
        tokens = codes[:, level]
        book = group_means(left[None], tokens[None], np.zeros((1, k, left.shape[1]), np.float32))[0]
        left -= book[tokens]
        books.append(book)
    return np.concatenate(books)


def _book(left: Rows, k: int, draws: NDArray[np.float64]) -> Rows:
    """Centers ``[K, d]`` of clusters of equal size among the residuals."""
    if len(left) <= k:
        return np.concatenate([left, np.zeros((k - len(left), left.shape[1]), np.float32)])
    centers: Rows = balanced_kmeans(_some(left, SAMPLED * k)[None], k, draws)[1][0]
    return centers


def _some(rows: Rows, most: int) -> Rows:
    """At most so many rows, evenly spread."""
    some: Rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64)]
    return some


def _share_out(costs: Costs, prices: NDArray[np.float32]) -> Integers:
    """Token ``[B, m]`` of each member, from its distance to each row of the book ``[B, m, K]``.

    A node with no more members than tokens balances nothing by itself; there prices keep rows near the middle of the residuals from
    being everybody's choice.
    """
    m, k = costs.shape[1:]
    if m > k:
        return assign_balanced(costs)
    priced = costs + prices
    return priced.argmin(2).astype(np.int64) if m == 1 else assign_exactly(priced)
