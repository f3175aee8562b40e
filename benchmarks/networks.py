"""The training step of small networks as topoface runs it, beside plain PyTorch: float32, channels first, nothing fused.

    python benchmarks/networks.py [--steps 10] [--networks NAME ...]
    python benchmarks/networks.py --curves 100

Both sides are steps of the ArcFace recipe with the same loader and head. The plain side has channels first, torch's own normalisation and activation, the
optimizer that is not fused, and the C library's own way with freed memory; each side is a process of its own with one thread, and they take turns.
CPU time; a ratio is the median over the turns. --curves trains both with three seeds and compares the mean loss of the last quarter of the steps.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median

import torch

from measuring import machine, table
from step import FACES, WARMUP, Steps
from topoface.functional.allocation import keep_freed_memory
from topoface.models import batchnorm
from topoface.models.iresnet import IResNetConfig
from topoface.models.mobilefacenet import MobileFaceNetConfig
from topoface.models.registry import MODELS

QUARTER = IResNetConfig(blocks=(2, 2, 2, 2), widths=(16, 32, 64, 128), dimension=128)
NETWORKS = {  # and the batch
    "iresnet_compact": (MODELS["iresnet_compact"], 128),
    "iresnet18, a quarter of the width": (QUARTER, 64),
    "mobilefacenet, width 1": (MobileFaceNetConfig(blocks=(1, 4, 6, 2), width=1, dimension=128), 32),
}
SIDES = ("plain", "topoface")
SEEDS = (0, 1, 2)


def child(network: str, side: str, seed: int, steps: int) -> None:
    """One side: a step for each line that comes in, answered by its CPU seconds and loss."""
    torch.set_num_threads(1)
    if side == "topoface":
        keep_freed_memory()
    else:
        batchnorm.loops_can_normalise = lambda _: False
    MODELS["measured"], batch = NETWORKS[network]
    overrides = [
        f"data.train={FACES}",
        "model.name=measured",
        f"training.batch_size={batch}",
        f"training.seed={seed}",
    ]
    overrides.append(f"model.channels_last={str(side == 'topoface').lower()}")
    with tempfile.TemporaryDirectory() as folder:
        way = Steps("arcface_small", overrides, steps, Path(folder))
        for group in way.run.optimizer.param_groups:
            group["fused"] = side == "topoface"
        for _ in range(steps):
            sys.stdin.readline()
            start = time.process_time()
            loss = way()
            print(time.process_time() - start, loss, flush=True)
        way.batches.close()


def both_sides(network: str, seed: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """CPU seconds and loss of each step of each side, the sides taking turns."""
    arguments = ["--child", network, "--seed", str(seed), "--steps", str(steps), "--side"]
    children = {
        side: subprocess.Popen(
            [sys.executable, __file__, *arguments, side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in SIDES
    }
    answers: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for _ in range(steps):
        for side, process in children.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            seconds, loss = process.stdout.readline().split()
            answers[side].append((float(seconds), float(loss)))
    for process in children.values():
        process.communicate()
    return answers


def speed(networks: list[str], steps: int) -> None:
    rows = []
    for name in networks:
        answers = both_sides(name, 0, steps + WARMUP)
        plain, ours = ([seconds for seconds, _ in answers[side][WARMUP:]] for side in SIDES)
        batch = NETWORKS[name][1]
        ratio = median(a / b for a, b in zip(plain, ours, strict=True))
        first = abs(answers["plain"][0][1] - answers["topoface"][0][1])
        rates = [f"{batch / median(side):,.0f}" for side in (plain, ours)]
        rows.append([name, str(batch), *rates, f"{ratio:.2f}x", f"{first:.1e}"])
    table(
        ["network", "batch", "plain, images a CPU second", "topoface", "ratio", "first losses differ by"],
        rows,
    )


def curves(networks: list[str], steps: int) -> None:
    rows = []
    for name in networks:
        ends: dict[str, list[float]] = {side: [] for side in SIDES}
        for seed in SEEDS:
            for side, answers in both_sides(name, seed, steps).items():
                ends[side].append(mean(loss for _, loss in answers[-steps // 4 :]))
        gap = abs(mean(ends["plain"]) - mean(ends["topoface"]))
        spread = max(ends["plain"]) - min(ends["plain"])
        shown = [", ".join(f"{end:.3f}" for end in ends[side]) for side in SIDES]
        rows.append([name, *shown, f"{gap:.3f}", f"{spread:.3f}", "yes" if gap < spread else "no"])
    table(
        ["network", "plain, three seeds", "topoface", "means differ by", "spread of the seeds", "inside"],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--curves", type=int, metavar="STEPS")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.side, given.seed, given.steps)
        return
    print(machine("numba"))
    if given.curves:
        curves(given.networks, given.curves)
    else:
        speed(given.networks, given.steps)


if __name__ == "__main__":
    main()
