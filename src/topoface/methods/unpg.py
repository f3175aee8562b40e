"""UNPG (arXiv 2203.11593): negative pairs of the batch join the classifier's negatives in every row's softmax.

All of them together are one virtual class (`topoface.functional.negatives`), so the method costs a product of the batch with
itself. The paper drops pairs outside box-and-whisker fences as noise; the filter is a choice here, because it also
removes the hardest true negatives (docs/methods/unpg.md). Nothing changes when the model is used.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from topoface.data.batch import Batch
from topoface.errors import UserError, require
from topoface.functional.collectives import (
    gather_for_all,
    gather_rows,
    logsumexp_over_ranks,
    sum_over_ranks,
)
from topoface.functional.directions import unit_rows
from topoface.functional.negatives import (
    PairBatch,
    Quartiles,
    Scope,
    Side,
    describe_pairs,
    genuine_quantile,
    pair_log_mass,
    whisker_bounds,
)
from topoface.methods.method import Method, RunFacts, StepState

FENCE_MEMORY = 0.9  # of the running quantile of genuine similarities


class UNPG(Method):
    """In-batch negatives unified with the classifier's.

    Args:
        facts: of the run.
        filter: which pairs are left out as noise: ``whisker`` (paper): outside [Q1 - r IQR, Q3 + r IQR]; ``positive`` (ours): more
            alike than a quantile of genuine pairs, which is what one person under two labels looks like; ``none``.
        whisker: r >= 0; the paper has 1.5 for MS1MV2 and 1.0 for K-FACE.
        quartiles: ``index`` as released, or ``linear``.
        side: of the whisker: ``both`` fences as released, or ``upper`` only.
        quantile: of genuine similarities, for ``positive``.
        scope: ``batch`` (paper): every row sees every pair; ``row``: only its own.
        reference_pairs: act as a batch of so many negative pairs would, whatever the batch; null as published.
        warmup_epochs: no virtual class before.

    Raises:
        UserError: a setting out of its range, or a head without a scale.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"filter": "whisker", "whisker": 1.5},
        "unfiltered": {"filter": "none"},
        "ours": {"filter": "positive"},
    }

    def __init__(
        self,
        facts: RunFacts,
        *,
        filter: Literal["whisker", "positive", "none"] = "whisker",  # noqa: A002
        whisker: float = 1.5,
        quartiles: Quartiles = "index",
        side: Side = "both",
        quantile: float = 0.5,
        scope: Scope = "batch",
        reference_pairs: int | None = None,
        warmup_epochs: float = 0.0,
    ) -> None:
        super().__init__(facts)
        require(0 <= whisker < math.inf, "whisker", whisker, "give 0 or more; filter=none drops nothing")
        require(0 <= quantile <= 1, "quantile", quantile, "give a share in [0, 1]")
        require(
            reference_pairs is None or reference_pairs >= 1,
            "reference_pairs",
            reference_pairs,
            "give 1 or more, or null",
        )
        require(0 <= warmup_epochs < math.inf, "warmup_epochs", warmup_epochs, "give 0 or more")
        if facts.logit_scale is None:
            raise UserError(
                "has no scale that cosines are multiplied with",
                "head.class_path",
                "use a margin head with UNPG",
            )
        self.scale: float = facts.logit_scale
        self.filter, self.whisker, self.quartiles, self.side = filter, whisker, quartiles, side
        self.quantile, self.scope = quantile, scope
        self.reference_pairs, self.warmup_epochs = reference_pairs, warmup_epochs
        # running quantile of genuine similarities; NaN: none seen yet
        self.genuine_fence: Tensor
        self.register_buffer("genuine_fence", torch.tensor(torch.nan, dtype=torch.float64))
        self._logged: dict[str, Tensor] = {}

    def negatives(self, embeddings: Tensor, batch: Batch) -> Tensor | None:
        """This process's share of the virtual logit; ``[n]`` for scope ``row``. Float32 outside autocast."""
        if batch.draws.step < self.warmup_epochs * self.facts.steps_per_epoch:
            return None
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = unit_rows(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)))
            pairs = PairBatch(
                rows=rows,
                columns=gather_for_all(rows),
                row_labels=batch.labels,
                column_labels=gather_rows(batch.labels),
            )
            low, high = self._fences(pairs)
            found = describe_pairs(pairs, low, high)
            logit = pair_log_mass(pairs, low, high, self.scale, self.scope)
            if self.reference_pairs is not None:
                logit = (
                    logit + math.log(self.reference_pairs) - found.count.clamp(min=1).to(logit.dtype).log()
                )
        self._logged |= {
            "fence_low": low,
            "fence_high": high,
            "dropped_below": found.dropped_below,
            "dropped_above": found.dropped_above,
            "hardest": found.hardest,
            "hardest_kept": found.hardest_kept,
            "virtual_logit": logit.detach(),
        }
        return logit

    def _fences(self, pairs: PairBatch) -> tuple[Tensor, Tensor]:
        """Lowest and highest cosine kept."""
        if self.filter == "positive":
            seen = genuine_quantile(pairs, self.quantile).double()
            running = FENCE_MEMORY * self.genuine_fence + (1 - FENCE_MEMORY) * seen
            fence = torch.where(
                self.genuine_fence.isnan(), seen, torch.where(seen.isnan(), self.genuine_fence, running)
            )
            self.genuine_fence.copy_(fence)
            infinite = pairs.rows.new_full((), torch.inf)
            return -infinite, torch.where(fence.isnan(), infinite, fence.to(infinite.dtype))
        whisker = self.whisker if self.filter == "whisker" else None
        return whisker_bounds(pairs, whisker, self.quartiles, self.side)

    def update(self, states: Sequence[StepState]) -> None:
        """Where no genuine pair was seen yet, a sample's squared cosine to its center stands for one."""
        if self.filter == "positive":
            cosines = gather_rows(states[-1].stats.target_cosine).clamp(min=0)
            stand_in = cosines.square().double().quantile(self.quantile)
            self.genuine_fence.copy_(torch.where(self.genuine_fence.isnan(), stand_in, self.genuine_fence))
        probability = states[-1].stats.extra_probability
        if probability is not None:
            self._logged["virtual_probability"] = probability.mean()

    def log_values(self) -> Mapping[str, Tensor]:
        """The virtual class and the filter in the last step; what is not there, as a fence, is left out, and on all ranks alike."""
        values = dict(self._logged)
        logit = values.get("virtual_logit")
        if logit is not None and self.scope == "batch":
            values["virtual_logit"] = logsumexp_over_ranks(logit)
        elif logit is not None:  # mean over the rows that have a pair
            there = logit.isfinite()
            total, number = sum_over_ranks(torch.stack([logit.where(there, 0).sum(), there.sum()])).unbind()
            values["virtual_logit"] = total / number
        return {name: value for name, value in values.items() if bool(value.isfinite())}
