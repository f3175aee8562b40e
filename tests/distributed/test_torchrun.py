"""The same command under torchrun gives the losses of one process with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.tiny import tiny_recipe
from topoface.recipe_files import dump_recipe

METHODS: dict[str, list[dict[str, Any]]] = {
    "arcface": [],
    "topofr, global trees": [
        {"class_path": "TopoFR", "init_args": {"isa": {"scope": "global", "warmup_epochs": 0.0}}}
    ],
    "topofr, trained scale": [
        {
            "class_path": "TopoFR",
            "init_args": {
                "isa": {"scope": "global", "latent": "learned", "warmup_epochs": 0.0},
                "sde": {"gradient": "full"},
            },
        }
    ],
}


def run(recipe: Path, folder: Path, processes: int) -> list[dict[str, float]]:
    """The metrics of a run through the command line, under an outer time limit."""
    train = ["-m", "topoface", "train", str(recipe), "--run-dir", str(folder), "--quiet"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), *train]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


@pytest.mark.dist
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_give_the_losses_of_one(name: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    changed = tiny_recipe(
        methods=METHODS[name],
        training={"steps": 4, "accumulation": 2, "batch_size": 16},
        optimizer={"lr": 0.01},
    )
    recipe.write_text(dump_recipe(changed))
    one, two = run(recipe, tmp_path / "one", 1), run(recipe, tmp_path / "two", 2)
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        for key in ("loss", "loss/class", "norm/model", "norm/head", "lr"):
            assert a[key] == pytest.approx(b[key], rel=2e-4), (a["step"], key)
    # the first losses have seen no update yet: they agree to float32 rounding
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], rel=2e-6)
