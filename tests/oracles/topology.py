"""Slow, obvious topology: Kruskal, search over all trees and matchings, alignment through full distance matrices."""

import itertools
import math

import numpy as np
import torch


def kruskal(distances):
    """Edges (i, j), i < j, in order of (length, i, j), NaN last, of the upper triangle; a list of tuples."""
    n = len(distances)
    pairs = list(itertools.combinations(range(n), 2))
    pairs.sort(key=lambda e: (math.isnan(distances[e]), 0 if math.isnan(distances[e]) else distances[e], e))
    component = list(range(n))
    tree = []
    for i, j in pairs:
        if component[i] != component[j]:
            tree.append((i, j))
            gone = component[j]
            component = [component[i] if c == gone else c for c in component]
    return tree


def smallest_tree(distances):
    """The same by trying every set of n - 1 edges: least total, then least in the order of (length, i, j)."""
    n = len(distances)
    pairs = sorted(itertools.combinations(range(n), 2), key=lambda e: (distances[e], e))
    trees = [t for t in itertools.combinations(pairs, n - 1) if spans(t, n)]
    return list(min(trees, key=lambda t: (sum(distances[e] for e in t), [(distances[e], e) for e in t])))


def spans(edges, n):
    """Whether the edges connect all n vertices."""
    reached = {0}
    for _ in range(n):
        reached |= {v for e in edges for v in e if reached & set(e)}
    return len(reached) == n


def integer_squared_distances(images):
    """All pairs in NumPy int64, one at a time; a list of lists."""
    rows = [np.asarray(image).ravel().astype(np.int64) for image in images]
    return [[int(((a - b) ** 2).sum()) for b in rows] for a in rows]


def bottleneck_by_search(a, b):
    """The least cost over all partial matchings of bars (0, a_i) and (0, b_j); the unmatched pay half their length."""
    best = math.inf
    for size in range(min(len(a), len(b)) + 1):
        for left in itertools.combinations(range(len(a)), size):
            for right in itertools.permutations(range(len(b)), size):
                costs = [abs(a[i] - b[j]) for i, j in zip(left, right, strict=True)]
                costs += [a[i] / 2 for i in range(len(a)) if i not in left]
                costs += [b[j] / 2 for j in range(len(b)) if j not in right]
                best = min(best, max(costs, default=0.0))
    return best


def wasserstein_by_assignment(a, b, power):
    """Least sum of |a_i - b_s(i)|^power over all permutations."""
    return min(
        sum(abs(x - y) ** power for x, y in zip(a, p, strict=True)) for p in itertools.permutations(list(b))
    )


def alignment(source, latents, form, norm, latent, reduction):
    """The loss through full distance matrices with plain autograd, edge by edge (no duplicates among the points)."""
    n = len(latents)
    points = latents
    if latent == "sphere":
        points = torch.stack([z / (z * z).sum().sqrt() for z in latents])
    distance = [
        [((points[i] - points[j]) ** 2).sum().sqrt() if i != j else None for j in range(n)] for i in range(n)
    ]
    plain = np.array(
        [[0.0 if i == j else float(distance[i][j].detach()) for j in range(n)] for i in range(n)]
    )
    tree_x, tree_z = kruskal(np.asarray(source)), kruskal(plain)
    unit_a, unit_b = torch.tensor(1.0, dtype=source.dtype), torch.tensor(1.0, dtype=source.dtype)
    if norm == "pixel_range" and latent == "sphere":
        unit_b = 2 * unit_b
    if norm == "mean_edge":
        unit_a = sum(source[e] for e in tree_x) / (n - 1)
        unit_b = sum(distance[i][j] for i, j in tree_z) / (n - 1)
    if norm == "max":
        unit_a = source.max()
        i, j = np.unravel_index(plain.argmax(), plain.shape)
        unit_b = distance[min(i, j)][max(i, j)]
    if form == "paired":
        loss = sum((distance[i][j] / unit_b - source[i, j] / unit_a) ** 2 for i, j in [*tree_x, *tree_z]) / 2
    else:
        gaps = [
            distance[k][m] / unit_b - source[e] / unit_a for e, (k, m) in zip(tree_x, tree_z, strict=True)
        ]
        loss = sum(g**2 if form == "sorted" else g.abs() for g in gaps)
    return loss / {"sum": 1, "batch": n, "edges": n - 1}[reduction]


def spearman(x, y):
    """Pearson's correlation of average ranks."""

    def ranks(v):
        return [sum(w < u for w in v) + (sum(w == u for w in v) + 1) / 2 for u in v]

    return float(np.corrcoef(ranks(list(x)), ranks(list(y)))[0, 1])
