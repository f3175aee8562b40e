"""Sets of pairs and their distances the slow way: lists, loops, and one step of a distribution function after another."""

import bisect
import itertools
import math

from tests.oracles.negatives import fences


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def class_negatives(points, centers, labels):
    """Every sample with every center but its own."""
    return [
        cosine(p, c)
        for p, label in zip(points, labels, strict=True)
        for k, c in enumerate(centers)
        if k != label
    ]


def pairs(points, labels, *, genuine):
    """Every unordered pair of one identity, or of two."""
    return [
        cosine(points[i], points[j])
        for i, j in itertools.combinations(range(len(points)), 2)
        if (labels[i] == labels[j]) == genuine
    ]


def batch_negatives(points, labels, batches, whisker):
    """Negative pairs of each batch within its own fences, one list for all."""
    kept = []
    for batch in batches:
        own = pairs([points[i] for i in batch], [labels[i] for i in batch], genuine=False)
        low, high = fences(own, whisker)
        kept += [value for value in own if low <= value <= high]
    return kept


def share_up_to(ordered, limit):
    return bisect.bisect_right(ordered, limit) / len(ordered)


def wasserstein(one, other):
    """Area between the two distribution functions."""
    one, other = sorted(one), sorted(other)
    return sum(
        abs(share_up_to(one, left) - share_up_to(other, left)) * (right - left)
        for left, right in itertools.pairwise(sorted(one + other))
    )


def kolmogorov_smirnov(one, other):
    one, other = sorted(one), sorted(other)
    return max(abs(share_up_to(one, v) - share_up_to(other, v)) for v in one + other)


def mean_of_top(values, count):
    top = sorted(values)[-count:]
    return sum(top) / len(top)
