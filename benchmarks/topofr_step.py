"""Time of a training step of the TopoFR recipes beside ArcFace's, interleaved in one run; where the difference goes.

python benchmarks/topofr_step.py [--steps 30] [--threads 1] [--profile] [--data synthetic:?identities=200&images=10]
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from topoface.functional import perturbation
from topoface.methods import topofr
from topoface.methods.method import StepState
from topoface.recipe.files import load_recipe
from topoface.training.run import Run, build_run
from topoface.training.update import optimizer_step

RECIPES = ("arcface_small", "topofr_small", "topofr_small_paper", "topofr_small_release")
WARMUP = 3  # the first steps fill caches


class Clock:
    """Time spent in each step in functions that it is put around, without what other such functions take inside them.

    It is the time of the thread, which other work on the machine disturbs less.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._inner = [0.0]

    def around(self, owner: Any, name: str, part: str | Callable[..., str]) -> None:
        """Replace ``owner.name`` by itself with the clock around it; ``part`` may depend on the arguments."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.thread_time()
            result = function(*args, **kwargs)
            spent = time.thread_time() - start
            inner = self._inner.pop()
            self._inner[-1] += spent
            self.steps[-1][part if isinstance(part, str) else part(*args)] += spent - inner
            return result

        setattr(owner, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default="synthetic:?identities=200&images=10")
    parser.add_argument(
        "--profile", action="store_true", help="of topofr_small beside arcface_small, by part"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = {}
    for name in RECIPES[:2] if arguments.profile else RECIPES:
        overrides = [f"data.train={arguments.data}", f"training.steps={arguments.steps + WARMUP}"]
        runs[name] = build_run(load_recipe(name, overrides), torch.device("cpu"))
    batch = runs["arcface_small"].recipe.training.batch_size
    print(f"{arguments.threads} threads, batch {batch}, medians of {arguments.steps} steps")
    if arguments.profile:
        profile(runs)
    else:
        times = interleaved(runs)
        for name in runs:
            ratios = [
                median(
                    mine / base for mine, base in zip(times[name][i], times["arcface_small"][i], strict=True)
                )
                for i in (0, 1)
            ]
            print(
                f"{name:22s} {1000 * median(times[name][0]):7.1f} ms   x {ratios[0]:.3f}   own thread x {ratios[1]:.3f}"
            )


def interleaved(
    runs: dict[str, Run], clock: Clock | None = None
) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of each step of each run, the runs taking turns: by the wall, and of the training thread alone."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    batches = {name: run.loader.batches(0, run.total_steps) for name, run in runs.items()}
    with tempfile.TemporaryDirectory() as folder:
        for step in range(next(iter(runs.values())).total_steps):
            for name, run in runs.items():
                run.model.train()
                if clock:
                    clock.steps.append(defaultdict(float))
                start, own_start = time.perf_counter(), time.thread_time()
                optimizer_step(run, batches[name], Path(folder))
                if step >= WARMUP:
                    times[name][0].append(time.perf_counter() - start)
                    times[name][1].append(time.thread_time() - own_start)
                run.step += 1
    for iterator in batches.values():
        iterator.close()
    return times


def profile(runs: dict[str, Run]) -> None:
    """Milliseconds of each part of a step of both runs, and the difference."""
    clock = Clock()
    for run in runs.values():
        clock.around(run.model, "forward", "model: images to input")
        clock.around(run.model.backbone, "forward", "model: backbone forward")
        clock.around(run.head, "forward", "head with statistics")
        clock.around(run.optimizer, "step", "optimizer")
    clock.around(torch.autograd, "backward", "backward")
    (method,) = run.methods
    clock.around(method, "perturb", "RSP: draws, conversion to float")
    clock.around(perturbation, "_perturb_rows", lambda name, *_: f"RSP: {name}")
    clock.around(method, "sample_weight", "SDE: rest, log")
    clock.around(topofr, "fit_mixture", "SDE: mixture fit")
    clock.around(topofr, "damage_score", "SDE: score")
    clock.around(method, "penalties", "ISA: rest, log")
    clock.around(topofr, "structure_loss", "ISA: distances, trees, loss")
    clock.around(torch.autograd, "grad", "ISA: backward")
    penalties = method.penalties

    def with_backward(state: StepState) -> Mapping[str, Tensor]:
        terms: Mapping[str, Tensor] = penalties(state)
        torch.autograd.grad(torch.stack(list(terms.values())).sum(), state.embeddings, retain_graph=True)
        return terms

    method.penalties = with_backward
    interleaved(runs, clock)
    steps = clock.steps[len(runs) * WARMUP :]
    plain, ours = (
        {
            part: 1000 * median(step[part] for step in steps[first::2])
            for part in {p for s in steps for p in s}
        }
        for first in (0, 1)
    )
    whole = sum(plain.values())
    print(f"{'ms':34s}{'arcface':>9s}{'topofr':>9s}{'more':>9s}")
    for part in [*sorted(ours), "all"]:
        base, mine = (sum(x.values()) if part == "all" else x[part] for x in (plain, ours))
        print(f"{part:34s}{base:9.2f}{mine:9.2f}{mine - base:+9.2f} = {(mine - base) / whole:+.2%}")
    sample = run.loader.batch(0)
    (prepare,) = run.loader.prepare
    seconds = []
    for _ in range(len(steps) // 2):
        start = time.thread_time()
        prepare(sample)
        seconds.append(time.thread_time() - start)
    print(f"{'loader: image distances and tree':34s}{0:9.2f}{1000 * median(seconds):9.2f}")


if __name__ == "__main__":
    main()
