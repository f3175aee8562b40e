"""TopoFR's alignment and mixture fit as slow as they were released: the baseline of ``benchmarks/topology.py``.

Written from sections 1.1, 1.3 and 4 of the specification, after modelscope/facechain (face_module/TopoFR) and
BorgwardtLab/topological-autoencoders. Two things differ, for the better: the union-find does not recurse (the released
one overflows the stack on equally spaced points), and where the uniform's half-width has no root the density is 0.001 (the
released one goes on with NaN).
"""

import math

import numpy as np
import torch
from scipy.stats import multivariate_normal


def broadcast_distances(points):
    """All distances through the differences [n, n, D], with plain autograd."""
    flat = points.flatten(1)
    return torch.norm(flat[:, None] - flat, dim=2, p=2)


def union_find_tree(distances):
    """The spanning tree of a NumPy matrix, int64 [n - 1, 2]: every pair, diagonal included, in one sorted loop."""
    rows, columns = np.triu_indices_from(distances)
    order = np.argsort(distances[rows, columns], kind="stable")
    parent = np.arange(len(distances))

    def root(vertex):
        top = vertex
        while parent[top] != top:
            top = parent[top]
        while parent[vertex] != top:
            parent[vertex], vertex = top, parent[vertex]
        return top

    edges = []
    for edge in order:
        i, j = rows[edge], columns[edge]
        first, second = root(i), root(j)
        if first != second:
            parent[max(first, second)] = min(first, second)
            edges.append((i, j))
    return np.array(edges)


def alignment(images, latents):
    """The released loss: images in [-1, 1] and raw latents, sorted tree lengths, squared, summed, divided by n."""
    source = broadcast_distances(images) / (2 * math.sqrt(images[0].numel()))
    target = broadcast_distances(latents)
    lengths = []
    for distances in (source, target):
        edges = union_find_tree(distances.detach().numpy())
        lengths.append(distances[edges[:, 0], edges[:, 1]])
    return ((lengths[0] - lengths[1]) ** 2).sum() / len(images)


def mixture(entropies):
    """The released fit of NumPy entropies [n]: (hardness [n], pi, iterations taken, at most 1000)."""
    signed = entropies.astype(float)
    signed[::2] *= -1
    x = ((signed - signed.mean()) / signed.std())[:, None]
    n, pi, uniform, before = len(x), 0.1, 0.2, 0.0
    sigma = (x[:, :, None] * x[:, None, :]).sum(0) / n
    iterations = 0
    while iterations < 1000:
        iterations += 1
        normal = multivariate_normal(np.zeros(1), sigma + 1e-3).pdf(x)
        easy = normal * pi / (normal * pi + (1 - pi) * uniform)
        mass = easy.sum()
        sigma = (easy[:, None, None] * x[:, :, None] * x[:, None, :]).sum(0) / mass
        pi = min(mass / n, 0.5)
        hard = (1 - easy[:, None]) / (1 - pi + 1e-10)
        first, second = (hard * x).sum(0) / mass, (hard * x**2).sum(0) / mass
        width = 3 * second - first**2
        uniform = 0.001 if width < 0.001 else 1 / (np.prod(2 * np.sqrt(width)) + 1e-10)
        likelihood = (pi * normal + (1 - pi) * uniform).sum()
        if abs(likelihood - before) < 1e-10:
            break
        before = likelihood
    return 1 - easy, pi, iterations
