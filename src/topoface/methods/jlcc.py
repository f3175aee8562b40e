"""JLCC (arXiv 2312.04029), reconstructed from its abstract, the only part that could be read: no code was released.

Joint label classification and supervised contrastive clustering: a memory holds the cluster center of each identity;
samples get a margin by how hard they sit in their cluster, embeddings are contrasted with the centers, and
class centers are pulled to them. Each part has its switch. docs/methods/jlcc.md says what the abstract
says and how we read it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from topoface.data.batch import Batch
from topoface.errors import UserError, require
from topoface.functional.center_losses import (
    alignment_loss,
    center_level,
    contrast_loss,
    first_of_each,
    level_statistics,
    log_mass,
    normalised_level,
    posterior_level,
    sampled_log_mass,
    silhouette_level,
    zscore_level,
)
from topoface.functional.center_memory import (
    CenterMemory,
    Nearest,
    blend_into,
    center_cosines,
    nearest_centers,
    own_and_rest,
    running,
    update_memory,
)
from topoface.functional.collectives import gather_rows, mean_over_ranks
from topoface.functional.directions import unit_rows
from topoface.functional.draws import generator
from topoface.methods.jlcc_settings import PRESETS, Aligning, ClusterMargin, Contrast
from topoface.methods.method import Method, RunFacts, StepState

BATCH_MEMORY = 0.95  # of mean and deviation of the hard levels, per step
CLASS_MEMORY = 0.8  # of what is averaged by identity, per visit
SAMPLE_MEMORY = 0.7  # of a training image's score, per visit


@dataclass(frozen=True, kw_only=True)
class _View:
    """What the memory said of one micro-batch, ``[n]`` each, detached."""

    nearest: Nearest
    level: Tensor
    shift: Tensor


class JLCC(Method):
    """JLCC as we read its abstract, with its switches. All weights 0 and ``watch`` off: plain training, nothing is kept.

    Args:
        facts: of the run.
        margin: cluster-guided margin; off with ``delta = 0``.
        contrast: supervised contrastive clustering; off with a weight of 0.
        align: cluster aligning; off with a weight of 0.
        beta: share of a cluster center that a visit leaves; before, it is the plain mean.
        start_epochs: the memory fills and all parts rest.
        ramp_epochs: the parts then rise linearly over these epochs.
        watch: keep centers and scores of suspicious images even with all parts off.

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
    ) -> None:
        super().__init__(facts)
        require(0 <= beta < 1, "beta", beta, "give a share in [0, 1), usually 0.9")
        require(
            start_epochs >= 1,
            "start_epochs",
            start_epochs,
            "give 1 or more: a center needs a look at each image",
        )
        require(ramp_epochs >= 0, "ramp_epochs", ramp_epochs, "give 0 or more")
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
        self.beta, self.start_epochs, self.ramp_epochs = beta, start_epochs, ramp_epochs
        self.active = watch or margin.delta > 0 or contrast.weight > 0 or align.weight > 0
        classes, images = facts.num_classes, facts.num_images
        # the memory: see CenterMemory
        self.directions: Tensor
        self.lengths: Tensor
        self.psi: Tensor
        self.visits: Tensor
        self.last_step: Tensor
        self.register_buffer("directions", torch.zeros(classes, facts.embedding_dim))
        for name in ("lengths", "psi"):
            self.register_buffer(name, torch.zeros(classes))
        for name in ("visits", "last_step"):
            self.register_buffer(name, torch.zeros(classes, dtype=torch.int64))
        # mean and deviation of the levels; by identity the level, a and a^2; by image the silhouette level. NaN: none yet
        self.level_statistics: Tensor
        self.class_level: Tensor
        self.class_own: Tensor
        self.class_own_square: Tensor
        self.scores: Tensor
        self.register_buffer("level_statistics", torch.full((2,), torch.nan))
        for name in ("class_level", "class_own", "class_own_square"):
            self.register_buffer(name, torch.full((classes,), torch.nan))
        self.register_buffer("scores", torch.full((images,), torch.nan))
        # nearest center of each image at its last visit; -1: not visited
        self.assigned: Tensor
        self.register_buffer("assigned", torch.full((images,), -1, dtype=torch.int32))
        self._views: dict[int, _View] = {}  # of the micro-batches of this step, by their first row
        self._cosines: tuple[Tensor, Tensor] | None = None
        self._figures: Tensor | None = None
        self._step = 0
        self._class_centers: Tensor | None = None

    @property
    def memory(self) -> CenterMemory:
        """The cluster centers; its tensors are this module's buffers."""
        return CenterMemory(
            directions=self.directions,
            lengths=self.lengths,
            psi=self.psi,
            visits=self.visits,
            last_step=self.last_step,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "JLCC":
        """Move to a device, but never below float32: in bfloat16 a running mean stops short of where it should go."""

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            short = moved.is_floating_point() and moved.dtype.itemsize < 4
            return tensor.to(moved.device) if short else moved

        super()._apply(kept, recurse)  # type: ignore[no-untyped-call]
        return self

    def _ramp(self, step: int) -> float:
        """Share of every weight at a step, in [0, 1]."""
        late = step / self.facts.steps_per_epoch - self.start_epochs
        if self.ramp_epochs == 0:
            return float(late >= 0)
        return min(1.0, max(0.0, late / self.ramp_epochs))

    # --- before the head -------------------------------------------------------------------------------

    def margin_shift(self, embeddings: Tensor, batch: Batch) -> Tensor | None:
        """Shift of each margin by the hard level, ``[n]``; None before the ramp, so that the head runs as without."""
        if not self.active:
            return None
        ramp = self._ramp(batch.draws.step)
        contrasted = ramp > 0 and self.contrast.weight > 0 and self.contrast.scope == "all"
        with torch.autocast(embeddings.device.type, enabled=False):
            with torch.set_grad_enabled(contrasted and torch.is_grad_enabled()):
                cosines = center_cosines(self._rows(embeddings), self.memory)
                self._cosines = own_and_rest(cosines, batch.labels)
            with torch.no_grad():
                view = self._look(batch.labels, ramp)
        self._views[batch.draws.start] = view
        return view.shift.to(embeddings.dtype) if ramp > 0 and self.margin.delta > 0 else None

    def _rows(self, embeddings: Tensor) -> Tensor:
        return unit_rows(embeddings.to(self.directions.dtype))

    def _look(self, labels: Tensor, ramp: float) -> _View:
        """Hard levels and shifts by the memory as it is before this step."""
        assert self._cosines is not None
        own, rest = self._cosines
        nearest = nearest_centers(own, rest)
        if self.margin.hard == "silhouette":
            level = silhouette_level(nearest.own, nearest.other)
        elif self.margin.hard == "center":
            level = center_level(nearest.own)
        elif self.margin.hard == "zscore":
            level = zscore_level(nearest.own, self.class_own[labels], self.class_own_square[labels])
        else:
            tau = self.contrast.temperature
            level = posterior_level(nearest.own, log_mass(rest, tau), tau)
        relative = torch.zeros_like(level)
        if self.margin.level != "class":
            relative = relative + normalised_level(level, self.level_statistics)
        if self.margin.level != "sample":
            relative = relative + normalised_level(
                self.class_level[labels], level_statistics(self.class_level)
            )
        if self.margin.level == "both":
            relative = relative / 2
        sign = -1.0 if self.margin.direction == "easy" else 1.0
        return _View(nearest=nearest, level=level, shift=self.margin.delta * ramp * sign * relative)

    # --- after the head --------------------------------------------------------------------------------

    def penalties(self, state: StepState) -> Mapping[str, Tensor]:
        """Contrast and aligning, outside autocast in float32; nothing before the ramp."""
        if not self.active:
            return {}
        cosines, self._cosines = self._cosines, None
        if self.align.weight > 0 and state.class_centers is None:
            raise UserError(
                "there are no learned class centers to align",
                "align.weight",
                "set it to 0, or choose a head that has a center for each class",
            )
        self._class_centers = None if state.class_centers is None else state.class_centers.detach()
        ramp = self._ramp(state.step)
        terms: dict[str, Tensor] = {}
        if ramp > 0:
            with torch.autocast(state.embeddings.device.type, enabled=False):
                if self.contrast.weight > 0:
                    assert cosines is not None
                    terms["contrast"] = ramp * self.contrast.weight * self._contrast(state, *cosines)
                if self.align.weight > 0:
                    terms["align"] = ramp * self.align.weight * self._align(state)
        return terms

    def _contrast(self, state: StepState, own: Tensor, rest: Tensor) -> Tensor:
        labels, tau = state.batch.labels, self.contrast.temperature
        if self.contrast.scope == "all":
            mass = log_mass(rest, tau)
        else:
            rows = self._rows(state.embeddings)
            own = torch.where(self.visits[labels] > 0, (rows * self.directions[labels]).sum(1), own)
            draws = state.batch.draws
            keys = generator(draws.seed, "jlcc_centers", draws.step).random(self.facts.num_classes)
            mass = sampled_log_mass(
                rows,
                labels,
                self.memory,
                torch.from_numpy(keys).to(rows.device),
                gather_rows(labels),
                count=max(1, round(self.contrast.share * self.facts.num_classes)),
                temperature=tau,
            )
        # over the ranks the mean of the losses must be the mean over the samples of all of them
        count = mean_over_ranks((self.visits[labels] > 0).sum().to(own.dtype))
        return contrast_loss(own, mass, tau, count=count)

    def _align(self, state: StepState) -> Tensor:
        """Over the identities of the global batch: every rank computes the same."""
        assert state.class_centers is not None
        labels = gather_rows(state.batch.labels)
        weights = self._rows(state.class_centers[labels])
        once = first_of_each(labels)
        if self.align.form == "cosine":
            return alignment_loss(weights, self.directions[labels], once & (self.visits[labels] > 0))
        own, rest = own_and_rest(center_cosines(weights, self.memory), labels)
        tau = self.align.temperature
        return contrast_loss(own, log_mass(rest, tau), tau, chosen=once)

    # --- after the optimizer ---------------------------------------------------------------------------

    def update(self, states: Sequence[StepState]) -> None:
        """Move the memory and the running figures by the global batch of the step, in its global order."""
        if not self.active:
            return
        parts = [self._gathered(state) for state in states]
        rows, figures, whole = (torch.cat(column) for column in zip(*parts, strict=True))
        own, other, level, _ = figures.unbind(1)
        labels, indices, nearest = whole.unbind(1)
        step = states[-1].step

        silhouette = silhouette_level(own, other)
        statistics = level_statistics(level)
        self.level_statistics.copy_(running(self.level_statistics, statistics, BATCH_MEMORY))
        blend_into(self.class_level, level, labels, kept=CLASS_MEMORY)
        blend_into(self.class_own, own, labels, kept=CLASS_MEMORY)
        blend_into(self.class_own_square, own**2, labels, kept=CLASS_MEMORY)
        blend_into(self.scores, silhouette, indices, kept=SAMPLE_MEMORY)
        # an image that comes twice in a step has one answer on every device
        closest = torch.where(own >= other, labels, nearest).to(self.assigned.dtype)
        self.assigned.scatter_reduce_(0, indices, closest, "amax", include_self=False)
        update_memory(self.memory, rows, labels, beta=self.beta, step=step)
        self._figures, self._step = figures, step

    def _gathered(self, state: StepState) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings ``[n, D]``, figures ``[n, 4]`` and integers ``[n, 3]`` of one micro-batch of all ranks."""
        view = self._views[state.batch.draws.start]
        nearest = view.nearest
        return (
            gather_rows(self._rows(state.embeddings.detach())),
            gather_rows(torch.stack([nearest.own, nearest.other, view.level, view.shift], 1)),
            gather_rows(torch.stack([state.batch.labels, state.batch.indices, nearest.index], 1)),
        )

    # --- log -------------------------------------------------------------------------------------------

    def log_values(self) -> Mapping[str, Tensor | float]:
        """Means over the samples of the last step whose identity was seen before (0 if there was none)."""
        if self._figures is None:
            return {}
        own, other, level, shift = self._figures.unbind(1)
        known = ~own.isnan()
        values: dict[str, Tensor | float] = {
            "ramp": self._ramp(self._step),
            "seen_share": (self.visits > 0).to(own.dtype).mean(),
            "own_mean": own.nanmean().nan_to_num(0.0),
            "other_mean": other.where(known, torch.nan).nanmean().nan_to_num(0.0),
            "other_nearer_share": ((other >= own) & known).sum() / known.sum().clamp(min=1),
            "level_mean": level.nanmean().nan_to_num(0.0),
            "margin_shift_mean": shift.mean(),
        }
        if self._class_centers is not None:
            cosines = (self._rows(self._class_centers) * self.directions).sum(1)
            values["class_center_cosine"] = cosines.where(self.visits > 0, torch.nan).nanmean()
        return values
