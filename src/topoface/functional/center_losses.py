"""What cluster centers say of a sample and do to it: hard levels, and the losses against centers.

The formulas of JLCC (arXiv 2312.04029) as reconstructed from its abstract, the only part that could be read
(docs/methods/jlcc.md). Cosines and log-masses come from :mod:`topoface.functional.center_look`.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from topoface.functional.center_look import ABSENT, present
from topoface.functional.center_memory import CenterMemory, within
from topoface.functional.collectives import sum_over_ranks
from topoface.functional.directions import unit_rows
from topoface.functional.softmax import negative_log_likelihood

LEAST_DEVIATION = 0.02  # of the cosines of one class, for its z-score

# --- hard levels: each [n] in [0, 1], NaN where the own identity is unseen ---------------------------------------


def silhouette_level(own: Tensor, other: Tensor) -> Tensor:
    """(1 - sigma)/2 of the silhouette sigma = (a - b)/max(1 - a, 1 - b): above 1/2 exactly if b > a; 1/2 if a = b = 1."""
    own, other = own.clamp(max=1), other.clamp(max=1)  # rounding may lead beyond
    widest = 1 - torch.minimum(own, other)
    sigma = torch.where(widest == 0, 0, (own - other) / widest.where(widest != 0, 1))
    return ((1 - sigma) / 2).clamp(0, 1)


def center_level(own: Tensor) -> Tensor:
    """(1 - a)/2."""
    return ((1 - own) / 2).clamp(0, 1)


def zscore_level(own: Tensor, mean: Tensor, square: Tensor) -> Tensor:
    """Share of its class expected further out: Phi((mu - a)/s), with s at least 0.02.

    Args:
        own: a, ``[n]``.
        mean: ``[n]``, running mean of a in each row's class; NaN if none yet.
        square: ``[n]``, running mean of a^2 there.
    """
    deviation = (square - mean**2).clamp(min=LEAST_DEVIATION**2).sqrt()
    level: Tensor = torch.special.ndtr((mean - own) / deviation)
    return level


def posterior_level(own: Tensor, rest_log_mass: Tensor, temperature: float) -> Tensor:
    """1 - softmax of the cosines over the temperature, at the own center."""
    return (rest_log_mass - own / temperature).sigmoid()


def level_statistics(level: Tensor, *, over_ranks: bool = False) -> Tensor:
    """Mean and population deviation ``[2]`` over the levels that are defined; NaN if none is.

    Args:
        level: ``[n]``; NaN where undefined.
        over_ranks: of the levels of all ranks together, which must all ask.
    """

    def total(values: Tensor) -> Tensor:
        return sum_over_ranks(values) if over_ranks else values

    count = total((~level.isnan()).sum())
    mean = total(level.nansum()) / count
    return torch.stack([mean, (total(((level - mean) ** 2).nansum()) / count).sqrt()])


def normalised_level(level: Tensor, statistics: Tensor) -> Tensor:
    """``[n]`` in [-1, 1]: distance from the mean in units of two deviations; 0 where undefined."""
    mean, deviation = statistics.unbind()
    return ((level - mean) / (2 * deviation).clamp(min=1e-6)).clamp(-1, 1).nan_to_num(0.0)


# --- losses: the centers carry no gradient ------------------------------------------------------------------------


def contrast_loss(
    own: Tensor, rest_log_mass: Tensor, temperature: float, *, chosen: Tensor | None = None
) -> Tensor:
    """Cross entropy of rows against all seen centers, mean over the rows whose own center is seen.

    Args:
        own: cosine ``[n]`` to the own center, ``ABSENT`` if unseen.
        rest_log_mass: ``[n]``, of the other seen centers.
        temperature: tau.
        chosen: bool ``[n]``, rows that count at all.
    """
    counted = present(own) if chosen is None else present(own) & chosen
    rows = negative_log_likelihood(own.where(counted, 0) / temperature, rest_log_mass)
    number = counted.sum()
    return rows.where(counted, 0).sum() / number.where(number > 0, 1)


def batch_cosines(rows: Tensor, labels: Tensor, otherwise: Tensor) -> Tensor:
    """Cosine ``[n]`` of each unit row to the mean of the batch's other rows of its label; the gradient goes to both.

    Args:
        rows: unit rows ``[n, D]``.
        labels: int64 ``[n]``.
        otherwise: ``[n]``, for the rows without another one of their label.
    """
    group = torch.searchsorted(labels.sort().values, labels)
    sums = torch.zeros_like(rows).index_add(0, group, rows)
    alone = torch.zeros_like(labels).index_add_(0, group, torch.ones_like(labels))[group] < 2
    others = unit_rows((sums[group] - rows).where(~alone[:, None], rows.detach()))
    return torch.where(alone, otherwise, (rows * others).sum(1))


def sampled_log_mass(
    rows: Tensor,
    labels: Tensor,
    memory: CenterMemory,
    keys: Tensor,
    *,
    count: int,
    temperature: float,
) -> Tensor:
    """Estimate of a :class:`Look`'s log-mass from the centers of the batch and ``count`` others: unbiased before its logarithm.

    Each of the k drawn stands for N/k of the N seen classes outside the batch (logit + log(N/k)).

    Args:
        rows: unit embeddings ``[n, D]``.
        labels: int64 ``[n]``; those of the global batch, so that all ranks take the same.
        memory: any range of classes.
        keys: ``[c]``, independent and uniform in [0, 1): the classes with the least are drawn.
        count: k.
        temperature: tau.
    """
    if not len(keys):
        return 0 * rows.sum(1) - torch.inf
    batch, here = within(labels, memory.first_class, len(keys), None)
    in_batch = torch.zeros_like(memory.visits).index_add_(0, batch, here.to(batch.dtype)) > 0
    open_to_draw = memory.negatives & ~in_batch
    drawn_keys, drawn = keys.masked_fill(~open_to_draw, torch.inf).topk(min(count, len(keys)), largest=False)
    number = open_to_draw.sum().to(rows.dtype)
    stands_for = (number / number.clamp(1, count)).log()
    columns = torch.cat([batch, drawn])
    weight = torch.cat(
        [
            torch.where(here & first_of_each(labels) & memory.negatives[batch], 0.0, ABSENT).to(rows.dtype),
            torch.where(drawn_keys.isfinite(), stands_for, ABSENT),
        ]
    )
    logits = linear(rows, memory.directions[columns].to(rows.dtype)) / temperature + weight
    own = columns + memory.first_class == labels[:, None]
    return logits.masked_fill(own, ABSENT).logsumexp(1)


def first_of_each(labels: Tensor) -> Tensor:
    """Bool ``[n]``: whether no earlier row has the same label."""
    ordered, order = labels.sort(stable=True)
    new = torch.ones_like(labels, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(new).scatter_(0, order, new)


def alignment_loss(weights: Tensor, centers: Tensor, counted: Tensor, number: Tensor) -> Tensor:
    """Sum of 1 - cos between unit class weights and cluster centers, ``[m, D]`` each, over the rows that count, by ``number``."""
    far = 1 - (weights * centers).sum(1)
    return far.where(counted, 0).sum() / number.clamp(min=1)
