"""A process that dies, hangs, or fails alone: what is said, and that the run goes on or stops as a whole."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.training.test_resume import assert_equal_states, losses
from tests.unit.training.tiny import tiny_recipe
from topoface.recipe.files import dump_recipe
from topoface.training.checkpoint import Checkpoint, checkpoints, load_newest

LIMIT_S = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests.distributed.faults went through everything, in one start of Python."""
    folder = tmp_path_factory.mktemp("faults")
    python("tests.distributed.faults", str(folder))
    return folder


def python(*arguments: str) -> str:
    """Run a module under an outer time limit, after which nothing of it is left; returns what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        said = process.communicate(timeout=LIMIT_S)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said[-3000:]
    return said


def outcome(folder: Path, name: str) -> tuple[list[int], list[str]]:
    found: dict[str, Any] = json.loads((folder / "outcomes.json").read_text())[name]
    return found["codes"], found["said"]


@pytest.mark.dist
def test_a_rank_that_hangs_is_named_with_step_and_place_and_the_collective_that_waits_for_it(
    folder: Path,
) -> None:
    codes, said = outcome(folder, "hanging")
    assert {*codes} <= {1, 2}  # who is first ends the other, which may still say so itself
    (message,) = re.findall(
        r"^topoface: error: .*nothing has moved for 8 s.*$", "\n".join(said), re.MULTILINE
    )
    assert re.search(r"rank 1 hangs in step 2 at distributed/faults\.py:\d+ \(sleep_for_ever\)", message)
    assert re.search(r"rank 0 waits in \w[\w. ]* of step 2 at \S+\.py:\d+ \(\w+\)", message)


@pytest.mark.dist
def test_a_long_judging_on_the_first_process_does_not_end_the_run(folder: Path) -> None:
    codes, said = outcome(folder, "long_judging")
    assert codes == [0, 0], said


@pytest.mark.dist
def test_a_disk_slower_than_the_time_out_does_not_end_the_run(folder: Path) -> None:
    codes, said = outcome(folder, "slow_disk")
    assert codes == [0, 0], said
    kept = checkpoints(folder / "runs" / "slow_disk" / "checkpoints")
    assert [path.name for path in kept] == ["step_000000006", "step_000000008"]


@pytest.mark.dist
def test_a_loader_that_dies_is_said_and_the_others_do_not_wait(folder: Path) -> None:
    codes, said = outcome(folder, "dying_loader")
    assert codes == [2, 2], said
    assert "step 4: a thread of the loader died of MemoryError: no room for a picture" in said[1]
    assert re.search(r"error: rank 0: lost another process in \w[\w. ]* at ", said[0])


@pytest.mark.dist
def test_a_disk_that_fills_on_one_process_stops_all_with_its_message(folder: Path) -> None:
    codes, said = outcome(folder, "full_disk")
    assert codes == [2, 2], said
    messages = [re.findall(r"topoface: error: .*", text) for text in said]
    assert messages[0] == messages[1]
    assert "step_000000006: cannot be written: the disk is full" in messages[0][0]
    kept = folder / "runs" / "full_disk" / "checkpoints"
    assert [path.name for path in checkpoints(kept)] == ["step_000000003"]


@pytest.mark.dist
def test_a_nan_on_one_process_stops_all_and_is_replayed(folder: Path) -> None:
    codes, said = outcome(folder, "breaking")
    assert codes == [2, 2], said
    assert all("step 4: not finite: Breaking/term" in text for text in said)
    facts = json.loads((folder / "runs" / "breaking" / "divergence.json").read_text())
    assert (facts["processes"], len(set(facts["indices"]))) == (2, 8)
    assert np.isnan(facts["values"]["Breaking/term"])
    codes, said = outcome(folder, "replay")
    assert codes == [0, 0], said
    assert re.search(r"^Breaking/term +nan  \(when the run stopped: nan\)", said[0], re.MULTILINE)
    assert re.search(r"^class +(\S+)  \(when the run stopped: \1\)$", said[0], re.MULTILINE)
    assert "Breaking/term" not in said[1]


@pytest.mark.dist
def test_each_process_saves_its_rows_and_nobody_gathers_them(folder: Path) -> None:
    (newest, *_) = reversed(checkpoints(folder / "runs" / "run" / "checkpoints"))
    opened = Checkpoint(newest)
    assert len(opened.parts) == 2
    assert opened.facts["processes"] == 2
    assert opened.shapes["head.weight"] == opened.shapes["optimizer.head.weight.momentum_buffer"] == (6, 16)
    small = min(opened.parts, key=lambda name: (newest / name).stat().st_size)
    assert (
        newest / small
    ).stat().st_size < 1000 + 2 * 4 * 3 * 16  # half of the centers and of their momentum


@pytest.mark.dist
def test_torchrun_starts_a_run_anew_after_a_death_and_after_a_hang_and_it_ends_as_if_undisturbed(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(tiny_recipe(methods=[])))
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2", "-m"]
    train = [str(tmp_path / "recipe.yaml"), "--run-dir", str(tmp_path / "run"), "--quiet", "--timeout=8"]
    said = python(*launch, "tests.distributed.restarting", *train)
    assert "rank 1 hangs in step 5" in said
    assert "restored step 3: model, head, methods, optimizer" in said
    undisturbed, disturbed = folder / "runs" / "run", tmp_path / "run"
    assert (disturbed / "evaluation.json").is_file()
    assert_equal_states(*(load_newest(path / "checkpoints", print) for path in (undisturbed, disturbed)))
    assert losses(undisturbed) == losses(disturbed)
