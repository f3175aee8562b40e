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


def join_shards(parts: Sequence[ShardPart]) -> ShardPart:
    """The part of all classes, from those of the shards in any order."""
    log_masses = torch.stack([part.log_mass for part in parts])
    empty = (log_masses == -torch.inf).all(
        0
    )  # everywhere; there is nothing to differentiate then, and no NaN to make
    total = log_masses.where(~empty, 0).logsumexp(0)
    shares = (log_masses - total).exp()
    # entropy among the shards and within each; an empty shard has the share 0, and its log-mass is not to be multiplied
    distance = (total - log_masses).where(shares > 0, 0)
    entropy = (shares * (distance + torch.stack([part.entropy for part in parts]))).sum(0)
    return ShardPart(
        log_mass=torch.where(empty, -torch.inf, total),
        entropy=entropy,
        own=torch.stack([part.own for part in parts]).sum(0),
    )
