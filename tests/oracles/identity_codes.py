"""Identity codes the slow way: one classifier after the other, one identity after the other; shares no code with src."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def fixture(n: int, d: int, a: float = 1.7, b: float = 0.9, c: float = 0.31) -> Tensor:
    """F(n, d; a, b, c)[i, k] = sin(a i + b k + c i k), i and k from 1, float64."""
    return torch.tensor(
        [[math.sin(a * i + b * k + c * i * k) for k in range(1, d + 1)] for i in range(1, n + 1)],
        dtype=torch.float64,
    )


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def classifier_losses(
    z: Tensor,
    weights: Sequence[Tensor],
    tokens: Sequence[int],
    scale: float,
    margin: float = 0.0,
) -> list[Tensor]:
    """Cross entropy of one embedding ``[D]`` under each of L cosface classifiers, each a loop of its own."""
    losses = []
    for w, token in zip(weights, tokens, strict=True):
        logits = []
        for k, center in enumerate(w):
            cosine = (z @ center) / z.norm() / center.norm()
            logits.append(scale * (cosine - margin if k == token else cosine))
        stacked = torch.stack(logits)
        losses.append(stacked.exp().sum().log() - stacked[token])
    return losses


def entropy(p: np.ndarray) -> float:
    return float(-sum(x * math.log(x) for x in p.ravel() if x > 0))


def all_codes(alphabets: Sequence[int]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(k) for k in alphabets)))


def code_probability(p: Sequence[np.ndarray], code: Sequence[int]) -> float:
    """Product of the token probabilities."""
    return math.prod(float(row[t]) for row, t in zip(p, code, strict=True))


def tree_probability(p: Sequence[np.ndarray], codes: Sequence[Sequence[int]], code: Sequence[int]) -> float:
    """The same, each token among those that some code has after the same prefix."""
    total = 1.0
    for j, token in enumerate(code):
        siblings = {other[j] for other in codes if tuple(other[:j]) == tuple(code[:j])}
        total *= float(p[j][token]) / sum(float(p[j][t]) for t in siblings)
    return total


def best_code(p: Sequence[np.ndarray], codes: Sequence[Sequence[int]]) -> int:
    return max(range(len(codes)), key=lambda i: code_probability(p, codes[i]))


def centers_loss(z: Tensor, centers: Tensor, label: int, scale: float, margin: float) -> float:
    """CosFace loss of one embedding over rows that are made unit length here."""
    logits = [scale * float(z @ w / z.norm() / w.norm()) for w in centers]
    logits[label] -= scale * margin
    return math.log(sum(math.exp(value) for value in logits)) - logits[label]
