"""What can go wrong on one of two processes: python -m tests.distributed.faults FOLDER. Writes FOLDER/outcomes.json."""

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.distributed.fork_server import prepare
from tests.distributed.forked import Forked
from tests.unit.training.tiny import tiny_recipe
from topoface.data.loader import Loader
from topoface.errors import UserError
from topoface.functional.collectives import mean_over_ranks, rank
from topoface.methods import Method, StepState
from topoface.training import loop, saving, train
from topoface.training.distributed import process_group, timedelta
from topoface.training.replay import replay
from topoface.training.watch import Watch

LIMIT_S = 200


class Breaking(Method):
    """A method whose term is NaN on the last process at step 4."""

    def penalties(self, state: StepState) -> dict[str, Tensor]:
        broken = state.step == 4 and rank() == 1
        return {"term": state.embeddings.sum() * (torch.nan if broken else 0.0)}


def run(folder: Path, timeout_s: float = 120, **changes: Any) -> None:
    train(tiny_recipe(**{"methods": [], **changes}), run_dir=folder, quiet=True, timeout_s=timeout_s)


def at_step(step: int, action: Callable[[], object]) -> None:
    """Let the last process do something in the middle of a step."""
    original = loop.optimizer_step

    def disturbed(run: Any, *rest: Any) -> Any:
        if run.step == step and rank() == 1:
            action()
        return original(run, *rest)

    loop.optimizer_step = disturbed


def sleep_for_ever() -> None:
    time.sleep(10_000)


def hanging(folder: Path) -> None:
    at_step(2, sleep_for_ever)
    run(folder, timeout_s=8)


def long_judging(folder: Path) -> None:
    """Longer than the time-outs of the backend and of the watch."""
    with process_group(torch.device("cpu"), timedelta(seconds=5)), Watch(4) as watch:
        watch.moved(0)
        watch.moved(1)
        assert (watch.on_main(lambda: time.sleep(9) or "judged") == "judged") == (rank() == 0)
        assert mean_over_ranks(torch.tensor(1.0)) == 1


def dying_loader(folder: Path) -> None:
    original = Loader.batch

    def dying(self: Loader, step: int, micro: int = 0) -> Any:
        if step == 4 and rank() == 1:
            raise MemoryError("no room for a picture")
        return original(self, step, micro)

    Loader.batch = dying  # type: ignore[method-assign]
    run(folder)


def full_disk(folder: Path) -> None:
    original = saving.write_part

    def full(path: Path, *rest: Any) -> Any:
        if path.name.endswith("6") and rank() == 1:
            raise UserError("cannot be written: the disk is full", f"checkpoint {path}", "make room")
        return original(path, *rest)

    saving.write_part = full
    run(folder)


def slow_disk(folder: Path) -> None:
    """Each write takes longer than the watch allows a step, before the next one and at the end."""
    original = saving.write_part

    def slow(path: Path, *rest: Any) -> Any:
        if not path.name.endswith("6"):
            time.sleep(10)
        return original(path, *rest)

    saving.write_part = slow
    run(folder, timeout_s=6)


def breaking(folder: Path) -> None:
    run(folder, methods=[{"class_path": "tests.distributed.faults.Breaking"}])


def main(name: str) -> None:
    folder = Path(name)
    outcomes = {}

    def start(scenario: Callable[[Path], None]) -> Forked:
        said = folder / scenario.__name__
        return Forked(2, functools.partial(scenario, folder / "runs" / scenario.__name__), said)

    def end(name: str, processes: Forked) -> None:
        outcomes[name] = {"codes": processes.wait(LIMIT_S), "said": processes.said}

    sleepers = {scenario.__name__: start(scenario) for scenario in (hanging, long_judging, slow_disk)}
    for scenario in (run, dying_loader, full_disk, breaking):
        end(scenario.__name__, start(scenario))
    for scenario_name, processes in sleepers.items():
        end(scenario_name, processes)
    end("replay", Forked(2, lambda: replay(folder / "runs" / "breaking"), folder / "replay"))
    (folder / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    prepare()
    main(*sys.argv[1:])
