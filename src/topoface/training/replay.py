"""A step run again, from the checkpoint before it, with every term printed: what to look at after a NaN."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from topoface.errors import UserError
from topoface.functional.collectives import gather_rows, mean_over_ranks, world_size
from topoface.functional.placement import held
from topoface.recipe.files import load_recipe
from topoface.training.checkpoint import newest
from topoface.training.distributed import choose_device, is_main, process_group
from topoface.training.run import Run, build_run
from topoface.training.state import restore
from topoface.training.update import Update, gradients_of_step, optimizer_step

_LISTED = 8


def replay(run_dir: Path, *, step: int | None = None, say: Callable[[str], None] = print) -> None:
    """Run a step of a run again and say what every term, gradient and sample was. Writes nothing.

    Steps are functions of the recipe and their number, so the step comes out as it was: bit for bit on a CPU with as many
    processes as trained, started in the same way; to rounding with another number.

    Args:
        run_dir: of the run.
        step: which one, from 0; the one of divergence.json if not given.
        say: told each line, on the first process.

    Raises:
        UserError: no such run, no step to replay, a damaged divergence.json, or a step before it is not finite either.
    """
    recipe_file, divergence = run_dir / "recipe.yaml", run_dir / "divergence.json"
    if not recipe_file.is_file():
        raise UserError(
            "is no run directory (it has no recipe.yaml)", str(run_dir), "give a folder that train wrote"
        )
    recorded = _recorded(divergence) if divergence.is_file() else {}
    if step is None:
        if not recorded:
            raise UserError("has no divergence.json", str(run_dir), "say which step with --step")
        step = recorded["step"]
    recipe = load_recipe(recipe_file, [])
    device = choose_device(recipe.training.device)
    with process_group(device):
        tell = say if is_main() else lambda _: None
        run = build_run(recipe, device)
        if not 0 <= step < run.total_steps:
            raise UserError(f"is {step}", "--step", f"the run has steps 0 to {run.total_steps - 1}")
        checkpoint = newest(run_dir / "checkpoints", tell, not_after=step)
        if checkpoint is not None:
            restore(run, checkpoint)
        tell(f"step {step} of {run_dir}, from step {run.step} on")
        run.model.train()
        batches = run.loader.batches(run.step, step + 1)
        try:
            while run.step < step:
                optimizer_step(run, batches, run_dir=None)
                run.step += 1
            with _first_bad_output(run) as bad_outputs:
                update = gradients_of_step(run, batches)
        finally:
            batches.close()
        was = recorded if recorded.get("step") == step else {}
        for line in (*_terms(update, was), *_samples(run, update), *_culprits(run, bad_outputs)):
            tell(line)


def _recorded(divergence: Path) -> dict[str, Any]:
    """Step, figures and number of processes of a run that stopped.

    Raises:
        UserError: they cannot be read.
    """
    try:
        found = json.loads(divergence.read_text(encoding="utf-8"))
        return {
            "step": int(found["step"]),
            "processes": int(found["processes"]),
            "values": {name: float(value) for name, value in found["values"].items()},
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"is damaged ({type(error).__name__}: {error})",
            str(divergence),
            "remove it and say which step with --step",
        ) from error


def _terms(update: Update, was: dict[str, Any]) -> Iterator[str]:
    """Every term and gradient norm, beside what was recorded when the run stopped."""
    means = mean_over_ranks(torch.stack(list(update.terms.values())))
    figures = {
        **dict(zip(update.terms, means, strict=True)),
        "loss": means.sum(),
        **{f"gradient of the {name}": norm for name, norm in update.norms.items()},
    }
    width = max(map(len, figures))
    yield f"{'learning rate':{width}}  {update.lr:.9g}"
    for name, value in figures.items():
        mark = "" if value.isfinite() else "  <- not finite"
        then = was["values"].get(name) if was else None
        before = "" if then is None else f"  (when the run stopped: {then:.9g})"
        yield f"{name:{width}}  {value.item():.9g}{before}{mark}"
    if was and bool(update.finite):
        ranks = was["processes"]
        other = f"; it had {ranks} processes, this is {world_size()}" if ranks != world_size() else ""
        yield f"all is finite now: the run stopped at something that does not come back{other}"


def _samples(run: Run, update: Update) -> Iterator[str]:
    """The range of embeddings and losses over the batch, and the samples that are not finite."""
    losses = torch.cat([gather_rows(state.stats.loss.detach()) for state in update.states])
    lengths = torch.cat([gather_rows(state.embeddings.detach().norm(dim=1)) for state in update.states])
    indices = torch.cat([gather_rows(state.batch.indices) for state in update.states])
    yield f"{len(losses)} samples: loss {_range(losses)}, length of the embedding {_range(lengths)}"
    for i in (~(losses.isfinite() & lengths.isfinite())).nonzero().flatten().tolist()[:_LISTED]:
        index = int(indices[i])
        yield (
            f"sample {index} ({run.source.describe(index)}): loss {losses[i].item():.6g}, length {lengths[i].item():.6g}"
        )


def _range(values: Tensor) -> str:
    finite = values[values.isfinite()]
    shown = f"{finite.min().item():.6g} to {finite.max().item():.6g}" if len(finite) else "nowhere finite"
    bad = len(values) - len(finite)
    return f"{shown} ({bad} not finite)" if bad else shown


def _culprits(run: Run, bad_outputs: list[str]) -> Iterator[str]:
    """The first module that put out something not finite, and parameters and gradients that are not."""
    modules = nn.ModuleDict({"model": run.model, "head": run.head, "methods": run.methods})
    named = dict(modules.named_parameters())
    lists = {
        "output not finite": bad_outputs[:1],
        "parameters not finite": [n for n, p in named.items() if not held(p).isfinite().all()],
        "gradients not finite": [
            n for n, p in named.items() if p.grad is not None and not held(p.grad).isfinite().all()
        ],
    }
    for what, names in lists.items():
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            first = "first at " if what.startswith("output") else ""
            yield f"{what}: {first}{', '.join(names[:_LISTED])}{more}"


@contextmanager
def _first_bad_output(run: Run) -> Iterator[list[str]]:
    """Names of the modules of the backbone whose output is not finite, in the order they run."""
    bad: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                bad.append(f"model.{name}" if name else "model")

        return look

    handles = [module.register_forward_hook(watch(name)) for name, module in run.model.named_modules()]
    try:
        yield bad
    finally:
        for handle in handles:
            handle.remove()
