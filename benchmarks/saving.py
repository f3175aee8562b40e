"""What a checkpoint costs the training: how long the step waits, and how much slower the steps are while the thread writes.

python benchmarks/saving.py [--identities 200000] [--rounds 5]

ArcFace on a compact network with D = 512: two tables of 4 x identities x 512 bytes, class centers and momentum. Wall time, medians; beside it the time that a save
takes if one waits for it, as a training loop without the thread does.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from measuring import machine, table
from step import WARMUP, Steps
from topoface.functional.allocation import keep_freed_memory
from topoface.training.saving import Saver

MEANWHILE = 2  # steps after each save


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--identities", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    overrides = [f"data.train=synthetic:?identities={given.identities}&images=1", "model.dimension=512"]
    steps = WARMUP + given.rounds * (2 + 2 * MEANWHILE)
    alone, waited, meanwhile, whole = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        way = Steps("arcface_small", overrides, steps, Path(name))
        for _ in range(WARMUP):
            way()
        with Saver(Path(name) / "checkpoints", keep_last=2) as saver:
            for _ in range(given.rounds):
                alone += [seconds(way), seconds(way)]
                waited.append(seconds(lambda: saver.save(way.run)))
                meanwhile += [seconds(way) for _ in range(MEANWHILE)]
                saver.wait()
                whole.append(seconds(lambda: (saver.save(way.run), saver.wait())))
                for _ in range(MEANWHILE):
                    way()
        size = sum(f.stat().st_size for f in (Path(name) / "checkpoints").rglob("*.safetensors")) / 2
        way.batches.close()
    print(
        machine("torch", "safetensors"),
        f"{given.identities:,} identities, {size / 2**20:,.0f} MiB a checkpoint",
    )
    table(
        [
            "a step alone, s",
            "training waits for a save, s",
            "a step while it is written, s",
            "a save that is waited for, s",
        ],
        [[f"{median(times):.2f}" for times in (alone, waited, meanwhile, whole)]],
    )


if __name__ == "__main__":
    main()
