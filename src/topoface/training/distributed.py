"""Several processes under torchrun: the process group, the device of each, and averaged gradients."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from topoface.errors import UserError
from topoface.functional.collectives import mean_over_ranks, rank, world_size
from topoface.functional.placement import is_cut


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
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that torchrun announces (gloo on CPU, nccl on CUDA); do nothing without torchrun."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


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


def all_ranks_agree(flag: Tensor) -> bool:
    """Whether a boolean scalar is true on every rank."""
    return bool(mean_over_ranks(flag.to(torch.float32)).item() == 1.0)


def wait_for_all() -> None:
    """Barrier; nothing without a process group."""
    if world_size() > 1:
        dist.barrier()
