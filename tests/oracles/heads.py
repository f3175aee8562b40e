"""Heads one sample at a time, with acos and plain sums: slow, obvious, sharing no code with src."""

import math
from collections.abc import Callable

from torch import Tensor


def angular_logit(cosine: float, margin: float) -> float:
    """cos(theta + m); past pi - m the straight line that continues it at -1."""
    theta = math.acos(max(-1.0, min(1.0, cosine)))
    if theta + margin <= math.pi:
        return math.cos(theta + margin)
    return cosine - (1 - math.cos(margin))


def class_statistics(
    embeddings: Tensor,
    centers: Tensor,
    labels: Tensor,
    scale: float,
    logit_of: Callable[[float], float],
    extra: list[float] | None = None,
) -> tuple[list[float], list[float], list[float]]:
    """(losses, log-probabilities of the label, entropies), float64, from mpmath-free plain sums."""
    losses, log_probabilities, entropies = [], [], []
    for i, row in enumerate(embeddings.double()):
        logits = []
        for c, center in enumerate(centers.double()):
            cosine = float(row @ center / row.norm() / center.norm())
            logits.append(scale * (logit_of(cosine) if c == int(labels[i]) else cosine))
        top = max(logits)
        mass = sum(math.exp(value - top) for value in logits)
        log_p = [value - top - math.log(mass) for value in logits]
        log_probabilities.append(log_p[int(labels[i])])
        entropies.append(-sum(math.exp(v) * v for v in log_p))
        joined = mass + (math.exp(extra[i] - top) if extra is not None else 0.0)
        losses.append(top + math.log(joined) - logits[int(labels[i])])
    return losses, log_probabilities, entropies
