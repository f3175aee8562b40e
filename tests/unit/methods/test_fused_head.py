"""Class centers that move in backward end where those of torch's optimizer do, whatever else asks for gradients in a step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.training.tiny import tiny_recipe
from topoface.training.run import build_run
from topoface.training.update import optimizer_step


def centers_after(steps: int, folder: Path, *, fused: bool, methods: list[dict[str, Any]]) -> Tensor:
    recipe = tiny_recipe(
        head={"class_path": "CosFace", "init_args": {"scale": 8.0, "fused": fused}},
        methods=methods,
        optimizer={"lr": 1e-4},
        schedule={"warmup_epochs": 0.0},
    )
    run = build_run(recipe, torch.device("cpu"))
    run.model.train()
    batches = run.loader.batches(0, steps)
    for _ in range(steps):
        optimizer_step(run, batches, folder)
        run.step += 1
    batches.close()
    return run.head.weight.detach()  # type: ignore[union-attr,operator,return-value]


@pytest.mark.parametrize("mode", ["fixed", "ratio"])
def test_the_alignment_s_own_look_at_gradients_moves_no_center(mode: str, tmp_path: Path) -> None:
    """TopoFR measures the gradient of the class loss at step 0, before the step's own backward."""
    methods = [{"class_path": "TopoFR", "init_args": {"isa": {"warmup_epochs": 0.0, "alpha_mode": mode}}}]
    start = centers_after(0, tmp_path, fused=True, methods=methods)
    plain = centers_after(2, tmp_path, fused=False, methods=methods) - start
    fused = centers_after(2, tmp_path, fused=True, methods=methods) - start
    assert plain.norm() > 0
    assert (fused - plain).norm() < 1e-2 * plain.norm()
