"""Class centers cut over the processes: the same figures, the same training, checkpoints for any number of processes."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.fork_server import forked
from tests.distributed.test_torchrun import METHODS, assert_alike, recipe_file

ALL_METHODS = [
    *METHODS["topofr"],
    {"class_path": "UNPG"},
    {"class_path": "JLCC", "init_args": {"start_epochs": 1.0, "ramp_epochs": 0.0}},
]
HEADS = {
    "ArcFace": {"scale": 16.0, "margin": 0.2},
    "MagFace": {"scale": 16.0, "least_norm": 1.0, "greatest_norm": 9.0},
    "AdaFace": {"scale": 16.0},
    "PartialFC": {"scale": 16.0, "rate": 0.7},
    "tests.distributed.own_heads.Everywhere": {},
    "tests.distributed.own_heads.Moved": {},
}
PROCESSES = {"ArcFace": [2, 3], "MagFace": [3]}


def recipe(folder: Path, head: str) -> str:
    """All three methods; 6 classes, 24 images a step in two micro-batches; the norm clipped is that of model and head."""
    folder.mkdir()
    return recipe_file(
        folder,
        ALL_METHODS,
        training={"batch_size": 24, "steps": 5},
        head={"class_path": head, "init_args": HEADS[head]},
        optimizer={"clip_head": head != "PartialFC"},
    )


@pytest.mark.dist
@pytest.mark.parametrize("processes", [2, 3])
def test_every_sharded_head_equals_the_dense_one(processes: int, tmp_path: Path) -> None:
    """Loss, statistics, gradients of embeddings and centers, in float64; ragged, single and empty shards; with UNPG's mass."""
    forked(processes, "tests.distributed.heads", str(tmp_path / "worst.json"))
    for process in range(processes):
        worst = json.loads((tmp_path / f"worst.{process}").read_text())
        assert len(worst) == 117
        assert max(worst.values()) < 1e-12, max(worst, key=worst.__getitem__)


@pytest.mark.dist
@pytest.mark.parametrize("head", HEADS)
def test_all_methods_train_alike_on_one_and_several_processes(head: str, tmp_path: Path) -> None:
    results = []
    for processes in (1, *PROCESSES.get(head, [2])):
        folder = tmp_path / f"{processes}"
        path = recipe(folder, head)
        forked(processes, "tests.distributed.steps", path, str(folder / "out.json"))
        results.append(json.loads((folder / "out.json").read_text()))
    for several in results[1:]:
        assert_alike(results[0], several)


@pytest.mark.dist
def test_training_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """1 -> 3 -> 2 processes: class centers, their momentum and the cluster centers are cut anew each time."""
    path = recipe(tmp_path / "whole", "ArcFace")
    forked(1, "tests.distributed.steps", path, str(tmp_path / "whole" / "out.json"))
    undisturbed = json.loads((tmp_path / "whole" / "out.json").read_text())
    path, out = recipe(tmp_path / "parts", "ArcFace"), tmp_path / "parts" / "out.json"
    lines = []
    for processes, start, stop in ((1, 0, 2), (3, 2, 4), (2, 4, 5)):
        forked(processes, "tests.distributed.steps", path, str(out), str(start), str(stop))
        part = json.loads(out.read_text())
        lines += part["lines"]
    for mine, alone in zip(lines, undisturbed["lines"], strict=True):
        np.testing.assert_allclose(mine, alone, rtol=1e-9)
    np.testing.assert_allclose(part["weights"], undisturbed["weights"], rtol=1e-8, atol=1e-10)
