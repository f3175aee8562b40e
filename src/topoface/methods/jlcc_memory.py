"""What JLCC keeps from step to step: cluster centers, running figures by identity, and scores by image.

Over several processes the tables by identity are cut by class (``functional/placement.py``); those by image are small and on each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from topoface.functional.center_losses import level_statistics, silhouette_level
from topoface.functional.center_memory import CenterMemory, blend_into, running, update_memory
from topoface.functional.clustering import agreement
from topoface.functional.placement import cut, held, own_classes, values_of, whole
from topoface.methods.method import Method, RunFacts

BATCH_MEMORY = 0.95  # of mean and deviation of the hard levels, per step
CLASS_MEMORY = 0.8  # of what is averaged by identity, per visit
SAMPLE_MEMORY = 0.7  # of a training image's score, per visit
MOST_KEPT_OUT = 0.5  # share of an identity's samples above which the guard leaves it alone
AGES = (0.5, 0.9, 0.99)  # quantiles of the centers' ages in the log


@dataclass(frozen=True, kw_only=True)
class View:
    """One micro-batch of all ranks, and what the memory said of it; ``[n]`` each but for ``rows`` ``[n, D]``, detached.

    Attributes:
        rows: unit embeddings.
        labels: int64.
        indices: int64, of the images in the source.
        own: a, NaN where the identity is unseen.
        other: b, -1 if there is no other center.
        nearest: int64, whose center that is; -1 if there is none.
        level: hard level, NaN where undefined.
        shift: of the margin.
    """

    rows: Tensor
    labels: Tensor
    indices: Tensor
    own: Tensor
    other: Tensor
    nearest: Tensor
    level: Tensor
    shift: Tensor


class ClusterMemory(Method):
    """A method with a memory of clusters, saved with the checkpoint and float32 whatever the backbone runs in.

    Args:
        facts: of the run.
        beta: share of a cluster center that a visit leaves.
        guards: whether it may keep samples out of their center.
        regroups: whether it works out how its clusters agree with the labels.
    """

    def __init__(self, facts: RunFacts, *, beta: float, guards: bool, regroups: bool) -> None:
        super().__init__(facts)
        self.beta = beta
        self.classes = own_classes(facts.num_classes)
        self.kept_out: Tensor | None = None
        # the memory: see CenterMemory
        self.directions: Tensor
        self.lengths: Tensor
        self.psi: Tensor
        self.visits: Tensor
        self.last_step: Tensor
        self.register_buffer("directions", cut(torch.zeros(facts.num_classes, facts.embedding_dim)))
        for name in ("lengths", "psi"):
            self.register_buffer(name, cut(torch.zeros(facts.num_classes)))
        for name in ("visits", "last_step"):
            self.register_buffer(name, cut(torch.zeros(facts.num_classes, dtype=torch.int64)))
        # mean and deviation of the levels; by identity the level, a, a^2 and how often another center is nearer; by image
        # the silhouette level. NaN: none yet
        self.level_statistics: Tensor
        self.class_level: Tensor
        self.class_own: Tensor
        self.class_own_square: Tensor
        self.class_nearer: Tensor
        self.scores: Tensor
        self.register_buffer("level_statistics", torch.full((2,), torch.nan))
        for name in ("class_level", "class_own", "class_own_square", *(["class_nearer"] if guards else [])):
            self.register_buffer(name, cut(torch.full((facts.num_classes,), torch.nan)))
        self.register_buffer("scores", torch.full((facts.num_images,), torch.nan))
        # nearest center of each image at its last visit; -1: not visited
        self.assigned: Tensor
        self.register_buffer("assigned", torch.full((facts.num_images,), -1, dtype=torch.int32))
        # of each image the label, once visited, and the level by clusters at the end of the last epoch
        self.label_of: Tensor
        self.bcubed_level: Tensor
        self.regroups = regroups
        if regroups:
            self.register_buffer("label_of", torch.full((facts.num_images,), -1, dtype=torch.int32))
            self.register_buffer("bcubed_level", torch.full((facts.num_images,), torch.nan))

    @property
    def memory(self) -> CenterMemory:
        """The cluster centers that lie on this process; its tensors are this module's buffers."""
        return self.memory_since(0)

    def memory_since(self, oldest: int) -> CenterMemory:
        """The same, without negatives whose last update came before that step."""
        return CenterMemory(
            directions=held(self.directions),
            lengths=held(self.lengths),
            psi=held(self.psi),
            visits=held(self.visits),
            last_step=held(self.last_step),
            first_class=self.classes.start,
            oldest=oldest,
        )

    def of_class(self, table: Tensor, labels: Tensor) -> Tensor:
        """Values ``[n]`` of a table by identity; all ranks must ask for the same together."""
        return values_of(table, labels, self.facts.num_classes)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to a device, but never below float32: in bfloat16 a running mean stops short of where it should go."""

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            short = moved.is_floating_point() and moved.dtype.itemsize < 4
            return tensor.to(moved.device) if short else moved

        super()._apply(kept, recurse)  # type: ignore[no-untyped-call]
        return self

    def remember(self, view: View, step: int, *, guarding: bool) -> None:
        """Move centers and running figures by the global batch of a step, in its global order."""
        labels, own, other = view.labels, view.own, view.other
        statistics = level_statistics(view.level)
        self.level_statistics.copy_(running(self.level_statistics, statistics, BATCH_MEMORY))
        moves = self._guarded(view) if guarding else None
        self._blend(self.class_level, view.level, labels)
        self._blend(self.class_own, own, labels)
        self._blend(self.class_own_square, own**2, labels)
        blend_into(self.scores, silhouette_level(own, other), view.indices, kept=SAMPLE_MEMORY)
        # an image that comes twice in a step has one answer on every device
        closest = torch.where(own >= other, labels, view.nearest).to(self.assigned.dtype)
        self.assigned.scatter_reduce_(0, view.indices, closest, "amax", include_self=False)
        if self.regroups:
            self.label_of.scatter_(0, view.indices, labels.to(self.label_of.dtype))
        update_memory(self.memory, view.rows, labels, beta=self.beta, step=step, counted=moves)

    def _blend(self, table: Tensor, values: Tensor, labels: Tensor) -> None:
        blend_into(held(table), values, labels, kept=CLASS_MEMORY, first_class=self.classes.start)

    def _guarded(self, view: View) -> Tensor:
        """Bool ``[n]``: which samples may move their center. Those nearer to another may not, unless that is usual for their identity."""
        nearer = view.other >= view.own
        self.kept_out = nearer & ~(self.of_class(self.class_nearer, view.labels) > MOST_KEPT_OUT)
        known = ~view.own.isnan()
        self._blend(self.class_nearer, nearer.to(view.own.dtype).where(known, torch.nan), view.labels)
        return ~self.kept_out

    def regroup(self) -> None:
        """Work out how the clusters of nearest centers agree with the labels, over all images visited so far."""
        visited = (self.assigned >= 0).nonzero()[:, 0]
        if len(visited):
            clusters, labels = (table[visited].cpu().numpy() for table in (self.assigned, self.label_of))
            levels = torch.from_numpy(1 - agreement(clusters, labels).bcubed_f)
            self.bcubed_level[visited] = levels.to(self.bcubed_level)

    def ages(self, step: int) -> Tensor:
        """Steps since the last update of the seen centers: the quantiles ``AGES``; 0 if none is seen. All ranks must ask together."""
        seen = whole(self.visits) > 0
        ages = (step - whole(self.last_step)).where(seen, 2**62).sort().values
        places = (torch.tensor(AGES, device=ages.device) * (seen.sum() - 1).clamp(min=0)).long()
        chosen: Tensor = ages[places].where(seen.any(), 0).double()
        return chosen
