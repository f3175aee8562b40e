"""Calibration straight from its definitions: one pair at a time."""

import math
from collections.abc import Sequence


def logistic_loss(
    slope: float, offset: float, scores: Sequence[float], same: Sequence[bool], prior: float
) -> float:
    """Prior-weighted logarithmic loss; each kind has one pair more, whose loss is the mean over the pairs of the other kind."""

    def surprise(score: float, genuine: bool) -> float:
        z = slope * score + offset + math.log(prior / (1 - prior))
        z = z if genuine else -z
        return math.log1p(math.exp(-z)) if z > -30 else -z

    total = 0.0
    for kind, share in ((True, prior), (False, 1 - prior)):
        own = [s for s, g in zip(scores, same, strict=True) if bool(g) is kind]
        other = [s for s, g in zip(scores, same, strict=True) if bool(g) is not kind]
        one_more = sum(surprise(s, kind) for s in other) / len(other)
        total += share * (sum(surprise(s, kind) for s in own) + one_more) / (len(own) + 1)
    return total


def calibration_error(probabilities: Sequence[float], same: Sequence[bool], prior: float, bins: int) -> float:
    """Pairs laid end to end by probability on a line of length 1; equal ones go where the middle of them all lies."""
    genuine = sum(map(bool, same))
    weights = [prior / genuine if g else (1 - prior) / (len(same) - genuine) for g in same]
    held: list[list[tuple[float, float, bool]]] = [[] for _ in range(bins)]
    for p, g, w in zip(probabilities, same, weights, strict=True):
        before = sum(v for q, v in zip(probabilities, weights, strict=True) if q < p)
        equal = sum(v for q, v in zip(probabilities, weights, strict=True) if q == p)
        held[min(int((before + equal / 2) * bins), bins - 1)].append((w, p, bool(g)))
    error = 0.0
    for pairs in held:
        mass = sum(w for w, _, _ in pairs)
        if mass:
            said = sum(w * p for w, p, _ in pairs) / mass
            true = sum(w for w, _, g in pairs if g) / mass
            error += mass * abs(said - true)
    return error
