"""A step whose loss breaks on the last process alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from topoface.errors import UserError
from topoface.functional.collectives import rank, world_size
from topoface.recipe.files import load_recipe
from topoface.training.distributed import process_group
from topoface.training.run import build_run
from topoface.training.update import optimizer_step


def main(recipe: str, folder: str) -> None:
    device = torch.device("cpu")
    with process_group(device):
        run = build_run(load_recipe(recipe), device)
        if rank() == world_size() - 1:

            def broken(_module: Any, _inputs: Any, stats: Any) -> Any:
                return replace(stats, loss=stats.loss * torch.nan)

            run.head.register_forward_hook(broken)
        batches = run.loader.batches(0, 1)
        try:
            optimizer_step(run, batches, Path(folder))
        except UserError as error:
            Path(folder, f"said.{rank()}").write_text(str(error))
        batches.close()
