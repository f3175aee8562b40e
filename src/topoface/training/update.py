"""One optimizer step over its micro-batches, and the guard that keeps a NaN out of the weights."""

import json
import traceback
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from topoface.data import Batch
from topoface.errors import UserError
from topoface.files import write_text
from topoface.functional.collectives import gather_rows, mean_over_ranks, world_size
from topoface.functional.placement import is_cut, whole
from topoface.methods.method import StepState
from topoface.training.distributed import average_gradients, is_main, on_any_rank, without_sync
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
        states: what the methods saw of each micro-batch.
    """

    terms: dict[str, Tensor]
    norms: dict[str, Tensor]
    lr: float
    states: list[StepState]

    @property
    def finite(self) -> Tensor:
        """Whether all terms and gradients are; a boolean scalar."""
        return torch.stack([*self.terms.values(), *self.norms.values()]).isfinite().all()


def optimizer_step(run: Run, micro_batches: Iterator[Batch], run_dir: Path | None) -> Update:
    """Take the micro-batches of one step from ``micro_batches`` and move the parameters.

    Raises:
        UserError: a term or a gradient is not finite; parameters and optimizer are untouched then, and
            ``run_dir``, if there is one, gets a divergence.json. Or a thread of the loader died.
    """
    update = gradients_of_step(run, micro_batches)
    if on_any_rank(~update.finite[None])[0]:
        raise _divergence(run, update, run_dir)
    _clip(run, update.norms)
    run.optimizer.step()
    if end_step := getattr(run.head, "end_step", None):
        end_step()
    with torch.no_grad():
        for method in run.hooks.update:
            method.update(update.states)
    return update


def gradients_of_step(run: Run, micro_batches: Iterator[Batch]) -> Update:
    """All of a step but the moves: leaves the gradients in the parameters, not clipped yet."""
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
    if begin_step := getattr(run.head, "begin_step", None):
        begin_step(lr)
    count = config.training.accumulation
    terms: dict[str, Tensor] = {}
    states: list[StepState] = []
    with step_randomness(run):
        for micro in range(count):
            batch = _next(micro_batches, run.step).to(run.device)
            with without_sync([run.replicated_model, run.replicated_head], when=micro < count - 1):
                with getattr(run.head, "held_still", nullcontext)():  # methods may ask for gradients
                    output = forward_step(run.replicated_model, run.replicated_head, run.hooks, batch)
                # class centers that move in backward must not move by what is not finite, which is found out below
                if (
                    not getattr(run.head, "fused", False)
                    or not on_any_rank(~output.total.isfinite()[None])[0]
                ):
                    torch.autograd.backward(output.total / count if count > 1 else output.total)
            for name, term in output.terms.items():
                terms[name] = terms.get(name, 0.0) + term.detach() / count
            states.append(output.state)
    bare_head = [] if run.replicated_head is not run.head else run.head.parameters()
    average_gradients([*run.methods.parameters(), *bare_head])
    return Update(terms=terms, norms=_norms(run), lr=lr, states=states)


def _next(micro_batches: Iterator[Batch], step: int) -> Batch:
    """The next batch; what killed a thread of the loader is said in one line, with the place it came from."""
    try:
        return next(micro_batches)
    except (UserError, OSError):  # these name their file
        raise
    except BaseException as error:
        if not isinstance(error, Exception | SystemExit):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"a thread of the loader died of {type(error).__name__}: {error} ({place.filename}:{place.lineno})",
            f"step {step}",
            "mend what it stumbled over and continue with the same command and --resume",
        ) from error


def _modules(run: Run) -> dict[str, nn.Module]:
    return {"model": run.model, "head": run.head, "methods": run.methods}


def _norms(run: Run) -> dict[str, Tensor]:
    """Norms of the gradients, by module."""
    gradients = {
        name: [p.grad for p in module.parameters() if p.grad is not None]
        for name, module in _modules(run).items()
    }
    norms = {name: _norm(some) for name, some in gradients.items() if some}
    own_norm = getattr(run.head, "own_gradient_norm", lambda: None)()
    if own_norm is not None:
        norms["head"] = own_norm
    return norms


def _clip(run: Run, norms: dict[str, Tensor]) -> None:
    """Clip the gradients as the recipe says."""
    config = run.recipe.optimizer
    if config.clip_norm is None:
        return
    clipped = [name for name in ("model", "head") if name in norms and (name == "model" or config.clip_head)]
    total = torch.stack([norms[name] for name in clipped]).norm()
    for name in clipped:
        for some in _kinds(_modules(run)[name].parameters()):
            nn.utils.clip_grads_with_norm_(some, config.clip_norm, total)


def _norm(gradients: list[Tensor]) -> Tensor:
    """Of all of them together, over the ranks where they are of tables that are cut."""
    norms: list[Tensor] = [whole(nn.utils.get_total_norm(some)) for some in _kinds(gradients)]
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()


def _kinds(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Those that are cut over the ranks apart from the others: torch's functions of lists take no mixture."""
    tensors = list(tensors)
    kinds = [[t for t in tensors if is_cut(t) == cut] for cut in (False, True)]
    return [some for some in kinds if some]


def _divergence(run: Run, update: Update, run_dir: Path | None) -> UserError:
    """The error that stops the run, alike on all ranks, which come here together; what is needed to look into it goes to divergence.json."""
    means = mean_over_ranks(torch.stack(list(update.terms.values())))
    indices = torch.cat([gather_rows(state.batch.indices) for state in update.states])
    figures = {
        **dict(zip(update.terms, means, strict=True)),
        **{f"gradient of the {name}": norm for name, norm in update.norms.items()},
    }
    values = {name: value.item() for name, value in figures.items()}
    if run_dir is not None and is_main():
        facts = {
            "step": run.step,
            "processes": world_size(),
            "lr": update.lr,
            "values": values,
            "indices": indices.tolist(),
        }
        write_text(run_dir / "divergence.json", json.dumps(facts, indent=1))
    bad = [name for name, value in figures.items() if not value.isfinite()]
    norms = ", ".join(f"{name} {value.item():.3g}" for name, value in update.norms.items())
    remedy = (
        f"look at this step instead: --step {run.step}"
        if run_dir is None
        else f"the checkpoints before it are intact and the batch is in divergence.json; look with 'topoface replay {run_dir}', "
        "or go on with a lower optimizer.lr, --resume and --accept-changes"
    )
    return UserError(
        f"not finite: {', '.join(bad)} (gradient norms: {norms}; learning rate {update.lr:.3g})",
        f"step {run.step}",
        remedy,
    )
