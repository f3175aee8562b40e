"""In-batch negatives the slow way: every pair is appended to every row, as the paper has it, in explicit loops."""

import itertools
import math

import torch


def fixture():
    """B = 6, D = 4, C = 5: embeddings, class weights, labels; float64."""
    x = [[math.sin(1 + 0.7 * i + 1.3 * j + 0.11 * i * j) for j in range(4)] for i in range(6)]
    w = [[math.cos(0.5 + 0.9 * c + 0.4 * j + 0.17 * c * j) for j in range(4)] for c in range(5)]
    return (
        torch.tensor(x, dtype=torch.float64),
        torch.tensor(w, dtype=torch.float64),
        torch.tensor([0, 0, 1, 2, 2, 4]),
    )


def units(points):
    return torch.stack([p / (p * p).sum().sqrt() for p in points])


def negative_pairs(labels):
    """(j, k), j < k, of different identities."""
    return [(j, k) for j, k in itertools.combinations(range(len(labels)), 2) if labels[j] != labels[k]]


def fences(values, whisker, quartiles="index", side="both"):
    """Box and whisker of a list of numbers."""
    if whisker is None or not values:
        return -math.inf, math.inf
    v, m = sorted(values), len(values)

    def at(place):
        low, high = math.floor(place), math.ceil(place)
        return v[low] + (place - low) * (v[high] - v[low])

    if quartiles == "index":
        q1, q3 = v[int(0.25 * m)], v[int(0.75 * m)]
    else:
        q1, q3 = at(0.25 * (m - 1)), at(0.75 * (m - 1))
    reach = whisker * (q3 - q1)
    return (q1 - reach if side == "both" else -math.inf), q3 + reach


def arcface(cosine, margin):
    return cosine * math.cos(margin) - (1 - cosine * cosine).clamp(min=0).sqrt() * math.sin(margin)


def literal_loss(x, w, labels, scale, margin_of, whisker, scope="batch", weights=None):
    """Mean cross entropy over class logits and, behind them, one logit for every kept pair; ``margin_of(cosine)``."""
    rows, centers = units(x), units(w)
    labels = labels.tolist()
    pairs = negative_pairs(labels)
    cosine = {(j, k): (rows[j] * rows[k]).sum() for j, k in pairs}
    low, high = fences([float(c.detach()) for c in cosine.values()], whisker)
    kept = [pair for pair in pairs if low <= float(cosine[pair].detach()) <= high]
    losses = []
    for i, label in enumerate(labels):
        plain = [(rows[i] * center).sum() for center in centers]
        logits = [margin_of(c) if k == label else c for k, c in enumerate(plain)]
        logits += [cosine[pair] for pair in kept if scope == "batch" or i in pair]
        row = scale * torch.stack(logits)
        losses.append(torch.nn.functional.cross_entropy(row[None], torch.tensor([label])))
    losses = torch.stack(losses)
    return (losses if weights is None else weights * losses).mean()
