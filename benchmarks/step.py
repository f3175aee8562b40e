"""Images a second of a whole training step: ArcFace, each method and all of them, where the time goes, and beside arcface_torch.

    python benchmarks/step.py [--steps 20] [--data URI] [--recipes NAME ...]
    python benchmarks/step.py --arcface-torch insightface/recognition/arcface_torch
    python benchmarks/step.py --ranks 2 [--set model.name=mobilefacenet training.batch_size=256]

The steps of all recipes take turns; a ratio is the median over the turns of CPU time beside the first recipe's, the loader's threads included.
With --arcface-torch its head, margin, loss and network are read from that checkout and run in its loop on its own iresnet18 (a batch of 16), beside our
recipe of the same network from the same weights, whose first loss must be the same. With --ranks a recipe runs on one process with one thread and on that
many, by turns, timed by the wall: it wants a quiet machine with a core for each.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from arcface_torch_loop import TheirLoop
from measuring import machine, table
from shares import PARTS, Shares, watch_backward
from topoface.codes.build import BuildSettings, build
from topoface.data import open_source
from topoface.data.synthetic import SyntheticSource
from topoface.functional.allocation import keep_freed_memory
from topoface.recipe.files import load_recipe
from topoface.training.distributed import is_main, leave, process_group
from topoface.training.run import Run, build_run
from topoface.training.update import optimizer_step

RECIPES = ["arcface_small", "topofr_small", "unpg_small", "jlcc_small", "gif_small", "topofr_unpg_jlcc_small"]
FACES = "synthetic:?identities=100&images=6"
WARMUP = 2  # the first steps fill caches
CPU = torch.device("cpu")


class Steps:
    """Training steps of a recipe, one a call."""

    def __init__(self, name: str, overrides: list[str], total: int, folder: Path) -> None:
        self.run: Run = build_run(load_recipe(name, [*overrides, f"training.steps={total}"]), CPU)
        self.run.model.train()
        if isinstance(self.run.source, SyntheticSource):
            for i in range(len(self.run.source)):
                self.run.source[i]  # kept once drawn: the drawing is no part of a step
        self.batches = self.run.loader.batches(0, total)
        self.folder = folder

    def __call__(self) -> float:
        """The loss."""
        update = optimizer_step(self.run, self.batches, self.folder)
        self.run.step += 1
        return float(update.terms["class"])


def turns(ways: dict[str, Callable[[], object]], steps: int) -> dict[str, list[float]]:
    """CPU seconds of each step of each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(steps + WARMUP):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if step >= WARMUP:
                times[name].append(time.process_time() - start)
    return times


def methods(recipes: list[str], data: str, steps: int, folder: Path) -> None:
    """The table of recipes with the shares of their parts."""
    ways = {}
    for name in recipes:
        codes = [make_codes(data, folder)] if name == "gif_small" else []
        ways[name] = Steps(name, [f"data.train={data}", *codes], steps + WARMUP, folder)
    shares = [Shares(way.run) for way in ways.values()]
    work_on = watch_backward(shares)

    def watched(index: int, way: Steps) -> Callable[[], None]:
        def step() -> None:
            work_on(index)
            if way.run.step == WARMUP:
                shares[index].clear()
            shares[index].begin_step()
            way()
            shares[index].end_step()

        return step

    times = turns({name: watched(i, way) for i, (name, way) in enumerate(ways.items())}, steps)
    rows = []
    for name, share in zip(recipes, shares, strict=True):
        batch = ways[name].run.recipe.training.batch_size
        whole = sum(share.seconds.values())
        ratio = median(mine / base for mine, base in zip(times[name], times[recipes[0]], strict=True))
        parts = [f"{share.seconds[part] / whole:.1%}" for part in PARTS]
        rows.append([name, f"{batch / median(times[name]):,.0f}", f"{ratio:.3f}", *parts])
    table(["recipe", "images a CPU second", f"time / {recipes[0]}", *PARTS], rows)


def make_codes(data: str, folder: Path) -> str:
    """Identity codes of the faces; drawn ones: their quality does not change the time of a step."""
    build(open_source(data), folder / "codes", BuildSettings(encoder="random", dimension=128))
    return f"head.init_args.table={folder / 'codes'}"


def beside_arcface_torch(checkout: Path, data: str, steps: int, folder: Path) -> None:
    """Ours and theirs from the same weights on the same network."""
    same = [
        "model.name=iresnet18",
        "model.dimension=512",
        "training.batch_size=16",
        "optimizer.decay_all=true",
    ]
    head = ["head.init_args.scale=64.0", "head.init_args.margin=0.5"]
    ours = Steps("arcface_small", [f"data.train={data}", *same, *head], steps + WARMUP + 1, folder)
    theirs = TheirLoop(checkout, ours.run)
    mine, other = ours(), theirs()
    if abs(mine - other) > 1e-3 * other:
        raise SystemExit(f"the first losses differ: {mine:.5f} and {other:.5f}")
    times = turns({"topoface": ours, "arcface_torch": theirs}, steps)
    rows = [[name, f"{16 / median(seconds):.2f}"] for name, seconds in times.items()]
    ratio = median(a / b for a, b in zip(times["arcface_torch"], times["topoface"], strict=True))
    table(["iresnet18, 112 x 112, batch 16", "images a CPU second"], rows)
    print(f"\ntheir CPU time / ours: {ratio:.2f}; first losses {mine:.4f} and {other:.4f}")


def ranks(count: int, recipe: str, overrides: list[str], steps: int) -> None:
    """One process and several, by turns; each prints its median step."""
    seconds: dict[int, list[float]] = {1: [], count: []}
    for _ in range(3):
        for number in seconds:
            launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
            step = [__file__, "--one-rank", "--steps", str(steps), "--recipes", recipe, "--set", *overrides]
            command = [sys.executable, *launch, *step]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            seconds[number].append(float(done.stdout.split()[-1]))
    rows = [[str(n), f"{1e3 * median(s):.0f}"] for n, s in seconds.items()]
    table([f"{recipe} {' '.join(overrides)}: processes of one thread", "ms a step, wall"], rows)
    ratio = median(one / many for one, many in zip(*seconds.values(), strict=True))
    print(f"\n{count} processes are {ratio:.2f}x as fast as one")


def one_rank(recipe: str, overrides: list[str], steps: int, folder: Path) -> None:
    """What torchrun starts for `ranks`."""
    with process_group(CPU):
        way, times = Steps(recipe, overrides, steps + WARMUP, folder), []
        for _ in range(steps + WARMUP):
            start = time.perf_counter()
            way()
            times.append(time.perf_counter() - start)
        if is_main():
            print(median(times[WARMUP:]))
    leave()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--data", default=FACES)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--arcface-torch", type=Path, help="folder recognition/arcface_torch of a checkout")
    parser.add_argument("--ranks", type=int)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="over the recipe, with --ranks"
    )
    parser.add_argument("--one-rank", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.one_rank:
            one_rank(given.recipes[0], given.set, given.steps, folder)
        print(machine("numpy", "numba"))
        if given.ranks:
            overrides = [f"data.train={given.data}", *given.set]
            ranks(given.ranks, given.recipes[0], overrides, given.steps)
        elif given.arcface_torch:
            beside_arcface_torch(given.arcface_torch, given.data, given.steps, folder)
        else:
            methods(given.recipes, given.data, given.steps, folder)


if __name__ == "__main__":
    main()
