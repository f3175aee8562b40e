"""Several machines: the same training as on one, and machines that come and go."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.fork_server import forked
from tests.distributed.machines import two_machines, wait_until
from tests.distributed.slow import BRAKE
from tests.distributed.slurm import run_on_slurm, run_on_stand_ins, slurm_is_here
from tests.distributed.test_torchrun import recipe_file
from topoface.training.interface import interface_towards

pytestmark = pytest.mark.dist
STEPS = 120
PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
needs_slurm = pytest.mark.skipif(
    not slurm_is_here(), reason="SLURM is not installed, or namespaces are not allowed"
)


def lines_of(run: Path) -> list[dict[str, Any]]:
    """Of metrics.jsonl, as far as it is written."""
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def train(recipe: str, run: Path) -> list[str]:
    return ["topoface", "train", recipe, "--run-dir", str(run), "--quiet", "--resume"]


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A recipe, and the run of it that two processes of one machine make."""
    folder = tmp_path_factory.mktemp("one")
    recipe = recipe_file(folder, [])
    forked(2, "tests.distributed.command", *train(recipe, folder / "run")[1:])
    return recipe, folder / "run"


def assert_same_run(one: Path, two: Path) -> None:
    """The losses of every step and the bits of the model."""
    assert [line["loss"] for line in lines_of(two)] == [line["loss"] for line in lines_of(one)]
    model = Path("model") / "model.safetensors"
    assert (one / model).read_bytes() == (two / model).read_bytes()


def test_two_machines_train_as_two_processes_of_one(one_machine: tuple[str, Path], tmp_path: Path) -> None:
    recipe, one = one_machine
    with two_machines(tmp_path) as machines:
        nodes = [machines.torchrun(number, "2", *train(recipe, tmp_path / "run")) for number in (0, 1)]
        for node in nodes:
            assert node.process.wait(180) == 0, node.text()[-3000:]
    assert_same_run(one, tmp_path / "run")


def documented_for_slurm() -> str:
    """The block of docs/scale.md that calls srun."""
    blocks = re.findall(r"(?:^ {4}.*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    (block,) = (block for block in blocks if "srun" in block)
    return re.sub("^ {4}", "", block, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "run_on", [pytest.param(run_on_slurm, marks=needs_slurm), run_on_stand_ins], ids=["slurm", "stand-ins"]
)
def test_the_documented_command_for_slurm_does_too(
    run_on: Callable[[str, Path], str], one_machine: tuple[str, Path], tmp_path: Path
) -> None:
    """As it stands on the page, but for the GPUs of a node, the recipe and the folder."""
    (recipe, one), run, command = one_machine, tmp_path / "run", documented_for_slurm()
    for there, here in (("node=8", "node=1"), ("arcface_small", recipe), ("/shared/run", str(run))):
        assert there in command
        command = command.replace(there, here)
    assert ", 2 processes" in run_on(command, tmp_path)
    assert_same_run(one, run)


def test_a_second_machine_may_join_and_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 -> 2 -> 1 machines: every step once, and the losses of a run that nothing disturbed, until rounding has grown."""
    brake, run = tmp_path / "brake", tmp_path / "run"
    monkeypatch.setenv(BRAKE, str(brake))
    recipe = recipe_file(
        tmp_path,
        [],
        head={"class_path": "tests.distributed.slow.Slow", "init_args": {"scale": 16.0, "margin": 0.2}},
        training={"steps": STEPS, "batch_size": 8, "accumulation": 1, "checkpoint_every": 2},
        optimizer={"lr": 0.001},
        schedule={"name": "constant", "warmup_epochs": 0.0},
    )
    forked(1, "tests.distributed.command", *train(recipe, tmp_path / "undisturbed")[1:])
    brake.touch()
    with two_machines(tmp_path) as machines:

        def moved_on() -> bool:
            return len(lines_of(run)) > seen + 2

        seen = 0
        first = machines.torchrun(0, "1:2", *train(recipe, run))
        wait_until(moved_on, first)
        second = machines.torchrun(1, "1:2", *train(recipe, run))
        wait_until(lambda: ", 2 processes" in first.text(), first)
        seen = len(lines_of(run))
        wait_until(moved_on, first)
        starts = first.text().count("training on cpu with")
        second.lose_power()
        wait_until(lambda: first.text().count("training on cpu with") > starts, first)
        brake.unlink()
        assert first.process.wait(120) == 0, first.text()[-3000:]
    restored = [int(step) for step in re.findall(r"restored step (\d+)", first.text())]
    assert len(restored) == 2
    found, wanted = (lines_of(path) for path in (run, tmp_path / "undisturbed"))
    assert [line["step"] for line in found] == list(range(STEPS))
    losses, undisturbed = ([line["loss"] for line in lines] for lines in (found, wanted))
    joined, left = restored
    assert losses[:joined] == undisturbed[:joined]
    assert losses[joined : left + 1] == pytest.approx(undisturbed[joined : left + 1], rel=1e-3)


def test_the_interface_is_the_one_that_leads_to_the_first_machine() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no.such.machine.invalid") is None
    assert interface_towards("") is None
