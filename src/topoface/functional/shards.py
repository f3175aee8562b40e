"""The statistics of a softmax whose classes lie on several processes: what each computes, and how it is joined.

TopoFR needs entropy and target probability of the whole softmax (docs/methods/topofr.md); with the class centers in
shards nobody holds a whole row of logits, but three numbers a row and shard are enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from topoface.functional.softmax import entropy_of, negative_log_likelihood


@dataclass(frozen=True, kw_only=True)
class ShardPart:
    """What one shard knows of each row, ``[n]`` each; an empty shard has ``log_mass`` -inf.

    Attributes:
        log_mass: log-sum-exp of the logits of the shard's classes but the row's own.
        mean: mean of these logits under their own softmax (0 where there are none).
        target: logit of the row's own class, 0 where it lies on another shard.
    """

    log_mass: Tensor
    mean: Tensor
    target: Tensor


def shard_part(logits: Tensor, labels: Tensor, first_class: int) -> ShardPart:
    """One shard's part of the statistics.

    Args:
        logits: ``[n, c]`` of classes ``first_class .. first_class + c - 1``, with margin and scale; c may be 0.
        labels: int64 ``[n]``, over all classes.
        first_class: of the shard.
    """
    n, c = logits.shape
    if c == 0:
        zeros = logits.new_zeros(n)
        return ShardPart(log_mass=zeros - torch.inf, mean=zeros, target=zeros)
    local = labels - first_class
    here = (local >= 0) & (local < c)
    own = torch.nn.functional.one_hot(local.clamp(0, c - 1), c).bool() & here[:, None]
    rest = logits.masked_fill(own, -torch.inf)
    top = rest.amax(1).clamp(min=torch.finfo(logits.dtype).min)  # a shard of just the own class
    mass = (rest - top[:, None]).exp()
    total = mass.sum(1)
    filled = total > 0
    return ShardPart(
        log_mass=torch.where(filled, total.where(filled, 1).log() + top, -torch.inf),
        mean=(mass * logits).sum(1) / total.where(filled, 1),
        target=logits.masked_fill(~own, 0).sum(1),
    )


def join_shards(parts: Sequence[ShardPart], num_classes: int) -> tuple[Tensor, Tensor]:
    """Log-probability of the label and entropy in nats, ``[n]`` each, of the whole softmax.

    Args:
        parts: of all shards, in any order.
        num_classes: over all shards.
    """
    log_masses = torch.stack([part.log_mass for part in parts])
    log_mass = log_masses.logsumexp(0)
    shares = (log_masses - log_mass).exp()
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    target = torch.stack([part.target for part in parts]).sum(0)
    log_probability = -negative_log_likelihood(target, log_mass)
    return log_probability, entropy_of(target, log_mass, (log_mass - mean).clamp(min=0), num_classes)
