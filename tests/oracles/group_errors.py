"""Errors by group from the definitions, a pair at a time."""

from collections.abc import Sequence
from typing import NamedTuple


class Counts(NamedTuple):
    false_matches: int
    impostors: int
    false_non_matches: int
    genuine: int


def threshold(scores: Sequence[float], same: Sequence[bool], target: float) -> float:
    """Of all scores, and of infinity, the lowest at which no more than this share of impostor pairs is accepted."""
    impostors = [score for score, one in zip(scores, same, strict=True) if not one]
    good = [float("inf")]
    for candidate in set(scores):
        accepted = sum(score >= candidate for score in impostors)
        if accepted / len(impostors) <= target:
            good.append(candidate)
    return min(good)


def errors_by_group(
    scores: Sequence[float],
    same: Sequence[bool],
    groups: Sequence[tuple[str | None, str | None]],
    target: float,
) -> dict[frozenset[str], Counts]:
    """Counts of each two groups (or of one), at the threshold of all pairs."""
    bar = threshold(scores, same, target)
    found: dict[frozenset[str], Counts] = {}
    for score, one, (left, right) in zip(scores, same, groups, strict=True):
        if left is None or right is None:
            continue
        matches, impostors, misses, genuine = found.get(frozenset((left, right)), Counts(0, 0, 0, 0))
        if one:
            genuine += 1
            misses += score < bar
        else:
            impostors += 1
            matches += score >= bar
        found[frozenset((left, right))] = Counts(matches, impostors, misses, genuine)
    return found
