"""The same command under torchrun gives the losses of one process with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.distributed.fork_server import forked
from tests.unit.training.tiny import tiny_recipe
from topoface.recipe.files import dump_recipe

METHODS: dict[str, list[dict[str, Any]]] = {
    "arcface": [],
    "unpg": [{"class_path": "UNPG"}],
    "jlcc": [{"class_path": "JLCC", "init_args": {"start_epochs": 1.0, "ramp_epochs": 0.0}}],
    "unpg by rows, fence of genuine pairs, with topofr": [
        {"class_path": "TopoFR", "init_args": {"isa": {"scope": "global", "warmup_epochs": 0.0}}},
        {"class_path": "UNPG", "init_args": {"scope": "row", "filter": "positive"}},
    ],
    "topofr": [
        {"class_path": "TopoFR", "init_args": {"isa": {"scope": "global", "warmup_epochs": 0.0}}},
    ],
    "topofr taught by its own average": [
        {
            "class_path": "TopoFR",
            "init_args": {"isa": {"scope": "global", "source": "teacher", "warmup_epochs": 0.0}},
        },
    ],
    "topofr on few pixels, short edges": [
        {
            "class_path": "TopoFR",
            "init_args": {
                "isa": {
                    "scope": "global",
                    "source": "low_resolution",
                    "shortest_share": 0.5,
                    "warmup_epochs": 0.0,
                }
            },
        },
    ],
    "topofr with a trained scale and gradient through omega": [
        {
            "class_path": "TopoFR",
            "init_args": {
                "isa": {
                    "scope": "global",
                    "latent": "learned",
                    "norm": "pixel_range",
                    "form": "random",
                    "warmup_epochs": 0.0,
                },
                "sde": {"gradient": "full", "normalise": "mean"},
            },
        }
    ],
}


def python(processes: int, *arguments: str) -> None:
    """Run a module, alone or under torchrun, under an outer time limit."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), "-m", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def recipe_file(folder: Path, methods: list[dict[str, Any]], **changes: Any) -> str:
    recipe = tiny_recipe(
        methods=methods,
        training={"steps": 4, "accumulation": 2, "batch_size": 16, **changes.pop("training", {})},
        optimizer={"lr": 0.01, **changes.pop("optimizer", {})},
        **changes,
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    return str(folder / "recipe.yaml")


def assert_alike(alone: dict[str, Any], several: dict[str, Any]) -> None:
    """Losses, gradient norms, final weights, and all figures of the log but lists, which are of one process."""
    for mine, other in zip(
        several["lines"], alone["lines"], strict=True
    ):  # a method may start later than the run
        np.testing.assert_allclose(mine, other, rtol=1e-9)
    for mine, other in zip(several["logs"], alone["logs"], strict=True):
        assert mine == pytest.approx(other, rel=1e-6, abs=1e-7), "the log"
    np.testing.assert_allclose(several["weights"], alone["weights"], rtol=1e-8, atol=1e-10)


@pytest.mark.dist
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_as_one_in_float64(name: str, tmp_path: Path) -> None:
    """Losses, gradient norms and final weights, with micro-batches on top."""
    recipe = recipe_file(tmp_path, METHODS[name])
    results = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.json"
        forked(processes, "tests.distributed.steps", recipe, str(out))
        results.append(json.loads(out.read_text()))
    assert_alike(*results)


@pytest.mark.dist
def test_the_same_command_under_torchrun_logs_the_same_losses(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, METHODS["topofr"])
    losses = []
    for processes in (1, 2):
        folder = tmp_path / f"run_{processes}"
        python(processes, "topoface", "train", recipe, "--run-dir", str(folder), "--quiet")
        assert (folder / "evaluation.json").is_file()
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines])
    # float32: rounding grows once a tree or a clipped step has turned on it, so the first losses are the tight ones
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.dist
def test_a_loss_that_breaks_on_one_process_stops_all_and_names_the_whole_batch(tmp_path: Path) -> None:
    recipe = recipe_file(
        tmp_path,
        [],
        head={"class_path": "tests.distributed.own_heads.Everywhere", "init_args": {"scale": 16.0}},
    )
    forked(2, "tests.distributed.diverging", recipe, str(tmp_path))
    said = [(tmp_path / f"said.{process}").read_text() for process in range(2)]
    assert said[0] == said[1]
    assert "not finite: class," in said[0]
    found = json.loads((tmp_path / "divergence.json").read_text())
    assert len(set(found["indices"])) == 16
    assert np.isnan(found["values"]["class"])
