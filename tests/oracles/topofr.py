"""One step of the TopoFR release, written from the formulas of topofr.md sections 1, 4 and 5: naive float64."""

import math

import numpy as np
from torch import Tensor

from tests.oracles.mixture import release_hardness


def tree_lengths(points: Tensor) -> list[float]:
    """Kruskal over a full list of edges."""
    n = len(points)
    edges = sorted((float((points[i] - points[j]).norm()), i, j) for i in range(n) for j in range(i + 1, n))
    group = list(range(n))
    lengths = []
    for length, i, j in edges:
        if group[i] != group[j]:
            lengths.append(length)
            old, new = group[i], group[j]
            group = [new if g == old else g for g in group]
    return lengths


def release_step(
    images: Tensor,
    embeddings: Tensor,
    centers: Tensor,
    labels: Tensor,
    *,
    scale: float,
    margin: float,
    alpha: float,
) -> tuple[float, float]:
    """(weighted class loss, alpha times alignment): images in [-1, 1], sorted form, gate, its mixture fit."""
    n = len(images)
    source = [length / (2 * math.sqrt(images[0].numel())) for length in tree_lengths(images.flatten(1))]
    latent = tree_lengths(embeddings)
    alignment = sum((b - a) ** 2 for a, b in zip(source, latent, strict=True)) / n

    losses, entropies, probabilities = [], [], []
    for i in range(n):
        cosines = [float(embeddings[i] @ c / embeddings[i].norm() / c.norm()) for c in centers]
        own = cosines[int(labels[i])]
        if own > math.cos(math.pi - margin):
            target = own * math.cos(margin) - math.sqrt(1 - own * own) * math.sin(margin)
        else:
            target = own - margin * math.sin(margin)
        logits = np.array([scale * (target if c == int(labels[i]) else v) for c, v in enumerate(cosines)])
        g = np.exp(logits - logits.max())
        g /= g.sum()
        losses.append(-math.log(g[int(labels[i])]))
        probabilities.append(g[int(labels[i])])
        entropies.append(float(-(g * np.log(g + 1e-5)).sum()))
    h = release_hardness(np.array(entropies))
    gate = [0.0 if np.float32(p) == 1 else 1.0 for p in probabilities]
    weighted = [(1 + h[i]) * gate[i] * losses[i] for i in range(n)]
    return sum(weighted) / n, alpha * alignment
