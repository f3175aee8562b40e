"""What operations on tensors cost while they run: floating-point operations, bytes read and written, bytes alive.

Works on tensors without storage too (torch's FakeTensorMode), where nothing is computed.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation on tensors: its floating-point operations, bytes read and written, whether it is low precision."""

    flops: float
    bytes: float
    low: bool


@contextmanager
def saved_bytes(left_out: set[int]) -> Iterator[list[int]]:
    """Counts, in a list of one number, the bytes that autograd saves inside; each storage once.

    Args:
        left_out: storages that are not counted, such as those of parameters, from :func:`storage_of`.
    """
    total, held = [0], {}

    def pack(tensor: Tensor) -> Tensor:
        storage, key = tensor.untyped_storage(), storage_of(tensor)
        if key not in left_out and key not in held:
            held[key] = storage  # its number stays its own while it is alive
            total[0] += storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation, and how many bytes of new tensors are alive.

    Args:
        known: storages that are there already, from :func:`storage_of`.

    Attributes:
        operations: in order; views are left out.
        alive: bytes.
        peak: the most that was alive at once.
    """

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.alive = self.peak = 0
        self._seen = set(known)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        count = flop_registry.get(_out_of_place(func.overloadpacket))
        self.operations.append(
            Operation(
                flops=float(count(*args, **(kwargs or {}), out_val=out)) if count else 0.0,
                bytes=float(sum(t.numel() * t.element_size() for t in (*inputs, *outputs))),
                low=any(t.dtype == torch.bfloat16 for t in outputs),
            )
        )
        for tensor in outputs:
            self._follow(tensor)
        return out

    def _follow(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), storage_of(tensor)
        if key not in self._seen:
            self._seen.add(key)
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.alive -= size


def _out_of_place(operation: Any) -> Any:
    """``addmm`` for ``addmm_``: torch counts the former alone."""
    return getattr(torch.ops.aten, operation.__name__.rstrip("_"), operation)


def storage_of(tensor: Tensor) -> int:
    """A number of the memory that a tensor lies in, the same for all views of it."""
    number: int = tensor.untyped_storage()._cdata
    return number
