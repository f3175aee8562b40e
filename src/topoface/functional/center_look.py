"""Where samples lie among cluster centers: cosine to the own one, the nearest other one, and the log-mass of all others.

One pass over blocks of centers, each used while it is in the cache: the cosines ``[n, C]`` never exist as a whole. The centers carry no gradient,
so what the log-mass hands back to a row, the mean of the centers under its softmax, is summed up on the way, as flash
attention (arXiv 2205.14135) does it, and nothing is computed twice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topoface.functional.center_memory import CenterMemory
from topoface.functional.collectives import (
    gather_rows,
    logsumexp_over_ranks,
    sum_over_ranks,
    world_size,
)

ABSENT = -1e9
"""Stands for the cosine of a center that does not take part: its exponential is exactly 0 at every temperature in use,
and unlike -inf it gives no NaN where a row has no center at all."""
_BLOCK = 2**21  # cosines at a time: 8 MiB in float32, less than the cache


@dataclass(frozen=True, kw_only=True)
class Look:
    """Rows among the centers of one range of classes, or of all; ``[n]`` each.

    Attributes:
        own: a, cosine to the own center, with its graph; ``ABSENT`` if unseen, 0 where it lies in another range.
        other: b, detached, largest cosine to another center that takes part; -1 if there is none.
        index: int64, class of that center, the lowest on ties; -1 if there is none.
        log_mass: log-sum-exp of all other centers' cosines over the temperature, with its graph; None if not asked for.
    """

    own: Tensor
    other: Tensor
    index: Tensor
    log_mass: Tensor | None

    @property
    def stated(self) -> Tensor:
        """``own``, detached; NaN where the identity is unseen."""
        return self.own.detach().where(present(self.own), torch.nan)


def present(cosines: Tensor) -> Tensor:
    """Which cosines are of centers that take part, a bool of the same shape."""
    return cosines.detach() > ABSENT / 2


def slots(labels: Tensor, memory: CenterMemory) -> tuple[Tensor, Tensor]:
    """Position ``[n]`` of each row's class in a range, any where it is not there, and whether it is."""
    local = labels - memory.first_class
    here = (local >= 0) & (local < len(memory.visits))
    return local.where(here, 0), here


def taken(table: Tensor, slot: Tensor) -> Tensor:
    """Rows of a range's table at ``slot`` ``[n]``, with their graph; zeros, still with it, where the range is empty."""
    return table[slot] if len(table) else table.sum(0).to(table.dtype).expand(len(slot), *table.shape[1:])


def look(rows: Tensor, labels: Tensor, memory: CenterMemory, temperature: float | None = None) -> Look:
    """Look at one range of classes.

    Args:
        rows: unit rows ``[n, D]``; what comes back has a gradient to them alone.
        labels: int64 ``[n]``, over all classes.
        memory: of the range, which may be empty.
        temperature: of the log-mass, which is computed only with it.
    """
    slot, here = slots(labels, memory)
    centers = memory.directions.to(rows.dtype)
    absent = torch.where(memory.negatives, 0.0, ABSENT).to(rows.dtype)
    wanted = torch.is_grad_enabled() and rows.requires_grad
    own, other, index, log_mass = _Scan.apply(  # type: ignore[no-untyped-call]
        rows, centers, absent, slot, here, temperature, wanted
    )
    there = present(other)
    return Look(
        own=own + _unseen(slot, here, memory).to(own.dtype),
        other=other.where(there, -1).clamp(min=-1),
        index=torch.where(there, index + memory.first_class, -1),
        log_mass=log_mass,
    )


def own_cosines(rows: Tensor, labels: Tensor, memory: CenterMemory) -> Tensor:
    """:attr:`Look.own` alone."""
    slot, here = slots(labels, memory)
    cosines = (rows * taken(memory.directions, slot).to(rows.dtype)).sum(1)
    return cosines.where(here, 0) + _unseen(slot, here, memory).to(rows.dtype)


def _unseen(slot: Tensor, here: Tensor, memory: CenterMemory) -> Tensor:
    """``ABSENT`` for each row whose class is in the range and unseen, 0 for the others."""
    return torch.where(here & ~taken(memory.seen, slot), ABSENT, 0.0)


class _Scan(torch.autograd.Function):
    """Own cosine (0 elsewhere), largest other one (with ``absent`` added), its position, and log-mass or None."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        centers: Tensor,
        absent: Tensor,
        slot: Tensor,
        here: Tensor,
        temperature: float | None,
        wanted: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        n, count = len(rows), len(centers)
        own, total, pull = rows.new_zeros(n), rows.new_zeros(n), torch.zeros_like(rows)
        other, index = rows.new_full((n,), -torch.inf), torch.full_like(slot, -1)
        width = max(256, _BLOCK // max(n, 1))
        block = rows.new_empty(n * min(width, count))
        for start in range(0, count, width):
            part = centers[start : start + width]
            cosines = torch.mm(rows, part.T, out=block[: n * len(part)].view(n, len(part)))
            at = slot - start
            mine = here & (at >= 0) & (at < len(part))
            at = at.where(mine, 0)[:, None]
            own += cosines.gather(1, at)[:, 0].where(mine, 0)
            cosines += absent[start : start + width]
            cosines.scatter_add_(1, at, torch.where(mine, ABSENT, 0.0).to(rows.dtype)[:, None])
            top, place = cosines.max(1)
            index = torch.where(top > other, place + start, index)
            highest = torch.maximum(top, other)
            if temperature is not None:
                kept = ((other - highest) / temperature).exp()
                mass = cosines.sub_(highest[:, None]).mul_(1 / temperature).exp_()
                total = total * kept + mass.sum(1)
                if wanted:
                    pull.mul_(kept[:, None]).addmm_(mass, part)
            other = highest
        ctx.mark_non_differentiable(other, index)
        log_mass = None if temperature is None else other / temperature + total.log()
        if wanted:
            if temperature is not None:
                pull /= (total.where(total > 0, 1) * temperature)[:, None]
            ctx.save_for_backward(centers, slot, here, pull)
        return own, other, index, log_mass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        centers, slot, here, pull = ctx.saved_tensors
        by_own, _, _, by_mass = gradients
        result = taken(centers, slot) * by_own.where(here, 0)[:, None]
        if by_mass is not None:
            result = result + pull * by_mass[:, None]
        return (result, *[None] * 6)


# --- over the ranks --------------------------------------------------------------------------------------------------


def look_over_ranks(part: Look) -> Look:
    """The look at all classes, from this rank's look at its own; every rank brings the same rows and gets the same."""
    if world_size() == 1:
        return part
    other, index = nearest_of(gather_rows(part.other[None]), gather_rows(part.index[None]))
    return Look(
        own=sum_over_ranks(part.own),
        other=other,
        index=index,
        log_mass=None if part.log_mass is None else logsumexp_over_ranks(part.log_mass),
    )


def nearest_of(others: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine and its class, the lowest on ties, ``[n]`` each, from those ``[m, n]`` of m ranges in any order."""
    other = others.amax(0)
    last = torch.iinfo(indices.dtype).max
    index = indices.where((others == other) & (indices >= 0), last).amin(0)
    return other, index.where(index < last, -1)
