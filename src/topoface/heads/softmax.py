"""Normalised softmax heads: cosines to class centers, a margin on the own class, cross entropy."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from topoface.errors import UserError
from topoface.functional import margin as margins
from topoface.functional.collectives import logsumexp_over_ranks, shared_gradient
from topoface.functional.directions import unit_rows
from topoface.functional.draws import generator
from topoface.functional.placement import cut, held, is_cut, own_classes
from topoface.functional.softmax import negative_log_likelihood
from topoface.heads.head import MARGIN_STATISTICS, ClassStatistics, StatisticsRequest
from topoface.heads.logits import ClassLogits, DenseLogits, ShardedLogits

MarginGradient = Literal["exact", "straight"]


class Softmax(nn.Module):
    """Softmax over scaled cosines without a margin (NormFace, arXiv 1704.06369), and the base of the margin heads.

    Where several processes train, each holds a contiguous range of the class centers; the figures are those of one process.
    Everything here is float32 (or float64) outside autocast, whatever the backbone ran in.

    Args:
        embedding_dim: D.
        num_classes: C, read from the training source.
        seed: of the initial class centers, normal with deviation 0.01 as arcface_torch has it.
        scale: s, what cosines are multiplied with.
        margin_gradient: ``exact``: the derivative of the margin; ``straight``: pass the gradient through
            as if there were no margin, which is what arcface_torch's released code does.
    """

    has_class_centers = True

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        seed: int = 0,
        scale: float = 64.0,
        margin_gradient: MarginGradient = "exact",
    ) -> None:
        super().__init__()
        if scale <= 0:
            raise UserError(f"is {scale}", "head.init_args.scale", "give a positive scale")
        self.num_classes, self.scale, self.margin_gradient = num_classes, scale, margin_gradient
        centers = generator(seed, "class_centers").normal(0.0, 0.01, (num_classes, embedding_dim))
        weight = torch.from_numpy(centers).float()
        self.weight = nn.Parameter(cut(weight))

    @property
    def margin_room(self) -> float | None:
        """How far the margin may be shifted either way and still be one; None where there is no margin to shift."""
        return None

    def margin(self, cosine: Tensor, shift: Tensor | None) -> Tensor:
        """Target logit ``[n]`` before scale; ``shift`` ``[n]`` is added to the margin of each sample."""
        return cosine if shift is None else margins.cosface(cosine, shift)

    def target_logit(
        self,
        cosine: Tensor,
        shift: Tensor | None,
        embeddings: Tensor,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor | None]:
        """Target logit ``[n]`` before scale and a regulariser or None; for margins that read the ``embeddings`` themselves."""
        return self.margin(cosine, shift), None

    def class_logits(
        self, rows: Tensor, centers: Tensor, labels: Tensor, *, differentiable: bool
    ) -> ClassLogits:
        """Scaled cosines of unit embeddings ``[n, D]`` to all classes, from the unit centers ``[c, D]`` that lie here.

        ``differentiable``: whether their entropy keeps its graph.
        """
        if not is_cut(self.weight):
            return DenseLogits(rows, centers, labels, self.scale)
        return ShardedLogits(
            rows,
            centers,
            labels,
            self.scale,
            first_class=own_classes(self.num_classes).start,
            num_classes=self.num_classes,
            differentiable=differentiable,
        )

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        shift: Tensor | None = None,
        extra: Tensor | None = None,
        request: StatisticsRequest = MARGIN_STATISTICS,
        extras: Mapping[str, Tensor] | None = None,  # noqa: ARG002
    ) -> ClassStatistics:
        """See :class:`topoface.heads.head.Head`."""
        with torch.autocast(embeddings.device.type, enabled=False):
            wide = embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings
            centers = shared_gradient(held(self.weight)) if is_cut(self.weight) else self.weight
            logits = self.class_logits(
                unit_rows(wide),
                unit_rows(centers.to(wide.dtype)),
                labels,
                differentiable=request.differentiable,
            )
            cosine = logits.own / self.scale
            margined, regulariser = self.target_logit(cosine, shift, wide)
            if self.margin_gradient == "straight":
                margined = margins.straight_through(margined, cosine)
            target = self.scale * margined
            rest_log_mass = logits.rest_log_mass
            if extra is not None and extra.dim() == 0:
                extra = logsumexp_over_ranks(extra)
            loss = negative_log_likelihood(target, rest_log_mass, extra)
            with torch.set_grad_enabled(request.differentiable and torch.is_grad_enabled()):
                own = target if request.margin else self.scale * cosine
                log_probability = -negative_log_likelihood(own, rest_log_mass)
                entropy = logits.entropy(own, request.log_epsilon)
        return ClassStatistics(
            loss=loss,
            target_log_probability=log_probability,
            entropy=entropy,
            target_cosine=cosine.detach(),
            extra_probability=None if extra is None else _share_of(extra, target, rest_log_mass),
            class_centers=centers,
            regulariser=regulariser,
        )

    def extra_repr(self) -> str:
        """What print(head) shows."""
        return f"classes={self.num_classes}, dim={self.weight.shape[1]}, scale={self.scale}"


@torch.no_grad()
def _share_of(extra: Tensor, target: Tensor, rest_log_mass: Tensor) -> Tensor:
    """Probability ``[n]`` of the extra mass beside all classes."""
    return torch.sigmoid(extra - torch.logaddexp(target, rest_log_mass))


class ArcFace(Softmax):
    """Additive angular margin (arXiv 1801.07698).

    Args:
        embedding_dim: D.
        num_classes: C.
        margin: m in radians.
        continuation: past theta = pi - m, see :func:`topoface.functional.margin.arcface`.
        softmax: arguments of :class:`Softmax`.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.5,
        continuation: margins.Continuation = "linear",
        **softmax: Any,
    ) -> None:
        super().__init__(embedding_dim, num_classes, **softmax)
        if not 0 <= margin < torch.pi:
            raise UserError(f"is {margin}", "head.init_args.margin", "give radians in [0, pi), usually 0.5")
        self.m, self.continuation = margin, continuation

    @property
    def margin_room(self) -> float | None:
        """Within [0, pi / 2)."""
        return min(self.m, torch.pi / 2 - self.m)

    def margin(self, cosine: Tensor, shift: Tensor | None) -> Tensor:
        """cos(theta + m + shift)."""
        return margins.arcface(cosine, self.m if shift is None else self.m + shift, self.continuation)


class CosFace(Softmax):
    """Additive cosine margin (arXiv 1801.09414).

    Args:
        embedding_dim: D.
        num_classes: C.
        margin: m, subtracted from the cosine.
        softmax: arguments of :class:`Softmax`.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.4,
        **softmax: Any,
    ) -> None:
        super().__init__(embedding_dim, num_classes, **softmax)
        self.m = margin

    @property
    def margin_room(self) -> float | None:
        """Down to 0."""
        return self.m

    def margin(self, cosine: Tensor, shift: Tensor | None) -> Tensor:
        """cos(theta) - m - shift."""
        return margins.cosface(cosine, self.m if shift is None else self.m + shift)


class CombinedMargin(Softmax):
    """cos(m1 theta + m2) - m3 (arXiv 1801.07698, equation 4).

    Args:
        embedding_dim: D.
        num_classes: C.
        multiplier: m1.
        angular: m2 in radians.
        additive: m3.
        continuation: past m1 theta + m2 = pi.
        softmax: arguments of :class:`Softmax`.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        multiplier: float = 1.0,
        angular: float = 0.3,
        additive: float = 0.2,
        continuation: margins.Continuation = "linear",
        **softmax: Any,
    ) -> None:
        super().__init__(embedding_dim, num_classes, **softmax)
        if multiplier < 1:
            raise UserError(f"is {multiplier}", "head.init_args.multiplier", "give m1 >= 1")
        self.multiplier, self.angular, self.additive = multiplier, angular, additive
        self.continuation = continuation

    @property
    def margin_room(self) -> float | None:
        """Within [0, pi / 2)."""
        return min(self.angular, torch.pi / 2 - self.angular)

    def margin(self, cosine: Tensor, shift: Tensor | None) -> Tensor:
        """cos(m1 theta + m2 + shift) - m3."""
        return margins.combined(
            cosine,
            multiplier=self.multiplier,
            angular=self.angular if shift is None else self.angular + shift,
            additive=self.additive,
            continuation=self.continuation,
        )
