"""Tables with one row a class that are cut over the ranks: who holds which rows, as torch's own ``DTensor``.

Every rank holds a contiguous range of classes. A ``DTensor`` in a module's state is what lets a checkpoint gather the whole table and
cut it again for another number of ranks. Without a process group all of this is the plain tensor.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from topoface.functional.collectives import rank, sum_over_ranks, world_size


def own_classes(num_classes: int, *, of_rank: int | None = None, ranks: int | None = None) -> range:
    """Classes that a rank holds: as torch cuts a tensor in chunks, so the last ranks may hold fewer, or none.

    Args:
        num_classes: C.
        of_rank: this one if not given.
        ranks: as many as train if not given.
    """
    ranks, of_rank = ranks or world_size(), rank() if of_rank is None else of_rank
    each = -(-num_classes // ranks)
    return range(min(of_rank * each, num_classes), min((of_rank + 1) * each, num_classes))


def cut(table: Tensor) -> Tensor:
    """The part of ``table`` ``[C, ...]`` (alike on all ranks) that this rank holds, known to torch as a part of the whole."""
    if world_size() == 1:
        return table
    classes = own_classes(len(table))
    return part_of(table[classes.start : classes.stop].clone(), len(table))


def part_of(rows: Tensor, num_classes: int) -> Tensor:
    """Rows ``[c, ...]`` of this rank's `own_classes`, known to torch as a part of a table of ``num_classes`` rows."""
    if world_size() == 1:
        return rows
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size((num_classes, *rows.shape[1:]))
    return DTensor.from_local(rows, _mesh(), [Shard(0)], run_check=False, shape=shape, stride=rows.stride())


def is_cut(table: Tensor) -> bool:
    """Whether this is a part of a table whose rest lies on other ranks."""
    return hasattr(table, "placements")


def cut_like(table: Any, like: Any) -> Any:
    """``table`` cut as ``like`` is, if that is cut and of its shape; else itself, whatever it is."""
    return cut(table) if is_cut(like) and like.shape == table.shape else table


def held(table: Tensor) -> Tensor:
    """The rows ``[c, ...]`` of a table that lie on this rank, sharing its memory; gradients flow to the table."""
    if not is_cut(table):
        return table
    from torch.distributed.tensor import Shard

    rows: Tensor = table.to_local(grad_placements=[Shard(0)])  # type: ignore[attr-defined]
    return rows


def values_of(table: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Values ``[n]`` of any classes ``[n]``, detached; all ranks must ask for the same together.

    Args:
        table: cut, of ``num_classes`` numbers in all.
        classes: int64 ``[n]``.
        num_classes: C.
    """
    if world_size() == 1:
        return table.detach()[classes]
    mine, first = held(table).detach(), own_classes(num_classes).start
    here = (classes >= first) & (classes < first + len(mine))
    found = mine[(classes - first).where(here, 0)] if len(mine) else mine.new_zeros(len(classes))
    return sum_over_ranks(found.where(here, 0))


def whole(table: Any) -> Any:
    """All rows of a table that is cut, on every rank; all ranks must call it together. Anything else is itself."""
    return table.full_tensor() if is_cut(table) else table


def _mesh() -> DeviceMesh:
    return init_device_mesh("cuda" if dist.get_backend() == "nccl" else "cpu", (world_size(),))
