"""Several processes under torchrun: the process group, the device of each, and averaged gradients."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from topoface.errors import UserError
from topoface.functional.collectives import max_over_ranks, mean_over_ranks, rank, world_size
from topoface.functional.placement import is_cut
from topoface.training.interface import choose_interface

TIMEOUT = timedelta(minutes=30)
T = TypeVar("T")
Store = Any  # torch's own; its stubs do not name it
_stores: list[Store] = []  # of the process group, if this module made it


def choose_device(name: str) -> torch.device:
    """The device of this process; nothing falls back in silence.

    Raises:
        UserError: a GPU is asked for and there is none, or the name is no device.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"is {name!r}", "training.device", "use auto, cpu, cuda or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"is {name!r} but no GPU is usable here", "training.device", "use training.device=cpu"
        )
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", local_rank)
    return device


@contextmanager
def process_group(device: torch.device, timeout: timedelta = TIMEOUT) -> Iterator[None]:
    """Join the group that torchrun announces (gloo on CPU, nccl on CUDA); do nothing without torchrun.

    Args:
        device: of this process.
        timeout: of every collective operation.
    """
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    choose_interface()
    store, own_rank, ranks = _store_of_this_start(timeout)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=own_rank, world_size=ranks, timeout=timeout)
    _stores.append(store)
    try:
        yield
    finally:
        _stores.clear()
        dist.destroy_process_group()


def _store_of_this_start(timeout: timedelta) -> tuple[Store, int, int]:
    """The store where the processes find each other, with this process's rank and their number.

    torchrun keeps one store over all restarts, and a process started anew could read addresses of the dead there: half of all restarts
    hung (torch 2.13). So each start has names of its own: by the count of restarts, which a change of machines does not move, and by
    how many processes came before.
    """
    store, own_rank, ranks = next(rendezvous("env://", timeout=timeout))
    names = f"topoface/{restarts()}/{ranks}"
    start = (store.add(names, 1) - 1) // ranks
    own = dist.PrefixStore(f"{names}/{start}", store)  # type: ignore[attr-defined]
    return own, own_rank, ranks


def restarts() -> int:
    """How often torchrun has started the processes anew after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def shared_store() -> Store | None:
    """Another connection to the store of the processes, which no other thread waits for; None if there is none."""
    return _stores[-1].clone() if _stores else None


def gather_objects(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """A plain value of every process, in rank order, on each; all must ask together."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=group)
    return values


def leave(code: int = 0) -> NoReturn:
    """End a process of torchrun whose work is done and written, without Python's own shutdown.

    In that, threads that a gloo group leaves behind sometimes abort ("terminate called without an active exception"; seen once in
    about a hundred starts), and torchrun takes a finished run for a failed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def replicate(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with gradients averaged over the ranks during ``backward``; itself if there are none to average.

    A module with tables that are cut over the ranks stays as it is: it sees to the gradients of these itself, and torch's wrapper does
    not know them. Its other parameters are for :func:`average_gradients`.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if world_size() == 1 or not trained or any(is_cut(p) for p in trained):
        return module
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def without_sync(modules: list[nn.Module], *, when: bool) -> AbstractContextManager[None]:
    """While ``when``, ``backward`` adds up gradients locally: for all but the last micro-batch."""
    replicated = [module for module in modules if isinstance(module, DistributedDataParallel)]
    return _nested_no_sync(replicated) if when and replicated else nullcontext()


@contextmanager
def _nested_no_sync(modules: list[DistributedDataParallel]) -> Iterator[None]:
    if not modules:
        yield
        return
    with modules[0].no_sync(), _nested_no_sync(modules[1:]):
        yield


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average the gradients of a few parameters that ``replicate`` did not wrap over the ranks, but for tables that are cut."""
    if world_size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None and not is_cut(parameter):
            parameter.grad.copy_(mean_over_ranks(parameter.grad))


def on_any_rank(flags: Tensor) -> list[bool]:
    """Whether each of a few booleans ``[n]`` is true on some rank."""
    return (max_over_ranks(flags.to(torch.float32)) > 0).tolist()


def wait_for_all() -> None:
    """Barrier; nothing without a process group."""
    if world_size() > 1:
        dist.barrier()
