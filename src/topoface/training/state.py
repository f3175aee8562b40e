"""What a run is saved as, tensors by name and plain facts, and how it goes on from that on any number of processes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from topoface.errors import UserError
from topoface.functional.collectives import rank, world_size
from topoface.functional.placement import held, is_cut, own_classes
from topoface.training.checkpoint import Checkpoint, Facts
from topoface.training.run import Run, versions

_PARTS = ("model", "head", "methods")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A copy of what this process saves: contiguous, on the CPU, sharing no memory with the run.

    Attributes:
        tensors: by name; tables that are cut on every process, the others on the first.
        first_rows: of the tables that are cut, the row where this process's begin.
        facts: see :func:`facts_of`.
    """

    tensors: dict[str, Tensor]
    first_rows: dict[str, int]
    facts: Facts


@torch.no_grad()
def snapshot(run: Run) -> Snapshot:
    """Copy the state of a run, so that it can be written while training goes on."""
    tensors = {name: value for name, value in _state(run).items() if rank() == 0 or is_cut(value)}
    return Snapshot(
        tensors={
            name: held(value).to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        },
        first_rows={name: own_classes(len(value)).start for name, value in tensors.items() if is_cut(value)},
        facts=facts_of(run),
    )


def facts_of(run: Run) -> Facts:
    """Step, recipe and data, versions, number of processes. Random streams are functions of the step, so it is enough for them."""
    return {
        "step": run.step,
        "identity": run.identity(),
        "versions": versions(),
        "processes": world_size(),
    }


def _state(run: Run) -> dict[str, Tensor]:
    """Every tensor of the state by name: ``head.weight``, ``optimizer.head.weight.momentum_buffer``.

    Raises:
        UserError: a module or an optimizer keeps something that is no tensor.
    """
    state: dict[str, Any] = {
        f"{part}.{name}": value for part in _PARTS for name, value in getattr(run, part).state_dict().items()
    }
    for name, parameter in _parameters(run):
        entries = run.optimizer.state.get(parameter, {})
        state |= {f"optimizer.{name}.{key}": value for key, value in entries.items() if value is not None}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"keeps a {type(value).__name__} in its state",
                name,
                "a checkpoint holds tensors: register it as a buffer",
            )
    return state


def _parameters(run: Run) -> Iterator[tuple[str, nn.Parameter]]:
    """What is trained, by the names that the state has for it."""
    for part in _PARTS:
        for name, parameter in getattr(run, part).named_parameters():
            if parameter.requires_grad:
                yield f"{part}.{name}", parameter


def restore(run: Run, checkpoint: Checkpoint, *, accept_changes: bool = False) -> str:
    """Let a fresh run go on from a checkpoint, whatever number of processes wrote it.

    Args:
        run: freshly built.
        checkpoint: opened.
        accept_changes: another recipe or data are taken; what has another shape, or another name, stays fresh.

    Returns:
        One line that says what was restored, what was not, and what has changed.

    Raises:
        UserError: recipe or data differ, or a module of this version keeps other tensors.
    """
    where = f"checkpoint of step {checkpoint.facts['step']} in {checkpoint.path.parent}"
    changes = differences(checkpoint.facts["identity"], run.identity())
    if changes and not accept_changes:
        raise UserError(
            f"was made with {changes[0]}",
            where,
            "resume with the same recipe and data, add --accept-changes to go on with this one, "
            "or train into another --run-dir",
        )
    fresh = _misfits(run, checkpoint)
    if fresh and not accept_changes:
        raise _other_layout(
            ", ".join(f"{name} {why}" for name, why in fresh.items())[:200], where, checkpoint
        )
    try:
        for part in _PARTS:
            module: nn.Module = getattr(run, part)
            state = {k: v for k, v in module.state_dict().items() if f"{part}.{k}" not in fresh}
            for name, tensor in state.items():
                _fill(tensor, checkpoint, f"{part}.{name}")
            module.load_state_dict(
                state, strict=not fresh
            )  # the values are there; for modules that check them
        _restore_optimizer(run, checkpoint, fresh)
    except (LookupError, RuntimeError, ValueError) as error:
        raise _other_layout(" ".join(str(error).split())[:200], where, checkpoint) from error
    run.step = int(checkpoint.facts["step"])
    return _report(checkpoint, fresh, changes)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two trees of plain values, the most telling first: ``data.identities = 6, this run has 7``."""
    before, after = _flat(saved), _flat(now)
    return [
        f"{key} = {before.get(key)!r}, this run has {after.get(key)!r}"
        for key in {**before, **after}  # in the order of the tree
        if before.get(key) != after.get(key)
    ]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping):
        items = ((str(key), value) for key, value in tree.items())
    elif isinstance(tree, list | tuple):
        items = ((str(index), value) for index, value in enumerate(tree))
    else:
        return {prefix: tree}
    return {
        k: v for key, value in items for k, v in _flat(value, f"{prefix}.{key}" if prefix else key).items()
    }


def _misfits(run: Run, checkpoint: Checkpoint) -> dict[str, str]:
    """Names of tensors that only one of both has, or that have another shape, each with what is wrong."""
    now = {name: value.shape for name, value in _state(run).items()}
    saved = {name: shape for name, shape in checkpoint.shapes.items() if not name.startswith("optimizer.")}
    fresh = {
        name: "is not in the checkpoint"
        if name not in saved
        else f"was {_size(saved[name])}, is {_size(now[name])}"
        for name in now
        if saved.get(name) != now[name]
    }
    fresh |= {name: "is in the checkpoint alone" for name in saved if name not in now}
    trained = {name for name, _ in _parameters(run)}
    for name in checkpoint.shapes:
        owner = name.removeprefix("optimizer.").rpartition(".")[0]
        if name.startswith("optimizer.") and owner not in trained and owner not in fresh:
            fresh[name] = "is of no parameter that is trained"
    return fresh


def _size(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a scalar"


def _fill(tensor: Tensor, checkpoint: Checkpoint, name: str) -> None:
    first = own_classes(len(tensor)).start if is_cut(tensor) else 0
    checkpoint.read_into(held(tensor).detach(), name, first)


def _restore_optimizer(run: Run, checkpoint: Checkpoint, fresh: Mapping[str, str]) -> None:
    """Give each parameter its entries, cut as the parameter is and in its layout, so that the next step has the same bits."""
    kept: dict[str, dict[str, str]] = {}  # by parameter: full names by short ones
    for name in checkpoint.shapes:
        owner, _, key = name.rpartition(".")
        kept.setdefault(owner, {})[key] = name
    names = {parameter: name for name, parameter in _parameters(run)}
    state = run.optimizer.state_dict()
    for position, parameter in enumerate(p for group in run.optimizer.param_groups for p in group["params"]):
        if names[parameter] in fresh:
            continue
        entry = {}
        for key, name in kept.get(f"optimizer.{names[parameter]}", {}).items():
            if checkpoint.shapes[name] == parameter.shape:
                entry[key] = torch.empty_like(parameter.detach())
                _fill(entry[key], checkpoint, name)
            else:
                entry[key] = checkpoint.tensor(name)
        if entry:
            state["state"][position] = entry
    run.optimizer.load_state_dict(state)


def _other_layout(what: str, where: str, checkpoint: Checkpoint) -> UserError:
    return UserError(
        f"does not fit this version of topoface ({what})",
        where,
        f"go on with the version that saved it ({checkpoint.facts['versions']['topoface']}), add --accept-changes to leave fresh "
        "what does not fit, or train into another --run-dir",
    )


def _report(checkpoint: Checkpoint, fresh: Mapping[str, str], changes: list[str]) -> str:
    saved, now = checkpoint.facts["processes"], world_size()
    processes = "" if saved == now else f" (saved with world size {saved}, cut anew for {now})"
    listed = [f"{name} ({why})" for name, why in fresh.items()]
    more = [f"and {len(listed) - 6} more"] if len(listed) > 6 else []
    not_restored = ", ".join(listed[:6] + more) or "nothing"
    changed = f"; changed: {'; '.join(changes)}" if changes else ""
    return (
        f"restored step {checkpoint.facts['step']}{processes}: model, head, methods, optimizer; the order of images continues there; "
        f"not restored: {not_restored}{changed}"
    )
