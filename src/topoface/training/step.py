"""The training step: the one function that everything here exists for, and the hooks methods have in it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.heads.head import ClassStatistics, StatisticsRequest
from topoface.methods.method import Method, StepState, with_hook


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Which methods take part in which place of the step; the others are not called there at all.

    ``methods`` are those that have figures for the log.
    """

    logging: list[Method]
    perturb: list[Method]
    margin_shift: list[Method]
    negatives: list[Method]
    sample_weight: list[Method]
    penalties: list[Method]
    update: list[Method]
    request: StatisticsRequest

    @classmethod
    def of(cls, methods: nn.ModuleList) -> "Hooks":
        """Sort the methods of a recipe, in recipe order, by the hooks they override.

        Raises:
            UserError: two methods of one class: their terms and figures would have one name.
        """
        names = [type(method).__name__ for method in methods]
        if len(set(names)) < len(names):
            raise UserError(
                f"{max(names, key=names.count)} stands there twice", "methods", "give each method once"
            )
        weighing = with_hook(methods, "sample_weight")
        return cls(
            logging=with_hook(methods, "log_values"),
            perturb=with_hook(methods, "perturb"),
            margin_shift=with_hook(methods, "margin_shift"),
            negatives=with_hook(methods, "negatives"),
            sample_weight=weighing,
            penalties=with_hook(methods, "penalties"),
            update=with_hook(methods, "update"),
            request=StatisticsRequest.merge([method.statistics_request() for method in weighing]),
        )


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What the loop needs: the terms whose sum is minimised, and what the methods saw."""

    terms: dict[str, Tensor]
    state: StepState

    @property
    def total(self) -> Tensor:
        """The loss."""
        return torch.stack(list(self.terms.values())).sum() if len(self.terms) > 1 else self.terms["class"]


def forward_step(
    model: Callable[[Tensor], Tensor], head: Callable[..., ClassStatistics], hooks: Hooks, batch: Batch
) -> StepOutput:
    """All terms of the loss of one (micro-)batch, ready for ``backward``."""
    view = batch.images
    for method in hooks.perturb:
        view = method.perturb(view, batch.draws)

    embeddings = model(view)  # [n, D] float32, not normalised: norms carry information

    shift = _combine(torch.add, [m.margin_shift(embeddings, batch) for m in hooks.margin_shift])
    extra = _combine(torch.logaddexp, [m.negatives(embeddings, batch) for m in hooks.negatives])
    stats = head(embeddings, batch.labels, shift, extra, hooks.request, batch.extras)

    weight = _combine(torch.mul, [m.sample_weight(stats) for m in hooks.sample_weight])
    # without a weight the very same instructions as in a plain run: a product with ones changes last bits
    class_loss = (stats.loss if weight is None else weight * stats.loss).mean()

    state = StepState(
        batch=batch, embeddings=embeddings, stats=stats, class_loss=class_loss, step=batch.draws.step
    )
    terms = {"class": class_loss}
    if stats.regulariser is not None:
        terms["regulariser"] = stats.regulariser
    for method in hooks.penalties:
        terms |= {f"{type(method).__name__}/{name}": value for name, value in method.penalties(state).items()}
    return StepOutput(terms=terms, state=state)


def _combine(join: Callable[[Tensor, Tensor], Tensor], parts: list[Tensor | None]) -> Tensor | None:
    """All parts that are there, joined; None if none is."""
    present = [part for part in parts if part is not None]
    return reduce(join, present) if present else None
