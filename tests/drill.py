"""Kills training with SIGKILL at random points and lets it resume: python -m tests.drill [--points 50] [--seed N].

Every run is on one process or on two in turn; it is killed while it trains, every second one of them again while it resumes or trains on. Prints
how many kills ended with the weights, the optimizer and the log of the run that nobody disturbed, bit for bit; exit code 1 if any did not.
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


def killed(processes: int, folder: Path, seconds: float, chance: random.Random, *, resume: bool) -> str:
    """Kill training after so many seconds; returns what was there then, or nothing if it had ended.

    Of a fresh run one process is killed once it trains. Of a resumed one all are, from its very start on: some may be waiting for the
    others to join then, and it is torchrun that would end them.
    """
    running = Forked(processes, functools.partial(work, folder / "run", resume=resume), folder / "killed")
    if not resume:
        started(folder)
    time.sleep(seconds)
    victims = running.pids if resume else [chance.choice(running.pids)]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    codes = running.wait(TIMEOUT_S)
    if not any(codes[running.pids.index(victim)] == -signal.SIGKILL for victim in victims):
        if codes != [0] * processes:
            raise RuntimeError(f"a run failed before it was killed: {running.said}")
        return ""
    checkpoints = folder / "run" / "checkpoints"
    whole = {path.parent for path in checkpoints.glob("*/manifest.json")}
    halves = [path for path in checkpoints.glob("*/part_*") if path.parent not in whole]
    what = "resumed run" if resume else "run"
    return f"{what} killed after {seconds:.2f} s, {len(whole)} checkpoints and {len(halves)} files of unfinished ones there"


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
        undisturbed, building, training = {}, {}, {}
        for processes in (1, 2):
            folder = Path(name, f"undisturbed_{processes}")
            forked = time.monotonic()
            running = Forked(processes, functools.partial(work, folder / "run", resume=False), folder)
            started(folder)
            begun = time.monotonic()
            if running.wait(TIMEOUT_S) != [0] * processes:
                raise RuntimeError(f"the run that nobody disturbs failed: {running.said}")
            building[processes], training[processes] = begun - forked, time.monotonic() - begun
            undisturbed[processes] = outcome(folder / "run")
        runs, done = 0, 0
        while done < arguments.points:
            processes, folder = 1 + runs % 2, Path(name, f"run_{runs}_{chance.random()}")
            kills = [killed(processes, folder, chance.uniform(0, training[processes]), chance, resume=False)]
            if not kills[0]:
                training[processes] *= 0.95  # the machine has become faster: draw again
                continue
            if runs % 4 < 2 and done + 1 < arguments.points:
                seconds = chance.uniform(
                    0, building[processes] + training[processes] / 2
                )  # half is left, on the average
                kills.append(killed(processes, folder, seconds, chance, resume=True))
            if kills[-1]:
                again = functools.partial(work, folder / "run", resume=True)
                run_forked(processes, again, folder / "last", TIMEOUT_S)
            runs += 1
            alike = identical(undisturbed[processes], outcome(folder / "run"))
            said = "identical" if alike else "DIFFERENT"
            for where in filter(None, kills):
                done += 1
                same += alike
                print(f"{done:3d}  {processes} process(es), {where}: {said}", flush=True)
    print(f"{same} of {arguments.points} identical")
    return 0 if same == arguments.points else 1


if __name__ == "__main__":
    sys.exit(main())
