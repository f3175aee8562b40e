"""The statistics of a softmax whose classes lie on several processes: what each computes, and how it is joined.

With the class centers in shards nobody holds a whole row of logits, but three numbers a row and shard are enough for loss,
target probability and entropy of the whole softmax.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ShardPart:
    """What one shard knows of each row, ``[n]`` each.

    Attributes:
        log_mass: log-sum-exp of the logits of the shard's classes but the row's own; -inf where there are none.
        entropy: nats, of these classes among themselves; 0 where there are none.
        own: logit of the row's own class, 0 where it lies on another shard.
    """

    log_mass: Tensor
    entropy: Tensor
    own: Tensor

    def stacked(self) -> Tensor:
        """``[n, 3]``, to be sent to the other processes."""
        return torch.stack([self.log_mass, self.entropy, self.own], 1)


def shard_part(logits: Tensor, labels: Tensor, first_class: int, *, differentiable: bool = True) -> ShardPart:
    """One shard's part of the statistics, connected to the graph of the logits also where a shard is empty.

    Args:
        logits: ``[n, c]`` of classes ``first_class .. first_class + c - 1``; c may be 0.
        labels: int64 ``[n]``, over all classes.
        first_class: of the shard.
        differentiable: whether the entropy keeps its graph.
    """
    own, rest = own_and_rest(logits, labels, first_class)
    if logits.shape[1] == 0:
        return ShardPart(log_mass=own - torch.inf, entropy=own, own=own)
    top = rest.detach().amax(1).clamp(min=torch.finfo(logits.dtype).min)  # a shard of just the own class
    total = (rest - top[:, None]).exp().sum(1)
    filled = total > 0
    mass = total.where(filled, 1).log() + top
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        # measured from the log-mass: the logits themselves, times their weights, would cancel
        weights = (rest - mass[:, None]).exp()
        entropy = (weights * (mass[:, None] - logits)).sum(1).where(filled, 0)
    return ShardPart(log_mass=torch.where(filled, mass, -torch.inf), entropy=entropy, own=own)


def own_and_rest(logits: Tensor, labels: Tensor, first_class: int) -> tuple[Tensor, Tensor]:
    """Each row's own logit ``[n]``, 0 where its class lies on another shard, and all ``[n, c]`` with the own one at -inf."""
    if logits.shape[1] == 0:
        return logits.sum(1), logits
    local = labels - first_class
    here = (local >= 0) & (local < logits.shape[1])
    slot = local.clamp(0, logits.shape[1] - 1)[:, None]
    there = logits.gather(1, slot)
    rest = logits.scatter(1, slot, torch.where(here[:, None], -torch.inf, there))
    return there[:, 0].where(here, 0), rest


def join_shards(parts: Sequence[ShardPart]) -> ShardPart:
    """The part of all classes, from those of the shards in any order."""
    log_masses = torch.stack([part.log_mass for part in parts])
    log_mass = log_masses.logsumexp(0)
    shares = (log_masses - log_mass).exp()
    # entropy among the shards and within each; an empty shard has the share 0, and its log-mass is not to be multiplied
    distance = (log_mass - log_masses).where(shares > 0, 0)
    entropy = (shares * (distance + torch.stack([part.entropy for part in parts]))).sum(0)
    return ShardPart(log_mass=log_mass, entropy=entropy, own=torch.stack([part.own for part in parts]).sum(0))
