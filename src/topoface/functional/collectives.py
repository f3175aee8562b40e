"""The few collective operations that losses need; without a process group they do nothing."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, alike: bool) -> Tensor:
        ctx.count, ctx.alike = rows.shape[0], alike
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        start = rank() * ctx.count
        if ctx.alike:
            # The loss over all rows is computed alike on every rank and the ranks' gradients are averaged
            # afterwards, so each rank hands back its own rows times the number of ranks: no communication.
            return gradients[0][start : start + ctx.count] * world_size(), None
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total[start : start + ctx.count], None


def gather_rows(rows: Tensor) -> Tensor:
    """``[n, ...]`` of every rank, concatenated in rank order; every rank must bring the same n.

    The gradient is right for a loss that every rank computes alike on the gathered rows and whose
    parameter gradients are averaged over the ranks.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, True)  # type: ignore[no-untyped-call]
    return gathered


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        # every rank's loss depends on every rank's values
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum over the ranks, differentiable: the gradients of all ranks' losses come back summed."""
    if world_size() == 1:
        return values
    total: Tensor = _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]
    return total


def own_rows(gathered: Tensor) -> Tensor:
    """This rank's part of what :func:`gather_rows` returned."""
    return gathered.tensor_split(world_size())[rank()]


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a detached tensor over the ranks."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def max_over_ranks(value: Tensor) -> Tensor:
    """Largest value of a detached tensor over the ranks, entry by entry."""
    if world_size() == 1:
        return value
    top = value.detach().clone()
    dist.all_reduce(top, dist.ReduceOp.MAX)
    return top


def gather_for_all(rows: Tensor) -> Tensor:
    """Like :func:`gather_rows`, for losses that differ between the ranks: the gradients of all of them come back summed."""
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, False)  # type: ignore[no-untyped-call]
    return gathered


def logsumexp_over_ranks(share: Tensor) -> Tensor:
    """Log of the sum of exp(share) over the ranks, differentiable; -inf where all shares are."""
    if world_size() == 1:
        return share
    top = max_over_ranks(share)
    empty = top == -torch.inf  # there is nothing to differentiate then, and no NaN to make
    total = sum_over_ranks((share - top.where(~empty, 0)).exp())
    return torch.where(empty, -torch.inf, total.where(~empty, 1).log() + top)


class _ShareGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return gradients[0] / world_size()


def shared_gradient(values: Tensor) -> Tensor:
    """The values of a parameter that only this rank holds, for losses of all ranks.

    Their gradients come back summed; divided by the number of ranks they are what averaging makes of every other parameter's.
    """
    shared: Tensor = _ShareGradient.apply(values)  # type: ignore[no-untyped-call]
    return shared
