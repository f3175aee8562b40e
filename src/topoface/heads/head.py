"""What a head is: embeddings and labels in, the statistics of each sample's class prediction out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from topoface.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StatisticsRequest:
    """Which class statistics a method wants; the head computes no others.

    Attributes:
        margin: entropy and target probability of the logits with margin (True) or without (False).
        differentiable: whether entropy and target probability keep their graph.
        log_epsilon: added inside the logarithm of the entropy, as the TopoFR release does (1e-5); 0 is exact.
    """

    margin: bool = True
    differentiable: bool = False
    log_epsilon: float = 0.0

    @staticmethod
    def merge(requests: Sequence["StatisticsRequest"]) -> "StatisticsRequest":
        """The one request that serves all methods; refuses methods that need different statistics."""
        if not requests:
            return StatisticsRequest()
        if len({(request.margin, request.log_epsilon) for request in requests}) > 1:
            raise UserError(
                "two methods want the entropy of different logits",
                "methods",
                "give them the same entropy_from and fit",
            )
        differentiable = any(request.differentiable for request in requests)
        return replace(requests[0], differentiable=differentiable)


@dataclass(frozen=True, kw_only=True)
class ClassStatistics:
    """What every head returns, each ``[n]`` float32 (or float64 for float64 input).

    Attributes:
        loss: negative log-likelihood of the label with margin and extra mass; carries the gradient.
        target_log_probability: of class logits only; detached unless requested otherwise. The log is
            kept because ``1 - p`` is 0 in float32 where ``-expm1(log p)`` is still exact.
        entropy: nats, of class logits only; detached unless requested otherwise.
        target_cosine: before the margin; detached.
        extra_probability: of the extra mass in each row's softmax; detached; None where there was no such mass.
        class_centers: the learned centers, not normalised, carrying the graph: all of them ``[C, D]``, or those ``[c, D]`` of
            ``placement.own_classes(C)`` where a head keeps no more on this process; None where a head has none.
        regulariser: scalar that joins the sum of the loss, not weighted by any method, carrying the graph; or None.
    """

    loss: Tensor
    target_log_probability: Tensor
    entropy: Tensor
    target_cosine: Tensor
    extra_probability: Tensor | None = None
    class_centers: Tensor | None = None
    regulariser: Tensor | None = None

    @property
    def target_probability(self) -> Tensor:
        """``[n]`` in [0, 1]."""
        return self.target_log_probability.exp()


MARGIN_STATISTICS = StatisticsRequest()
"""What a head computes unless a method asks for something else."""


class Head(Protocol):
    """Class supervision. Built as ``Head(embedding_dim, num_classes, seed=..., **init_args)``.

    What methods may want to know of it is optional: ``scale``, ``margin_room`` and ``has_class_centers``, see ``RunFacts``. So are
    ``connect(source)``, called once before training with the source of the faces, and ``prepare(batch)``, which
    runs in the loader as that of a method does.

    A head whose parameters need no gradient may move them itself, as Partial FC does: ``adopt(optimizer, accumulation)`` is told the recipe's settings once,
    ``begin_step(lr)`` comes before the forward passes of an optimizer step, ``own_gradient_norm()`` after backward, and ``end_step()`` after torch's
    optimizer has moved the rest; where a gradient is not finite it does not come. ``fused`` says that it moves them in backward already.
    """

    num_classes: int

    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        shift: Tensor | None = None,
        extra: Tensor | None = None,
        request: StatisticsRequest = MARGIN_STATISTICS,
        extras: Mapping[str, Tensor] | None = None,
    ) -> ClassStatistics:
        """Score embeddings ``[n, D]`` against the classes.

        Args:
            embeddings: float ``[n, D]``, not normalised.
            labels: int64 ``[n]``.
            shift: ``[n]``, added to the margin of each sample, or None.
            extra: log-mass that joins each row's denominator, or None: ``[n]``, complete; or a scalar, this process's
                *share*, which the head joins with those of the other processes.
            request: which statistics the methods want.
            extras: what was prepared in the loader, by name.
        """
        ...
