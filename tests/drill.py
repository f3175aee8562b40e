"""Kills training with SIGKILL at random points and lets it resume: python -m tests.drill [--points 50] [--seed N].

Every point is a run of its own, on one process or on two in turn. Prints how many ended with the weights, the optimizer and the log of the run that
nobody disturbed, bit for bit; exit code 1 if any did not.
"""

import argparse
import functools
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tests.distributed.forked import Forked, run_forked
from tests.unit.training.tiny import tiny_recipe
from topoface.training import train
from topoface.training.checkpoint import load_newest

STEPS = 12
TIMEOUT_S = 300
RECIPE = tiny_recipe(
    methods=[
        {"class_path": "TopoFR"},
        {"class_path": "UNPG"},
        {"class_path": "JLCC", "init_args": {"start_epochs": 1.0, "ramp_epochs": 0.0}},
    ],
    training={"steps": STEPS, "checkpoint_every": 1, "log_every": 1},
)


def work(folder: Path, *, resume: bool) -> None:
    """Train in this process."""
    train(RECIPE, run_dir=folder, resume=resume, quiet=True, timeout_s=TIMEOUT_S)


def outcome(folder: Path) -> dict[str, Any]:
    """What must be the same: the last checkpoint and the losses."""
    state = load_newest(folder / "checkpoints", print)
    assert state is not None
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tensors = {
        f"{part}.{k}": v for part in ("model", "head", "methods", "optimizer") for k, v in state[part].items()
    }
    losses = [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]
    return {"step": state["step"], "tensors": tensors, "losses": losses}


def identical(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Bit for bit, NaN included."""
    names, others = one["tensors"], other["tensors"]
    return (
        (one["step"], json.dumps(one["losses"])) == (other["step"], json.dumps(other["losses"]))
        and names.keys() == others.keys()
        and all(
            names[k].equal(others[k]) or names[k].nan_to_num().equal(others[k].nan_to_num()) for k in names
        )
    )


def started(folder: Path) -> None:
    """Wait until the run has been built and trains."""
    while not (folder / "run" / "recipe.yaml").exists():
        time.sleep(0.005)


def killed(processes: int, folder: Path, seconds: float, chance: random.Random) -> str:
    """Kill one of the processes that train after so many seconds, and resume to the end; returns what was there, or nothing if it had ended."""
    running = Forked(processes, functools.partial(work, folder / "run", resume=False), folder / "first")
    started(folder)
    time.sleep(seconds)
    victim = chance.choice(running.pids)
    os.kill(victim, signal.SIGKILL)
    codes = running.wait(TIMEOUT_S)
    if codes[running.pids.index(victim)] != -signal.SIGKILL:
        return ""
    checkpoints = folder / "run" / "checkpoints"
    whole = {path.parent for path in checkpoints.glob("*/manifest.json")}
    halves = [path for path in checkpoints.glob("*/part_*") if path.parent not in whole]
    run_forked(processes, functools.partial(work, folder / "run", resume=True), folder / "second", TIMEOUT_S)
    return f"{len(whole)} checkpoints and {len(halves)} files of unfinished ones there"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=50, help="how many kills (50)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chance, same = random.Random(arguments.seed), 0
    print(f"{arguments.points} kills, seed {arguments.seed}")
    with tempfile.TemporaryDirectory() as name:
        undisturbed, duration = {}, {}
        for processes in (1, 2):
            folder = Path(name, f"undisturbed_{processes}")
            running = Forked(processes, functools.partial(work, folder / "run", resume=False), folder)
            started(folder)
            begun = time.monotonic()
            if running.wait(TIMEOUT_S) != [0] * processes:
                raise RuntimeError(f"the run that nobody disturbs failed: {running.said}")
            duration[processes] = time.monotonic() - begun
            undisturbed[processes] = outcome(folder / "run")
        point = 0
        while point < arguments.points:
            processes, folder = 1 + point % 2, Path(name, f"point_{point}_{chance.random()}")
            seconds = chance.uniform(0, duration[processes])
            where = killed(processes, folder, seconds, chance)
            if not where:
                duration[processes] *= 0.95  # the machine has become faster: draw again
                continue
            point += 1
            alike = identical(undisturbed[processes], outcome(folder / "run"))
            same += alike
            said = "identical" if alike else "DIFFERENT"
            print(
                f"{point:3d}  {processes} process(es), killed after {seconds:.2f} s, {where}: {said}",
                flush=True,
            )
    print(f"{same} of {arguments.points} identical")
    return 0 if same == arguments.points else 1


if __name__ == "__main__":
    sys.exit(main())
