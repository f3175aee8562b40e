"""Normalised softmax heads: cosines to class centers, a margin on the own class, cross entropy."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from topoface.data.batch import Batch
from topoface.errors import UserError, require
from topoface.functional import margin as margins
from topoface.functional.blocked_softmax import DrawnRows, Products
from topoface.functional.collectives import gather_rows, logsumexp_over_ranks, shared_gradient
from topoface.functional.directions import unit_rows
from topoface.functional.draws import rows_in_blocks
from topoface.functional.placement import held, is_cut, own_classes, part_of
from topoface.functional.softmax import negative_log_likelihood
from topoface.heads.head import MARGIN_STATISTICS, ClassStatistics, StatisticsRequest
from topoface.heads.logits import ClassLogits, connected
from topoface.heads.own_sgd import OwnSGD, Unsampled
from topoface.recipe import OptimizerConfig

MarginGradient = Literal["exact", "straight"]


class Softmax(nn.Module):
    """Softmax over scaled cosines without a margin (NormFace, arXiv 1704.06369), and the base of the margin heads.

    Logits of all classes are never kept (``functional/blocked_softmax.py``). Where several processes train, each holds a contiguous range of the class
    centers; the figures are those of one process. Everything here is float32 (or float64) outside autocast, whatever the backbone ran in.

    Args:
        embedding_dim: D.
        num_classes: C, read from the training source.
        seed: of the initial class centers, normal with deviation 0.01 as arcface_torch has it.
        scale: s, what cosines are multiplied with.
        margin_gradient: ``exact``: the derivative of the margin; ``straight``: pass the gradient through
            as if there were no margin, which is what arcface_torch's released code does.
        rate: share of the classes that take part in a step (Partial FC, arXiv 2010.05222); those of the batch always do, the others are drawn.
            The statistics are those of the classes that take part; of a batch that comes without draws, as in a diagnosis, those of all.
        unsampled: what becomes of centers that are not drawn: ``caught_up``: when drawn next, the weight decay and momentum of the steps between,
            which makes it dense SGD exactly; ``untouched``: nothing.
        fused: move each block of class centers as soon as its gradient is there, which is never held as a whole; with a rate of 1, SGD and
            no accumulation.
        filter_above: other classes whose cosine is above this leave that row's softmax: for sets in which one person has several labels.
        products: ``bfloat16`` where the hardware is faster with it: logits are off by up to s / 256, gradients by half a percent.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        seed: int = 0,
        scale: float = 64.0,
        margin_gradient: MarginGradient = "exact",
        rate: float = 1.0,
        unsampled: Unsampled = "caught_up",
        fused: bool = False,
        filter_above: float | None = None,
        products: Products = "float32",
    ) -> None:
        super().__init__()
        require(0 < scale < torch.inf, "scale", scale, "give a positive scale")
        require(0 < rate <= 1, "rate", rate, "give a share in (0, 1], 1 for all classes")
        require(
            not fused or rate == 1, "fused", fused, "set it to false, or rate to 1: drawn classes need it not"
        )
        if filter_above is not None:
            require(-1 < filter_above <= 1, "filter_above", filter_above, "give a cosine, or null for none")
        self.num_classes, self.scale, self.margin_gradient = num_classes, scale, margin_gradient
        self.rate, self.fused, self.filter_above, self.products = rate, fused, filter_above, products
        classes = own_classes(num_classes)
        centers = torch.empty(len(classes), embedding_dim)
        for place, drawn in rows_in_blocks(
            classes, lambda g, rows: g.normal(0.0, 0.01, (rows, embedding_dim)), seed, "class_centers"
        ):
            centers[place] = torch.from_numpy(drawn)
        moves_itself = rate < 1 or fused
        self.weight = nn.Parameter(part_of(centers, num_classes), requires_grad=not moves_itself)
        self.sgd = OwnSGD(self.weight, "untouched" if fused else unsampled) if moves_itself else None

    @property
    def has_class_centers(self) -> bool:
        """Whether their gradient can be joined by that of other terms."""
        return not self.fused

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

    # --- class centers that move themselves ------------------------------------------------------------

    def adopt(self, optimizer: OptimizerConfig, accumulation: int) -> None:
        """Take over what the recipe's optimizer would do for class centers that are drawn or fused.

        Raises:
            UserError: a setting that these cannot follow.
        """
        if self.sgd is None:
            return
        self.sgd.adopt(optimizer)
        if self.fused and accumulation > 1:
            raise UserError(
                f"is {accumulation}, and fused class centers move with each batch",
                "training.accumulation",
                "set it to 1, or head.init_args.fused to false",
            )

    def begin_step(self, lr: float) -> None:
        """The forward passes of an optimizer step follow, with this learning rate."""
        if self.sgd is not None:
            self.sgd.begin(lr)

    def held_still(self) -> AbstractContextManager[None]:
        """Inside, ``fused`` centers do not move: for gradients that are asked for before those of the step."""
        return nullcontext() if self.sgd is None else self.sgd.still()

    def end_step(self) -> None:
        """The step is taken: move the centers that were drawn."""
        if self.sgd is not None and not self.fused:
            self.sgd.finish()

    def own_gradient_norm(self) -> Tensor | None:
        """Of the centers that were drawn, over all ranks, before they move; None where torch's optimizer moves them, or backward did."""
        return None if self.sgd is None or self.fused else self.sgd.gradient_norm()

    def prepare(self, batch: Batch) -> Mapping[str, Tensor]:
        """Candidates for the classes that take part, int64 ascending, and the number that each was drawn with; runs in the loader.

        Every class has its number in each step, whichever rank holds it: several processes draw what one would.
        """
        if self.rate == 1:
            return {}
        mine, draws = self._here(), batch.draws
        numbers = np.empty(len(mine))
        for place, drawn in rows_in_blocks(
            mine, lambda g, rows: g.random(rows), draws.seed, "partial_fc", draws.step
        ):
            numbers[place] = drawn
        chosen = np.flatnonzero(numbers < self.rate)
        return {"drawn_classes": torch.from_numpy(chosen), "drawn_numbers": torch.from_numpy(numbers[chosen])}

    def class_centers(self) -> Tensor:
        """Rows ``[c, D]`` that lie here, not normalised, detached; those not drawn lately are caught up first."""
        if self.sgd is not None:
            self.sgd.catch_up_all()
        return held(self.weight).detach()

    def _here(self) -> range:
        """Classes whose centers lie on this rank."""
        return own_classes(self.num_classes) if is_cut(self.weight) else range(self.num_classes)

    def _taking_part(
        self, labels: Tensor, extras: Mapping[str, Tensor] | None
    ) -> tuple[Tensor | DrawnRows, Tensor, Tensor]:
        """Centers ``[m, D]`` of the classes that take part, the place of each row's own one or -1, and the centers for other terms."""
        table = held(self.weight)
        local = labels - self._here().start
        here = (local >= 0) & (local < len(table))
        own = torch.where(here, local, -1)
        if self.rate == 1 or not extras:
            if self.sgd is not None:
                table = table.detach() if self.fused else self.class_centers()
            elif is_cut(self.weight):
                table = shared_gradient(table)
            return table, own, table
        assert self.sgd is not None
        present = torch.unique(labels)
        # as many as `rate` asks for, on average, those of the batch among them
        others = (self.rate * self.num_classes - len(present)) / max(self.num_classes - len(present), 1)
        drawn = extras["drawn_classes"][extras["drawn_numbers"] < others]
        chosen = torch.unique(torch.cat([drawn, local[here]]))
        rows = self.sgd.rows(chosen)
        if is_cut(self.weight):
            rows = replace(rows, stand_in=shared_gradient(rows.stand_in))
        place = torch.searchsorted(chosen, local.where(here, 0))
        return rows, place.where(here, -1), connected(rows)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        shift: Tensor | None = None,
        extra: Tensor | None = None,
        request: StatisticsRequest = MARGIN_STATISTICS,
        extras: Mapping[str, Tensor] | None = None,
    ) -> ClassStatistics:
        """See :class:`topoface.heads.head.Head`."""
        if self.fused and request.differentiable and request.log_epsilon:
            raise UserError(
                "is true, and the released entropy with a gradient needs the class centers to wait",
                "head.init_args.fused",
                "set it to false, or the gradient of that entropy",
            )
        with torch.autocast(embeddings.device.type, enabled=False):
            wide = embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings
            shared = is_cut(self.weight)
            centers, own, whole = self._taking_part(gather_rows(labels) if shared else labels, extras)
            training = self.sgd is not None and torch.is_grad_enabled()
            logits = ClassLogits(
                unit_rows(wide),
                centers,
                own,
                self.scale,
                num_classes=self.num_classes,
                shared=shared,
                differentiable=request.differentiable,
                filter_above=self.filter_above,
                products=self.products,
                sink=self.sgd.move_in_backward if self.sgd and self.fused and training else None,
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
                own_logit = target if request.margin else self.scale * cosine
                log_probability = -negative_log_likelihood(own_logit, rest_log_mass)
                entropy = logits.entropy(own_logit, request.log_epsilon)
        return ClassStatistics(
            loss=loss,
            target_log_probability=log_probability,
            entropy=entropy,
            target_cosine=cosine.detach(),
            extra_probability=None if extra is None else _share_of(extra, target, rest_log_mass),
            class_centers=whole,
            regulariser=regulariser,
        )

    def extra_repr(self) -> str:
        """What print(head) shows."""
        drawn = f", rate={self.rate}" if self.rate < 1 else ""
        return f"classes={self.num_classes}, dim={self.weight.shape[1]}, scale={self.scale}{drawn}"


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
        # cosines span 2: no target can be met beyond
        require(0 <= margin <= 2, "head.init_args.margin", margin, "give a number in [0, 2], usually 0.4")
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
        require(1 <= multiplier < torch.inf, "head.init_args.multiplier", multiplier, "give m1 >= 1")
        require(0 <= angular < torch.pi, "head.init_args.angular", angular, "give m2 in radians, in [0, pi)")
        require(0 <= additive <= 2, "head.init_args.additive", additive, "give m3 in [0, 2]")
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
