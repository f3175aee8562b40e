"""The class logits of a batch as heads read them, whether this process holds all class centers, a range of them, or drew some of these."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from topoface.functional.blocked_softmax import (
    DrawnRows,
    Products,
    Sink,
    class_part,
    released_entropy,
    released_entropy_part,
)
from topoface.functional.collectives import (
    gather_for_all,
    own_rows,
    sum_over_ranks,
    world_size,
)
from topoface.functional.shards import ShardPart, join_shards
from topoface.functional.softmax import entropy_of


class ClassLogits:
    """What a softmax over all class centers knows of this process's rows, before any margin.

    Logits of all classes are never kept. Where the centers are cut over the ranks, the embeddings are gathered, each rank computes three numbers a
    row, and these are gathered back: nothing of the size of the logits or of the centers is ever sent. Every rank must bring the same
    number of rows then.

    Args:
        rows: unit embeddings ``[n, D]`` of this rank.
        centers: class centers ``[c, D]`` that lie here and take part, not normalised, or rows drawn from these; c may be 0.
        own: int64, each row's own class as a position in ``centers``, or -1: of the rows of all ranks where the centers are cut.
        scale: s.
        num_classes: C, over all ranks.
        shared: whether the centers are cut over the ranks.
        differentiable: whether the entropy keeps its graph.
        filter_above: see :func:`topoface.functional.blocked_softmax.class_part`; ``products`` and ``sink`` too.

    Attributes:
        own: ``[n]``, logit of each row's own class.
        rest_log_mass: ``[n]``, log-sum-exp of all others.
    """

    def __init__(
        self,
        rows: Tensor,
        centers: Tensor | DrawnRows,
        own: Tensor,
        scale: float,
        *,
        num_classes: int,
        shared: bool,
        differentiable: bool,
        filter_above: float | None = None,
        products: Products = "float32",
        sink: Sink | None = None,
    ) -> None:
        self.num_classes, self.shared = num_classes, shared
        everywhere = gather_for_all(rows) if shared else rows
        self._released: Callable[[Tensor, float], Tensor] = lambda total, epsilon: released_entropy_part(
            everywhere, centers, own, scale, total, epsilon, filter_above=filter_above
        )
        part = class_part(
            everywhere,
            centers,
            own,
            scale,
            differentiable=differentiable,
            filter_above=filter_above,
            products=products,
            sink=sink,
        )
        if shared:
            parts = gather_for_all(part.stacked()).chunk(world_size())
            joined = join_shards([ShardPart(log_mass=p[:, 0], entropy=p[:, 1], own=p[:, 2]) for p in parts])
            part = ShardPart(**{name: own_rows(column) for name, column in vars(joined).items()})
        self.own, self.rest_log_mass, self.rest_entropy = part.own, part.log_mass, part.entropy

    def entropy(self, target: Tensor, log_epsilon: float) -> Tensor:
        """Entropy ``[n]`` in nats with ``target`` ``[n]`` as the logit of the own class.

        Args:
            target: with margin or without.
            log_epsilon: added inside the logarithm; 0 is exact.
        """
        if not log_epsilon:
            return entropy_of(target, self.rest_log_mass, self.rest_entropy, self.num_classes)
        log_total = torch.logaddexp(target, self.rest_log_mass)
        own = released_entropy((target - log_total).exp(), log_epsilon)
        if not self.shared:
            return own + self._released(log_total, log_epsilon)
        return own + own_rows(sum_over_ranks(self._released(gather_for_all(log_total), log_epsilon)))


class _Connected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, chosen: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(chosen)
        return table.view_as(table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        (chosen,) = ctx.saved_tensors
        return None, None, gradients[0][chosen]


def connected(drawn: DrawnRows) -> Tensor:
    """The whole table ``[C, D]`` that rows were drawn from; its gradient goes to their stand-in, that of other rows nowhere."""
    table: Tensor = _Connected.apply(drawn.table, drawn.chosen, drawn.stand_in)  # type: ignore[no-untyped-call]
    return table
