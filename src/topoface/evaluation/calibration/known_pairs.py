"""Pairs of known people with their scores, and halves of them that have no person in common."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.evaluation.embedding import FAILED_IMPOSTOR
from topoface.evaluation.figures import count_of
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.functional.draws import generator


class KnownPairs(NamedTuple):
    """Pairs of which it is known who is on them.

    Attributes:
        scores: float64 ``[m]``, cosines.
        same: bool ``[m]``.
        people: int64 ``[m, 2]``.
        folds: int64 ``[m]``.
        left_out: pairs of the protocol that have no score, since an image failed.
    """

    scores: NDArray[np.float64]
    same: NDArray[np.bool_]
    people: NDArray[np.int64]
    folds: NDArray[np.int64]
    left_out: int = 0

    def among(self, chosen: NDArray[np.bool_]) -> "KnownPairs":
        """Some of them."""
        return KnownPairs(self.scores[chosen], self.same[chosen], self.people[chosen], self.folds[chosen])


def known_pairs(scores: NDArray[np.float64], protocol: PairProtocol) -> KnownPairs:
    """The pairs with a score; those of failed images score outside the range of cosines and are left out."""
    usable = np.abs(scores) < FAILED_IMPOSTOR
    pairs = KnownPairs(scores, protocol.same, protocol.identities[protocol.pairs], protocol.folds)
    return pairs.among(usable)._replace(left_out=int((~usable).sum()))


def halves(pairs: KnownPairs, seed: int, where: str) -> tuple[NDArray[np.int64], str]:
    """Two halves without a common person.

    Where no person is in two folds, halves are made of whole folds, and every pair is in one; else of people, and pairs of one person of
    each half are in neither.

    Args:
        pairs: of all people.
        seed: of the halves.
        where: names the pairs in errors.

    Returns:
        0, 1 or -1 (neither) for each pair ``[m]``; and how it was done, in words.

    Raises:
        UserError: a half has no genuine or no impostor pair.
    """
    people, flat = np.unique(pairs.people, return_inverse=True)
    sides = flat.reshape(-1, 2)
    folds, fold = np.unique(pairs.folds, return_inverse=True)
    first, last = np.full(len(people), len(folds)), np.full(len(people), -1)
    for side in sides.T:
        np.minimum.at(first, side, fold)
        np.maximum.at(last, side, fold)
    if len(folds) > 1 and (first == last).all():
        half = shuffled_halves(len(folds), seed)[fold]
        words = f"halves of the {len(folds)} folds, which have no person in common, seed {seed}"
    else:
        left, right = shuffled_halves(len(people), seed)[sides].T
        half = np.where(left == right, left, -1)
        between = count_of(int((half < 0).sum()), "pair")
        words = f"halves of the people, seed {seed}, {between} between them left out"
    for k in (0, 1):
        if len(np.unique(pairs.same[half == k])) < 2:
            raise UserError("half of the people have pairs of one kind only", where, "give more people")
    return half, words


def shuffled_halves(number: int, seed: int) -> NDArray[np.int64]:
    """0 or 1 for each, ``[number]``, as equally many as can be."""
    half = np.arange(number, dtype=np.int64) % 2
    return generator(seed, "halves of people").permutation(half)
