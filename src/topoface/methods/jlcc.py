"""JLCC (arXiv 2312.04029), reconstructed from its abstract, the only part that could be read: no code was released.

Joint label classification and supervised contrastive clustering: a memory holds the cluster center of each identity;
samples get a margin by how hard they sit in their cluster, embeddings are contrasted with the centers, and
class centers are pulled to them. Each part has its switch. docs/methods/jlcc.md says what the abstract
says and how we read it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from topoface.data.batch import Batch
from topoface.errors import UserError, require
from topoface.functional.center_look import Look, look, look_over_ranks, own_cosines, slots, taken
from topoface.functional.center_losses import (
    alignment_loss,
    batch_cosines,
    center_level,
    contrast_loss,
    first_of_each,
    level_statistics,
    normalised_level,
    posterior_level,
    sampled_log_mass,
    silhouette_level,
    zscore_level,
)
from topoface.functional.center_memory import CenterMemory
from topoface.functional.collectives import (
    gather_for_all,
    gather_rows,
    logsumexp_over_ranks,
    own_rows,
    sum_over_ranks,
    world_size,
)
from topoface.functional.directions import unit_rows
from topoface.functional.draws import generator
from topoface.functional.placement import held, whole
from topoface.methods.jlcc_memory import MOST_KEPT_OUT, ClusterMemory, View
from topoface.methods.jlcc_settings import PRESETS, Aligning, ClusterMargin, Contrast
from topoface.methods.method import RunFacts, StepState


class JLCC(ClusterMemory):
    """JLCC as we read its abstract, with its switches. All weights 0 and ``watch`` off: plain training, nothing is kept.

    Over several processes the memory is cut by class, and each looks at the global batch among its own centers.

    Args:
        facts: of the run.
        margin: cluster-guided margin; off with ``delta = 0``.
        contrast: supervised contrastive clustering; off with a weight of 0.
        align: cluster aligning; off with a weight of 0.
        beta: share of a cluster center that a visit leaves; before, it is the plain mean.
        start_epochs: the memory fills and all parts rest.
        ramp_epochs: the parts then rise linearly over these epochs.
        watch: keep centers and scores of suspicious images even with all parts off.
        guard: from the ramp on, samples that are nearer to another center do not move their own. An identity more than half
            of whose samples are is left alone.
        max_age: epochs after its last update from which a center is no negative any more; none if not given.

    Raises:
        UserError: a setting out of its range.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    def __init__(
        self,
        facts: RunFacts,
        *,
        margin: ClusterMargin = ClusterMargin(),
        contrast: Contrast = Contrast(),
        align: Aligning = Aligning(),
        beta: float = 0.9,
        start_epochs: float = 2.0,
        ramp_epochs: float = 2.0,
        watch: bool = False,
        guard: bool = False,
        max_age: float | None = None,
    ) -> None:
        super().__init__(facts, beta=beta, guards=guard, regroups=margin.hard == "bcubed")
        require(0 <= beta < 1, "beta", beta, "give a share in [0, 1), usually 0.9")
        require(
            start_epochs >= 1,
            "start_epochs",
            start_epochs,
            "give 1 or more: a center needs a look at each image",
        )
        require(ramp_epochs >= 0, "ramp_epochs", ramp_epochs, "give 0 or more")
        require(
            max_age is None or max_age >= 1,
            "max_age",
            max_age,
            "give 1 epoch or more: sooner most centers have not come round again",
        )
        room = facts.margin_room
        if margin.delta > 0 and room is None:
            raise UserError(
                "there is no margin to shift", "margin.delta", "set it to 0, or choose a margin head"
            )
        require(
            margin.delta == 0 or margin.delta <= (room or 0) + 1e-9,
            "margin.delta",
            margin.delta,
            f"the head's margin leaves room for {room}: lower delta, or change that margin",
        )
        require(
            align.weight == 0 or facts.has_class_centers,
            "align.weight",
            align.weight,
            "the head has no class centers to align: set it to 0",
        )
        self.margin, self.contrast, self.align = margin, contrast, align
        self.start_epochs, self.ramp_epochs = start_epochs, ramp_epochs
        self.guard, self.max_age = guard, max_age
        self.active = watch or margin.delta > 0 or contrast.weight > 0 or align.weight > 0
        self._views: dict[int, View] = {}  # of the micro-batches of this step, by their first row
        self._sight: tuple[Tensor, Look] | None = None  # unit rows and look of the last one, with their graph
        self._figures: Tensor | None = None
        self._step = 0
        self._class_centers: Tensor | None = None

    def _ramp(self, step: int) -> float:
        """Share of every weight at a step, in [0, 1]."""
        late = step / self.facts.steps_per_epoch - self.start_epochs
        if self.ramp_epochs == 0:
            return float(late >= 0)
        return min(1.0, max(0.0, late / self.ramp_epochs))

    def _memory_at(self, step: int) -> CenterMemory:
        """The cluster centers as that step sees them."""
        if self.max_age is None:
            return self.memory
        return self.memory_since(math.ceil(step - self.max_age * self.facts.steps_per_epoch))

    def _ends_epoch(self, step: int) -> bool:
        return int((step + 1) / self.facts.steps_per_epoch) > int(step / self.facts.steps_per_epoch)

    # --- before the head -------------------------------------------------------------------------------

    def margin_shift(self, embeddings: Tensor, batch: Batch) -> Tensor | None:
        """Shift of each margin by the hard level, ``[n]``; None before the ramp, so that the head runs as without."""
        if not self.active:
            return None
        ramp = self._ramp(batch.draws.step)
        contrasted = ramp > 0 and self.contrast.weight > 0
        against_all = contrasted and self.contrast.scope == "all"
        labels, indices = gather_rows(torch.stack([batch.labels, batch.indices], 1)).T.contiguous()
        with torch.autocast(embeddings.device.type, enabled=False):
            with torch.set_grad_enabled(contrasted and torch.is_grad_enabled()):
                rows = gather_for_all(self._rows(embeddings))
                asked = against_all or self.margin.hard == "posterior"
                found = look_over_ranks(
                    look(
                        rows if against_all else rows.detach(),
                        labels,
                        self._memory_at(batch.draws.step),
                        self.contrast.temperature if asked else None,
                    )
                )
            self._sight = rows, found
            with torch.no_grad():
                view = self._judge(rows, labels, indices, found, ramp)
        self._views[batch.draws.start] = view
        return own_rows(view.shift).to(embeddings.dtype) if ramp > 0 and self.margin.delta > 0 else None

    def _rows(self, embeddings: Tensor) -> Tensor:
        return unit_rows(embeddings.to(self.directions.dtype))

    def _judge(self, rows: Tensor, labels: Tensor, indices: Tensor, found: Look, ramp: float) -> View:
        """Hard levels and shifts by the memory as it is before this step."""
        own, margin = found.stated, self.margin
        if margin.hard == "silhouette":
            level = silhouette_level(own, found.other)
        elif margin.hard == "center":
            level = center_level(own)
        elif margin.hard == "zscore":
            means, squares = (
                self.of_class(table, labels) for table in (self.class_own, self.class_own_square)
            )
            level = zscore_level(own, means, squares)
        elif margin.hard == "bcubed":
            level = self.bcubed_level[indices]
        else:
            assert found.log_mass is not None
            level = posterior_level(own, found.log_mass, self.contrast.temperature)
        relative = torch.zeros_like(level)
        if margin.level != "class":
            relative = relative + normalised_level(level, self.level_statistics)
        if margin.level != "sample":
            of_class = self.of_class(self.class_level, labels)
            relative = relative + normalised_level(
                of_class, level_statistics(held(self.class_level), over_ranks=True)
            )
        if margin.level == "both":
            relative = relative / 2
        sign = -1.0 if margin.direction == "easy" else 1.0
        return View(
            rows=rows.detach(),
            labels=labels,
            indices=indices,
            own=own,
            other=found.other,
            nearest=found.index,
            level=level,
            shift=margin.delta * ramp * sign * relative,
        )

    # --- after the head --------------------------------------------------------------------------------

    def penalties(self, state: StepState) -> Mapping[str, Tensor]:
        """Contrast and aligning, outside autocast in float32; nothing before the ramp.

        Over the ranks the mean of a term is that of the global batch.
        """
        if not self.active:
            return {}
        sight, self._sight = self._sight, None
        if self.align.weight > 0 and state.class_centers is None:
            raise UserError(
                "there are no learned class centers to align",
                "align.weight",
                "set it to 0, or choose a head that has a center for each class",
            )
        self._class_centers = None if state.class_centers is None else state.class_centers.detach()
        ramp, labels = self._ramp(state.step), self._views[state.batch.draws.start].labels
        terms: dict[str, Tensor] = {}
        if ramp > 0:
            with torch.autocast(state.embeddings.device.type, enabled=False):
                if self.contrast.weight > 0:
                    assert sight is not None
                    terms["contrast"] = ramp * self.contrast.weight * self._contrast(state, labels, *sight)
                if self.align.weight > 0 and self.align.form != "copy":
                    terms["align"] = ramp * self.align.weight * self._align(state, labels)
        return terms

    def _contrast(self, state: StepState, labels: Tensor, rows: Tensor, found: Look) -> Tensor:
        """Every rank computes that of the global batch."""
        own, mass, tau = found.own, found.log_mass, self.contrast.temperature
        if self.contrast.scope == "sampled":
            memory, draws = self._memory_at(state.step), state.batch.draws
            own = sum_over_ranks(own_cosines(rows, labels, memory))
            keys = generator(draws.seed, "jlcc_centers", draws.step).random(self.facts.num_classes)
            share = sampled_log_mass(
                rows,
                labels,
                memory,
                torch.from_numpy(keys[self.classes.start : self.classes.stop]).to(rows.device),
                count=max(1, round(self.contrast.share * len(self.classes))),
                temperature=tau,
            )
            mass = logsumexp_over_ranks(share)
        assert mass is not None
        if self.contrast.source == "batch":
            own = batch_cosines(rows, labels, own)
        return contrast_loss(own, mass, tau)

    def _align(self, state: StepState, labels: Tensor) -> Tensor:
        """Over the identities of the global batch; each rank brings those whose centers it holds."""
        assert state.class_centers is not None
        memory, tau = self._memory_at(state.step), self.align.temperature
        (slot, here), once = slots(labels, memory), first_of_each(labels)
        # a head may hold all centers, or those that lie here
        everything = len(state.class_centers) == self.facts.num_classes
        weights = self._rows(taken(state.class_centers, labels if everything else slot))
        if self.align.form == "cosine":
            counted = once & here & taken(memory.seen, slot)
            number = sum_over_ranks(counted.sum())
            return world_size() * alignment_loss(weights, taken(memory.directions, slot), counted, number)
        weights = sum_over_ranks(weights.where(here[:, None], 0))
        found = look_over_ranks(look(weights, labels, memory, tau))
        assert found.log_mass is not None
        return contrast_loss(found.own, found.log_mass, tau, chosen=once)

    # --- after the optimizer ---------------------------------------------------------------------------

    def update(self, states: Sequence[StepState]) -> None:
        """Move the memory and the running figures by the global batch of the step, in its global order."""
        if not self.active:
            return
        step = states[-1].step
        views = [vars(self._views[state.batch.draws.start]) for state in states]
        view = View(**{name: torch.cat([part[name] for part in views]) for name in views[0]})
        self.remember(view, step, guarding=self.guard and self._ramp(step) > 0)
        self._views.clear()
        self._figures, self._step = torch.stack([view.own, view.other, view.level, view.shift], 1), step
        if self._ends_epoch(step):
            if self.regroups:
                self.regroup()
            if self.align.form == "copy" and self.align.weight > 0 and self._ramp(step) > 0:
                self._copy(states[-1].class_centers, self._ramp(step))

    def _copy(self, class_centers: Tensor | None, ramp: float) -> None:
        """Turn class centers a share of the way to their cluster centers; their lengths and their momentum stay."""
        assert class_centers is not None
        centers, share = class_centers.detach(), ramp * self.align.weight
        # a head holds all of them, or just those that lie here
        read = whole if len(centers) == self.facts.num_classes else held
        turned = unit_rows((1 - share) * self._rows(centers) + share * read(self.directions))
        turned *= torch.linalg.vector_norm(centers, dim=1, keepdim=True)
        centers.copy_(torch.where(read(self.visits)[:, None] > 0, turned, centers))

    # --- log -------------------------------------------------------------------------------------------

    def log_values(self) -> Mapping[str, Tensor | float]:
        """Means over the samples of the last step whose identity was seen before (0 if there was none)."""
        if self._figures is None:
            return {}
        own, other, level, shift = self._figures.unbind(1)
        known, seen = ~own.isnan(), held(self.visits) > 0
        values: dict[str, Tensor | float] = {
            "ramp": self._ramp(self._step),
            "seen_share": sum_over_ranks(seen.sum()).to(own.dtype) / self.facts.num_classes,
            "own_mean": own.nanmean().nan_to_num(0.0),
            "other_mean": other.where(known, torch.nan).nanmean().nan_to_num(0.0),
            "other_nearer_share": ((other >= own) & known).sum() / known.sum().clamp(min=1),
            "level_mean": level.nanmean().nan_to_num(0.0),
            "margin_shift_mean": shift.mean(),
            "center_age": self.ages(self._step) / self.facts.steps_per_epoch,
        }
        if self.kept_out is not None:
            unguarded = (held(self.class_nearer) > MOST_KEPT_OUT).sum()
            values["guarded_share"] = self.kept_out.to(own.dtype).mean()
            values["unguarded_identities"] = sum_over_ranks(unguarded)
        if self._class_centers is not None:
            centers = self._class_centers
            if len(centers) == self.facts.num_classes:
                centers = centers[self.classes.start : self.classes.stop]
            cosines = (self._rows(centers) * held(self.directions)).sum(1)
            values["class_center_cosine"] = level_statistics(cosines.where(seen, torch.nan), over_ranks=True)[
                0
            ].nan_to_num(0.0)
        return values
