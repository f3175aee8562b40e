"""Cluster centers: running means of the unit embeddings of each identity, and what they know of identities.

The formulas of JLCC (arXiv 2312.04029) as reconstructed from its abstract, the only part that could be read
(docs/methods/jlcc.md). A memory holds a contiguous range of classes, so that several can serve as the shards of one.
What is undefined (the own identity unseen, a spread of one sample) is NaN and never enters a loss.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from topoface.functional.directions import unit_rows

LARGEST_PSI = 0.75  # of an identity whose cohesion is stated
LEAST_COHESION = 0.05  # of two identities that are compared


@dataclass(frozen=True, kw_only=True)
class CenterMemory:
    """Running means r_k of unit embeddings, for classes ``first_class .. first_class + c - 1``.

    Attributes:
        directions: ``[c, D]``, r_k / |r_k|: the cluster centers; 0 where unseen.
        lengths: ``[c]``, |r_k|.
        psi: ``[c]``, sum of the squared weights inside r_k; 1/psi is its effective number of samples.
        visits: int64 ``[c]``, updates so far; a class is seen from the first on.
        last_step: int64 ``[c]``, step of the last one.
        first_class: where the range begins.
        oldest: centers whose last update came before this step are no negatives.
    """

    directions: Tensor
    lengths: Tensor
    psi: Tensor
    visits: Tensor
    last_step: Tensor
    first_class: int = 0
    oldest: int = 0

    @property
    def means(self) -> Tensor:
        """``[c, D]``, r_k."""
        return self.directions * self.lengths[:, None]

    @property
    def seen(self) -> Tensor:
        """Bool ``[c]``."""
        return self.visits > 0

    @property
    def negatives(self) -> Tensor:
        """Bool ``[c]``: centers that samples of other identities are held against."""
        return self.seen & (self.last_step >= self.oldest)


# --- update ------------------------------------------------------------------------------------------------


def _class_means(values: Tensor, counted: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class, mean over the counted rows of that class, and their number, for each row: ``[n]``, ``[n, d]``, ``[n]``.

    Rows come back sorted by class, and are added in their order inside it: the sum has one order on every device.
    No shape depends on a value, so nothing is read back from the device.
    """
    classes, order = classes.sort(stable=True)
    counted, values = counted[order], values[order]
    group = (classes.diff(prepend=classes[:1]) != 0).cumsum(0)
    sizes = torch.zeros_like(classes).index_add_(0, group, torch.ones_like(classes))
    sums = torch.segment_reduce(values.where(counted[:, None], 0), "sum", lengths=sizes, axis=0)[group]
    counts = torch.zeros_like(classes).index_add_(0, group, counted.to(classes.dtype))[group]
    return classes, sums / counts.clamp(min=1)[:, None], counts


def within(labels: Tensor, first_class: int, count: int, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positions ``[n]`` in the range, and which rows count there.

    The range has a class. A row that does not count takes the class of the first that does, so that it repeats a write of that row.
    """
    local = labels - first_class
    here = (local >= 0) & (local < count)
    if counted is not None:
        here = here & counted
    first = local.gather(0, here.byte().argmax(0, keepdim=True)).clamp(0, count - 1)
    return torch.where(here, local, first), here


def update_memory(
    memory: CenterMemory,
    rows: Tensor,
    labels: Tensor,
    *,
    beta: float,
    step: int,
    counted: Tensor | None = None,
    order: Tensor | None = None,
) -> None:
    """Move the centers of the identities of one *global* batch, in place: once a step and after the losses.

    With n_k rows of mean m_k: r_k <- b r_k + (1 - b) m_k where b = min(beta, v/(v + 1)), so that r_k is the plain mean
    of its first updates; psi_k <- b^2 psi_k + (1 - b)^2 / n_k. Takes the batch mean, not one row after
    the other: that would depend on the order of the rows.

    Args:
        memory: any range of classes; rows of other classes are passed over.
        rows: unit embeddings ``[n, D]``.
        labels: int64 ``[n]``, over all classes.
        beta: share of r_k that a visit leaves, in [0, 1).
        step: stored as that of the last visit.
        counted: bool ``[n]``, rows that move their center; all without it.
        order: int64 ``[n]``, global position of each row; without it rows are taken in the order given. The same
            positions give the same bits however the rows are permuted or the classes cut.
    """
    if not len(memory.visits):
        return
    if order is not None:
        order = order.argsort()
        rows, labels = rows[order], labels[order]
        counted = None if counted is None else counted[order]
    local, here = within(labels, memory.first_class, len(memory.visits), counted)
    local, means, counts = _class_means(rows.to(memory.directions.dtype), here, local)
    touched, visits = counts > 0, memory.visits[local]
    kept = (visits.to(means.dtype) / (visits + 1)).clamp(max=beta)
    old = memory.directions[local] * memory.lengths[local, None]
    moved = kept[:, None] * old + (1 - kept[:, None]) * means
    psi = kept**2 * memory.psi[local] + (1 - kept) ** 2 / counts.clamp(min=1)
    for table, new in (
        (memory.directions, unit_rows(moved)),
        (memory.lengths, torch.linalg.vector_norm(moved, dim=1)),
        (memory.psi, psi),
        (memory.visits, visits + 1),
        (memory.last_step, torch.full_like(visits, step)),
    ):  # rows of one class bring the same value, so their order does not matter
        at = touched.view(-1, *[1] * (new.dim() - 1))
        table.index_copy_(0, local, torch.where(at, new, table[local]))


def blend_into(table: Tensor, values: Tensor, labels: Tensor, *, kept: float, first_class: int = 0) -> None:
    """Running mean by class, in place: table_k <- kept * table_k + (1 - kept) * mean of its values; NaN means none yet.

    Args:
        table: ``[c]``, of classes ``first_class .. first_class + c - 1``.
        values: ``[n]``; NaN are passed over.
        labels: int64 ``[n]``.
        kept: in [0, 1).
        first_class: of the table.
    """
    if not len(table):
        return
    local, here = within(labels, first_class, len(table), ~values.isnan())
    local, means, counts = _class_means(values[:, None].to(table.dtype), here, local)
    new = running(table[local], torch.where(counts > 0, means[:, 0], torch.nan), kept)
    table.index_copy_(0, local, new)


def running(old: Tensor, new: Tensor, kept: float) -> Tensor:
    """``kept * old + (1 - kept) * new``, or the one that is there; NaN means none."""
    blend = kept * old + (1 - kept) * new
    return torch.where(old.isnan(), new, torch.where(new.isnan(), old, blend))


# --- what the memory knows of identities ---------------------------------------------------------------------


def cohesion(memory: CenterMemory) -> Tensor:
    """Estimate ``[c]`` of the mean similarity of two samples of each identity, without forming a pair.

    |r|^2 has the expectation psi + (1 - psi) rho; solving for rho gives an unbiased estimate, which may be negative.
    NaN where unseen and where psi > 0.75: one sample says nothing about spread.
    """
    stated = memory.seen & (memory.psi <= LARGEST_PSI)
    return torch.where(stated, (memory.lengths**2 - memory.psi) / (1 - memory.psi), torch.nan)


def corrected_similarity(memory: CenterMemory, first: Tensor, second: Tensor) -> Tensor:
    """Gamma ``[m]``: cosine of pairs of centers freed of their noise; about 1 if both identities are one person.

    r_k . r_l is an unbiased mean of the cross similarities; gamma divides it by sqrt(rho_k rho_l). NaN where a
    cohesion is undefined or below 0.05.

    Args:
        memory: that holds both.
        first: int64 ``[m]``, positions in the memory.
        second: int64 ``[m]``.
    """
    rho = cohesion(memory)
    one, two = rho[first], rho[second]
    stated = (one >= LEAST_COHESION) & (two >= LEAST_COHESION)
    cosine = (memory.directions[first] * memory.directions[second]).sum(1)
    product = cosine * memory.lengths[first] * memory.lengths[second]
    return torch.where(stated, product / torch.where(stated, one * two, 1).sqrt(), torch.nan)


def leave_one_out(own: Tensor, lengths: Tensor, psi: Tensor) -> Tensor:
    """Cosine ``[n]`` to the own center without the sample's own part in it; NaN where it is the only sample.

    Exact while weights are equal (psi = 1/n) and the embedding is the one inside the center. For absolute
    statements: it shifts the level, hardly the ranking of samples.

    Args:
        own: cosine ``[n]`` to the own center.
        lengths: ``[n]``, of the mean of each row's class.
        psi: ``[n]``, of each row's class.
    """
    along = own * lengths
    remaining = (lengths**2 - 2 * psi * along + psi**2).clamp(min=0).sqrt()
    defined = (psi < 1) & (remaining > 0)
    return torch.where(defined, (along - psi) / remaining.where(defined, 1), torch.nan)
