"""From a recipe to a trained, judged and saved model: the training loop."""

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from topoface.errors import UserError
from topoface.evaluation import Verification
from topoface.evaluation.report import ModelEntry
from topoface.functional.collectives import mean_over_ranks, world_size
from topoface.recipe import Recipe
from topoface.recipe_files import dump_recipe
from topoface.training.checkpoint import load_newest, require_same, save_checkpoint, write_text
from topoface.training.distributed import (
    all_ranks_agree,
    average_gradients,
    choose_device,
    is_main,
    process_group,
    wait_for_all,
    without_sync,
)
from topoface.training.judging import Judge, report_is_possible
from topoface.training.logs import JsonLines, MetricSink, ProgressLine, TensorBoard
from topoface.training.optimizer import set_learning_rate
from topoface.training.run import Run, build_run, step_randomness
from topoface.training.schedule import learning_rate
from topoface.training.step import StepOutput, forward_step


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a finished or interrupted run leaves.

    Attributes:
        run_dir: folder of the run.
        steps_done: optimizer steps.
        interrupted: whether CTRL-C ended it early.
        seconds: wall time of training and judging.
        judged: what a report shows of the model; None if interrupted, and on all ranks but the first.
    """

    run_dir: Path
    steps_done: int
    interrupted: bool
    seconds: float
    judged: ModelEntry | None = None

    @property
    def evaluations(self) -> Sequence[Verification]:
        """One for each protocol of the recipe."""
        return self.judged.verifications if self.judged else ()


def train(recipe: Recipe, *, run_dir: Path, resume: bool = False, quiet: bool = False) -> RunResult:
    """Train, judge and save a model.

    Args:
        recipe: see :mod:`topoface.recipe`.
        run_dir: gets recipe.yaml, metrics.jsonl, checkpoints/, model/, evaluation.json, scores/, report.html.
        resume: continue from the newest undamaged checkpoint of ``run_dir``.
        quiet: no progress line.

    Raises:
        UserError: anything that the recipe, the data, the disk or a diverging loss can cause. Whatever was
            saved before stays loadable.
    """
    device = choose_device(recipe.training.device)
    with process_group(device):
        judge = Judge(recipe)  # opens the protocols: a wrong path must not show after hours of training
        run = build_run(recipe, device)
        checkpoint_dir = run_dir / "checkpoints"
        if not resume and any(run_dir.glob("checkpoints/step_*.pt")):
            raise UserError(
                "already holds a run", str(run_dir), "add --resume to continue it, or choose another --run-dir"
            )
        with ProgressLine(run.total_steps, 0, enabled=is_main() and not quiet) as line:
            line.say(_greeting(run))
            if not report_is_possible():
                line.say("there will be no report.html: for it, pip install 'topoface[report]'")
            if resume:
                _restore(run, checkpoint_dir, line)
            if is_main():
                _start_folder(run, run_dir)
            wait_for_all()
            started = time.perf_counter()
            interrupted = _train_steps(run, run_dir, judge, line)
        judged = judge.finish(run, run_dir) if is_main() and not interrupted else None
        wait_for_all()
        return RunResult(
            run_dir=run_dir,
            steps_done=run.step,
            interrupted=interrupted,
            seconds=time.perf_counter() - started,
            judged=judged,
        )


def _train_steps(run: Run, run_dir: Path, judge: Judge, line: ProgressLine) -> bool:
    """Run the remaining steps; returns whether CTRL-C ended them early."""
    config = run.recipe.training
    checkpoint_dir = run_dir / "checkpoints"
    sinks = _open_sinks(run, run_dir) if is_main() else []
    run.model.train()
    micro_batches = run.loader.batches(run.step, run.total_steps)
    window_start, window_images = time.perf_counter(), 0
    try:
        with _ctrl_c() as asked_to_stop:
            while run.step < run.total_steps:
                output, figures = _optimizer_step(run, micro_batches, run_dir)
                run.step += 1
                window_images += config.batch_size
                if run.step % config.log_every == 0 or run.step == run.total_steps:
                    seconds = time.perf_counter() - window_start
                    values = _log_values(run, output, figures, window_images / seconds)
                    window_start, window_images = time.perf_counter(), 0
                    for sink in sinks:
                        sink.write(run.step - 1, values)
                    line.show(run.step, values)
                else:
                    line.show(run.step)
                stop = not all_ranks_agree(torch.tensor(not asked_to_stop.is_set()))
                if stop or run.step % config.checkpoint_every == 0 or run.step == run.total_steps:
                    _save(run, checkpoint_dir)
                if stop:
                    line.say(f"stopped at step {run.step} and saved; continue with the same command and --resume")
                    return True
                if is_main() and judge.is_due(run):
                    for sink in sinks:
                        sink.write(run.step - 1, {"evaluation": judge.interim(run)})
    finally:
        micro_batches.close()
        for sink in sinks:
            sink.close()
    return False


def _optimizer_step(run: Run, micro_batches: Iterator[Any], run_dir: Path) -> tuple[StepOutput, dict[str, float]]:
    """One optimizer step over its micro-batches; the state is untouched unless everything is finite."""
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
    accumulation = config.training.accumulation
    indices: list[Tensor] = []
    with step_randomness(run):
        for micro in range(accumulation):
            batch = next(micro_batches).to(run.device)
            indices.append(batch.indices)
            with without_sync([run.replicated_model, run.replicated_head], when=micro < accumulation - 1):
                output = forward_step(run.replicated_model, run.replicated_head, run.hooks, batch)
                (output.total / accumulation if accumulation > 1 else output.total).backward()
    average_gradients(list(run.methods.parameters()))
    norms = _clip(run)
    terms = torch.stack([term.detach() for term in output.terms.values()])
    finite = terms.isfinite().all() & torch.stack(list(norms.values())).isfinite().all()
    if not all_ranks_agree(finite):
        _stop_diverged(run, output.terms, norms, lr, torch.cat(indices), run_dir)
    run.optimizer.step()
    with torch.no_grad():
        for method in run.hooks.update:
            method.update(output.state)
    return output, {"lr": lr, **{f"norm/{name}": float(value) for name, value in norms.items()}}


def _clip(run: Run) -> dict[str, Tensor]:
    """Clip the gradients as the recipe says; returns the norms before clipping."""
    config = run.recipe.optimizer
    model = [p.grad for p in run.model.parameters() if p.grad is not None]
    head = [p.grad for p in run.head.parameters() if p.grad is not None]
    norms = {"model": nn.utils.get_total_norm(model), "head": nn.utils.get_total_norm(head)}
    if config.clip_norm is not None:
        modules = [run.model, run.head] if config.clip_head else [run.model]
        total = torch.stack(list(norms.values())).norm() if config.clip_head else norms["model"]
        parameters = [p for module in modules for p in module.parameters()]
        nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, total)
    return norms


def _stop_diverged(
    run: Run, terms: Mapping[str, Tensor], norms: Mapping[str, Tensor], lr: float, indices: Tensor, run_dir: Path
) -> None:
    """Stop before the optimizer can spread a NaN; leave what is needed to look into it.

    Raises:
        UserError: always.
    """
    facts = {
        "step": run.step,
        "lr": lr,
        "terms": {name: value.item() for name, value in terms.items()},
        "gradient_norms": {name: value.item() for name, value in norms.items()},
        "indices": indices.tolist(),
    }
    if is_main():
        write_text(run_dir / "divergence.json", json.dumps(facts, indent=1))
    bad = [name for name, value in terms.items() if not value.isfinite()]
    bad += [f"gradient of the {name}" for name, value in norms.items() if not value.isfinite()]
    shown = ", ".join(f"{name} {value.item():.3g}" for name, value in norms.items())
    raise UserError(
        f"{' and '.join(bad) or 'a term on another rank'} is not finite (gradient norms: {shown}; learning rate {lr:.3g})",
        f"step {run.step}",
        f"the last good checkpoint is in {run_dir / 'checkpoints'}, the batch in divergence.json; lower optimizer.lr",
    )


def _log_values(
    run: Run, output: StepOutput, figures: Mapping[str, float], images_per_s: float
) -> dict[str, float]:
    """One line of metrics.jsonl; the only place of the step that reads numbers back from the device."""
    terms = mean_over_ranks(torch.stack([term.detach() for term in output.terms.values()]))
    stats = output.state.stats
    watched = mean_over_ranks(
        torch.stack([stats.target_cosine.mean(), stats.target_probability.mean(), stats.entropy.mean()]).detach()
    )
    values = {"epoch": run.step / run.steps_per_epoch, **figures, "images_per_s": images_per_s}
    values["loss"] = terms.sum().item()
    values |= {f"loss/{name}": term.item() for name, term in zip(output.terms, terms, strict=True)}
    names = ("target_cosine", "target_probability", "entropy_nats")
    values |= {f"class/{name}": value.item() for name, value in zip(names, watched, strict=True)}
    for method in run.methods:
        values |= {f"{type(method).__name__}/{name}": float(v) for name, v in method.log_values().items()}
    return values


def _save(run: Run, checkpoint_dir: Path) -> None:
    if is_main():
        save_checkpoint(checkpoint_dir, run.step, run.state_dict(), keep_last=run.recipe.training.keep_last)
    wait_for_all()


def _restore(run: Run, checkpoint_dir: Path, line: ProgressLine) -> None:
    state = load_newest(checkpoint_dir, line.say)
    if state is None:
        line.say(f"no checkpoint in {checkpoint_dir}: starting at step 0")
        return
    require_same(state["identity"], run.identity(), f"checkpoint of step {state['step']} in {checkpoint_dir}")
    run.load_state_dict(state)
    line.say(f"restored model, head, methods and optimizer of step {run.step}; the order of images continues there")


def _start_folder(run: Run, run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made ({error.strerror})", str(run_dir), "choose another --run-dir") from error
    write_text(run_dir / "recipe.yaml", dump_recipe(run.recipe))


def _open_sinks(run: Run, run_dir: Path) -> list[MetricSink]:
    sinks: list[MetricSink] = [JsonLines(run_dir / "metrics.jsonl", resumed_at=run.step)]
    if run.recipe.training.tensorboard:
        sinks.append(TensorBoard(run_dir / "tensorboard", resumed_at=run.step))
    return sinks


def _greeting(run: Run) -> str:
    parameters = sum(p.numel() for p in run.model.parameters())
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    methods = ", ".join(type(method).__name__ for method in run.methods) or "no method"
    return (
        f"training on {run.device}{processes} with {torch.get_num_threads()} threads, {run.recipe.model.precision}: "
        f"{run.recipe.model.name} ({parameters / 1e6:.2f} M parameters), {type(run.head).__name__}, {methods}; "
        f"{len(run.source):,} images of {run.source.identities:,} identities, {run.total_steps:,} steps"
    )


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """An event that CTRL-C (or SIGTERM) sets; a second CTRL-C interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _frame: object) -> None:
        if asked.is_set():
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
