"""Time of a training step of each small recipe beside ArcFace's, interleaved in one run.

python benchmarks/step.py [--steps 30] [--threads 1] [--data synthetic:?identities=200&images=10]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from topoface.recipe.files import load_recipe
from topoface.training.run import build_run
from topoface.training.update import optimizer_step

RECIPES = ("arcface_small", "topofr_small", "topofr_small_paper", "topofr_small_release")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default="synthetic:?identities=200&images=10")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = {}
    for name in RECIPES:
        overrides = [f"data.train={arguments.data}", f"training.steps={arguments.steps + 3}"]
        run = build_run(load_recipe(name, overrides), torch.device("cpu"))
        run.model.train()
        runs[name] = (run, run.loader.batches(0, run.total_steps))
    times: dict[str, list[float]] = {name: [] for name in RECIPES}
    with tempfile.TemporaryDirectory() as folder:
        for step in range(arguments.steps + 3):
            for name, (run, batches) in runs.items():
                start = time.perf_counter()
                optimizer_step(run, batches, Path(folder))
                if step >= 3:  # the first steps fill caches
                    times[name].append(time.perf_counter() - start)
                run.step += 1
    for _, batches in runs.values():
        batches.close()
    print(
        f"{arguments.threads} threads, batch {run.recipe.training.batch_size}, median of {arguments.steps} steps"
    )
    for name, seconds in times.items():
        ratios = [mine / base for mine, base in zip(seconds, times["arcface_small"], strict=True)]
        print(f"{name:22s} {1000 * statistics.median(seconds):7.1f} ms   x {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
