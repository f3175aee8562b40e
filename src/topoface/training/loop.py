"""From a recipe to a trained, judged and saved model: the training loop."""

import errno
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from topoface.errors import UserError, require
from topoface.evaluation import Verification
from topoface.evaluation.report.page import ModelEntry
from topoface.files import write_text
from topoface.functional.collectives import mean_over_ranks, world_size
from topoface.recipe import Recipe
from topoface.recipe.files import dump_recipe
from topoface.training.distributed import (
    TIMEOUT,
    choose_device,
    is_main,
    on_any_rank,
    process_group,
    restarts,
    wait_for_all,
)
from topoface.training.judging import Judge, report_is_possible
from topoface.training.logs import JsonLines, MetricSink, ProgressLine, TensorBoard, read_metrics
from topoface.training.run import Run, build_run
from topoface.training.saving import Saver
from topoface.training.state import restore
from topoface.training.update import Update, optimizer_step
from topoface.training.watch import Watch, lost_processes_are_user_errors

STEP_TIMEOUT_S = 600.0


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


def train(
    recipe: Recipe,
    *,
    run_dir: Path,
    resume: bool = False,
    accept_changes: bool = False,
    quiet: bool = False,
    timeout_s: float = STEP_TIMEOUT_S,
) -> RunResult:
    """Train, judge and save a model.

    Args:
        recipe: see :mod:`topoface.recipe`.
        run_dir: gets recipe.yaml, metrics.jsonl, checkpoints/, model/, evaluation.json, scores/, report.html.
        resume: continue from the newest undamaged checkpoint of ``run_dir``, if there is any; so does a run that torchrun
            started anew after a failure.
        accept_changes: resume with another recipe or other data, too.
        quiet: no progress line.
        timeout_s: with several processes, how long a step may take before the run is ended.

    Raises:
        UserError: anything that the recipe, the data, the disk or a diverging loss can cause. Whatever was
            saved before stays loadable.
    """
    require(0 < timeout_s < math.inf, "--timeout", timeout_s, "give a number of seconds")
    device = choose_device(recipe.training.device)
    resume = resume or restarts() > 0
    patience = max(TIMEOUT, timedelta(seconds=2 * timeout_s))  # the watch is to speak first
    with (
        process_group(device, patience),
        _disk_errors_are_user_errors(run_dir),
        lost_processes_are_user_errors(),
    ):
        judge = Judge(recipe)  # opens the protocols: a wrong path must not show after hours of training
        run = build_run(recipe, device)
        if not resume and any(run_dir.glob("checkpoints/step_*")):
            raise UserError(
                "already holds a run",
                str(run_dir),
                "add --resume to continue it, or choose another --run-dir",
            )
        if is_main():
            _make_folder(run_dir)
        with Watch(timeout_s) as watch:
            with (
                ProgressLine(run.total_steps, shown=is_main() and not quiet, speaks=is_main()) as line,
                Saver(
                    run_dir / "checkpoints", keep_last=recipe.training.keep_last, waiting=watch.excused
                ) as saver,
            ):
                line.say(_greeting(run))
                if not report_is_possible():
                    line.say("there will be no report.html: for it, pip install 'topoface[report]'")
                if resume:
                    _restore(run, saver, line, accept_changes=accept_changes)
                    line.show(run.step)
                if is_main():
                    write_text(run_dir / "recipe.yaml", dump_recipe(recipe))
                wait_for_all()
                started = time.perf_counter()
                interrupted = _train_steps(run, run_dir, judge, line, saver, watch)
            judged = None if interrupted else watch.on_main(lambda: judge.finish(run, run_dir))
        return RunResult(
            run_dir=run_dir,
            steps_done=run.step,
            interrupted=interrupted,
            seconds=time.perf_counter() - started,
            judged=judged,
        )


def _train_steps(
    run: Run, run_dir: Path, judge: Judge, line: ProgressLine, saver: Saver, watch: Watch
) -> bool:
    """Run the remaining steps; returns whether CTRL-C ended them early."""
    config = run.recipe.training
    sinks = _open_sinks(run, run_dir) if is_main() else []

    def judge_now() -> None:
        if not _is_judged(run_dir, run.step):
            figures = judge.interim(run)
            for sink in sinks:
                sink.write(run.step - 1, {"evaluation": figures})

    run.model.train()
    micro_batches = run.loader.batches(run.step, run.total_steps)
    window_start, window_images = time.perf_counter(), 0
    try:
        with _ctrl_c() as asked_to_stop:
            while run.step < run.total_steps:
                # Before a step, not after: a run that was killed between checkpoint and figures catches up.
                if judge.is_due(run):
                    watch.on_main(judge_now)
                    window_start, window_images = time.perf_counter(), 0
                watch.moved(run.step)
                update = optimizer_step(run, micro_batches, run_dir)
                run.step += 1
                window_images += config.batch_size
                if run.step % config.log_every == 0 or run.step == run.total_steps:
                    seconds = time.perf_counter() - window_start
                    values = _log_values(run, update, window_images / seconds)
                    window_start, window_images = time.perf_counter(), 0
                    for sink in sinks:
                        sink.write(run.step - 1, values)
                    line.show(run.step, values)
                else:
                    line.show(run.step)
                flags = torch.tensor([asked_to_stop.is_set(), saver.failed], device=run.device)
                asked, unsaved = on_any_rank(flags)
                if unsaved:
                    saver.wait()  # raises on all of them
                stop = asked and run.step < run.total_steps
                if stop or run.step % config.checkpoint_every == 0 or run.step == run.total_steps:
                    saver.save(run)
                if stop:
                    saver.wait()
                    line.say(f"stopped at step {run.step} and saved")
                    return True
    finally:
        micro_batches.close()
        for sink in sinks:
            sink.close()
    return False


def _is_judged(run_dir: Path, step: int) -> bool:
    """Whether the log holds interim figures of the model after so many steps."""
    lines = read_metrics(run_dir / "metrics.jsonl")
    return any("evaluation" in line and line["step"] == step - 1 for line in lines)


def _log_values(run: Run, update: Update, images_per_s: float) -> dict[str, Any]:
    """One line of metrics.jsonl; the only place of the loop that reads more than a flag back from the device."""
    terms = mean_over_ranks(torch.stack(list(update.terms.values())))
    stats = update.states[-1].stats
    watched = {
        "target_cosine": stats.target_cosine,
        "target_probability": stats.target_probability,
        "entropy_nats": stats.entropy,
    }
    means = mean_over_ranks(torch.stack([value.detach().mean() for value in watched.values()]))
    values: dict[str, Any] = {
        "epoch": run.step / run.steps_per_epoch,
        "lr": update.lr,
        "images_per_s": images_per_s,
    }
    values |= {f"norm/{name}": norm.item() for name, norm in update.norms.items()}
    values["loss"] = terms.sum().item()
    values |= {f"loss/{name}": term.item() for name, term in zip(update.terms, terms, strict=True)}
    values |= {f"class/{name}": mean.item() for name, mean in zip(watched, means, strict=True)}
    for method in run.hooks.logging:
        for name, value in method.log_values().items():
            figure = torch.as_tensor(value, device=run.device)
            key = f"{type(method).__name__}/{name}"
            # lists, of sample numbers for instance, are this rank's
            values[key] = mean_over_ranks(figure.double()).item() if figure.ndim == 0 else figure.tolist()
    return values


def _restore(run: Run, saver: Saver, line: ProgressLine, *, accept_changes: bool) -> None:
    checkpoint = saver.newest(line.say)
    if checkpoint is None:
        line.say(f"no checkpoint in {saver.folder}: starting at step 0")
    else:
        line.say(restore(run, checkpoint, accept_changes=accept_changes))


def _make_folder(run_dir: Path) -> None:
    """Make the folders that a run writes to, before hours are spent."""
    for folder in (run_dir, run_dir / "checkpoints"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or "in the way"
            raise UserError(f"cannot be made ({reason})", str(folder), "choose another --run-dir") from error


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
def _disk_errors_are_user_errors(run_dir: Path) -> Iterator[None]:
    """Metrics, scores and events are written by libraries that know nothing of UserError."""
    try:
        yield
    except ConnectionError:  # of another process of the group
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UserError(
            "the disk is full" if full else f"cannot be used ({error.strerror})",
            str(error.filename or run_dir),
            "make room or check the rights, and continue with the same command and --resume",
        ) from error


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
