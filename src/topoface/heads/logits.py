"""The class logits of a batch as heads read them, whether this process holds all class centers or a range of them."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from topoface.functional.collectives import (
    gather_for_all,
    gather_rows,
    own_rows,
    sum_over_ranks,
    world_size,
)
from topoface.functional.shards import ShardPart, join_shards, own_and_rest, shard_part
from topoface.functional.softmax import entropy_of, rest_of, row_entropy


class ClassLogits(Protocol):
    """Scaled cosines of this process's rows to all class centers, before any margin.

    Attributes:
        own: ``[n]``, of each row's own class.
        rest_log_mass: ``[n]``, log-sum-exp of all others.
    """

    own: Tensor
    rest_log_mass: Tensor

    def entropy(self, target: Tensor, log_epsilon: float) -> Tensor:
        """Entropy ``[n]`` in nats with ``target`` ``[n]`` as the logit of the own class.

        Args:
            target: with margin or without.
            log_epsilon: added inside the logarithm; 0 is exact.
        """
        ...


class DenseLogits:
    """All class centers lie here.

    Args:
        rows: unit embeddings ``[n, D]``.
        centers: unit class centers ``[C, D]``.
        labels: int64 ``[n]``.
        scale: s.
    """

    def __init__(self, rows: Tensor, centers: Tensor, labels: Tensor, scale: float) -> None:
        self.labels = labels
        self.logits = scale * linear(rows, centers)
        self.own = self.logits.gather(1, labels[:, None])[:, 0]
        self.rest = rest_of(self.logits, labels)
        self.rest_log_mass = self.rest.logsumexp(1)

    def entropy(self, target: Tensor, log_epsilon: float) -> Tensor:
        """See :class:`ClassLogits`."""
        if log_epsilon:
            full = self.logits.scatter(1, self.labels[:, None], target[:, None]).softmax(1)
            return _released_entropy(full, log_epsilon).sum(1)
        return row_entropy(self.logits, self.rest, self.rest_log_mass, target)


class ShardedLogits:
    """Each rank holds a contiguous range of the class centers and sees the embeddings of all ranks.

    Embeddings are gathered, each rank computes three numbers a row, and these are gathered back: nothing of the size of
    the logits or of the centers is ever sent. Every rank must bring the same number of rows.

    Args:
        rows: unit embeddings ``[n, D]`` of this rank.
        centers: unit class centers ``[c, D]`` of this rank; c may be 0.
        labels: int64 ``[n]`` of this rank.
        scale: s.
        first_class: that the centers are of.
        num_classes: C, over all ranks.
        differentiable: whether the entropy keeps its graph.
    """

    def __init__(
        self,
        rows: Tensor,
        centers: Tensor,
        labels: Tensor,
        scale: float,
        *,
        first_class: int,
        num_classes: int,
        differentiable: bool,
    ) -> None:
        self.first_class, self.num_classes = first_class, num_classes
        self.labels = gather_rows(labels)
        self.logits = scale * linear(gather_for_all(rows), centers)
        part = shard_part(self.logits, self.labels, first_class, differentiable=differentiable)
        parts = gather_for_all(part.stacked()).chunk(world_size())
        joined = join_shards([ShardPart(log_mass=p[:, 0], entropy=p[:, 1], own=p[:, 2]) for p in parts])
        self.own, self.rest_log_mass, self.rest_entropy = (
            own_rows(column) for column in (joined.own, joined.log_mass, joined.entropy)
        )

    def entropy(self, target: Tensor, log_epsilon: float) -> Tensor:
        """See :class:`ClassLogits`."""
        if not log_epsilon:
            return entropy_of(target, self.rest_log_mass, self.rest_entropy, self.num_classes)
        log_total = torch.logaddexp(target, self.rest_log_mass)
        own = _released_entropy((target - log_total).exp(), log_epsilon)
        _, rest = own_and_rest(self.logits, self.labels, self.first_class)
        share = (rest - gather_for_all(log_total)[:, None]).exp()
        others = _released_entropy(share, log_epsilon).sum(1)
        return own + own_rows(sum_over_ranks(others))


def _released_entropy(probability: Tensor, log_epsilon: float) -> Tensor:
    """-p log(p + eps), entry by entry."""
    return -probability * (probability + log_epsilon).log()
