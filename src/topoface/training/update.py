"""One optimizer step over its micro-batches, and the guard that keeps a NaN out of the weights."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from topoface.data import Batch
from topoface.errors import UserError
from topoface.files import write_text
from topoface.functional.collectives import gather_rows, mean_over_ranks
from topoface.functional.placement import is_cut, whole
from topoface.methods.method import StepState
from topoface.training.checkpoint import checkpoints
from topoface.training.distributed import all_ranks_agree, average_gradients, is_main, without_sync
from topoface.training.optimizer import set_learning_rate
from topoface.training.run import Run, step_randomness
from topoface.training.schedule import learning_rate
from topoface.training.step import forward_step


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one optimizer step did.

    Attributes:
        terms: of the loss, detached, mean over the micro-batches of this rank.
        norms: of the gradients before clipping, by module.
        lr: learning rate.
        state: what the methods saw of the last micro-batch.
    """

    terms: dict[str, Tensor]
    norms: dict[str, Tensor]
    lr: float
    state: StepState


def optimizer_step(run: Run, micro_batches: Iterator[Batch], run_dir: Path) -> Update:
    """Take the micro-batches of one step from ``micro_batches`` and move the parameters.

    Raises:
        UserError: a term or a gradient is not finite; parameters and optimizer are untouched then, and
            ``run_dir`` gets a divergence.json.
    """
    config = run.recipe
    lr = learning_rate(
        config.schedule,
        peak=config.optimizer.lr,
        step=run.step,
        total_steps=run.total_steps,
        steps_per_epoch=run.steps_per_epoch,
    )
    set_learning_rate(run.optimizer, lr)
    run.optimizer.zero_grad()
    count = config.training.accumulation
    terms: dict[str, Tensor] = {}
    states: list[StepState] = []
    with step_randomness(run):
        for micro in range(count):
            batch = next(micro_batches).to(run.device)
            with without_sync([run.replicated_model, run.replicated_head], when=micro < count - 1):
                output = forward_step(run.replicated_model, run.replicated_head, run.hooks, batch)
                torch.autograd.backward(output.total / count if count > 1 else output.total)
            for name, term in output.terms.items():
                terms[name] = terms.get(name, 0.0) + term.detach() / count
            states.append(output.state)
    bare_head = [] if run.replicated_head is not run.head else run.head.parameters()
    average_gradients([*run.methods.parameters(), *bare_head])
    update = Update(terms=terms, norms=_clip(run), lr=lr, state=states[-1])
    if not all_ranks_agree(torch.stack([*update.terms.values(), *update.norms.values()]).isfinite().all()):
        raise _divergence(run, update, states, run_dir)
    run.optimizer.step()
    with torch.no_grad():
        for method in run.hooks.update:
            method.update(states)
    return update


def _clip(run: Run) -> dict[str, Tensor]:
    """Clip the gradients as the recipe says; returns their norms before."""
    config = run.recipe.optimizer
    modules: dict[str, nn.Module] = {"model": run.model, "head": run.head, "methods": run.methods}
    gradients = {
        name: [p.grad for p in module.parameters() if p.grad is not None] for name, module in modules.items()
    }
    norms = {name: _norm(some) for name, some in gradients.items() if some}
    if config.clip_norm is not None:
        clipped = [
            name for name in ("model", "head") if name in norms and (name == "model" or config.clip_head)
        ]
        total = torch.stack([norms[name] for name in clipped]).norm()
        for name in clipped:
            for some in _kinds(modules[name].parameters()):
                nn.utils.clip_grads_with_norm_(some, config.clip_norm, total)
    return norms


def _norm(gradients: list[Tensor]) -> Tensor:
    """Of all of them together, over the ranks where they are of tables that are cut."""
    norms: list[Tensor] = [whole(nn.utils.get_total_norm(some)) for some in _kinds(gradients)]
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()


def _kinds(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Those that are cut over the ranks apart from the others: torch's functions of lists take no mixture."""
    tensors = list(tensors)
    kinds = [[t for t in tensors if is_cut(t) == cut] for cut in (False, True)]
    return [some for some in kinds if some]


def _divergence(run: Run, update: Update, states: list[StepState], run_dir: Path) -> UserError:
    """The error that stops the run, alike on all ranks, which come here together; what is needed to look into it goes to divergence.json."""
    means = mean_over_ranks(torch.stack(list(update.terms.values())))
    indices = torch.cat([gather_rows(state.batch.indices) for state in states])
    figures = {
        **dict(zip(update.terms, means, strict=True)),
        **{f"gradient of the {name}": norm for name, norm in update.norms.items()},
    }
    values = {name: value.item() for name, value in figures.items()}
    if is_main():
        facts = {"step": run.step, "lr": update.lr, "values": values, "indices": indices.tolist()}
        write_text(run_dir / "divergence.json", json.dumps(facts, indent=1))
    bad = [name for name, value in figures.items() if not value.isfinite()]
    kept = run_dir / "checkpoints"
    last_good = (
        f"the last good checkpoint is in {kept}" if checkpoints(kept) else "there is no checkpoint yet"
    )
    norms = ", ".join(f"{name} {value.item():.3g}" for name, value in update.norms.items())
    return UserError(
        f"not finite: {', '.join(bad)} (gradient norms: {norms}; learning rate {update.lr:.3g})",
        f"step {run.step}",
        f"{last_good}, the batch is in divergence.json; lower optimizer.lr",
    )
