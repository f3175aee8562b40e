"""The most bytes of tensors that one optimizer step of a recipe has alive on this process."""

from pathlib import Path

import torch
from torch import Tensor

from topoface.functional.collectives import rank
from topoface.planning.watch import Watch, storage_of
from topoface.recipe import Recipe
from topoface.recipe.files import load_recipe
from topoface.training.distributed import process_group
from topoface.training.run import build_run
from topoface.training.update import optimizer_step


def here(tensor: Tensor) -> Tensor:
    """The part of a table over several processes that lies on this one."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


class LocalWatch(Watch):
    """Counts of tables that are cut the part that lies here."""

    def _follow(self, tensor: Tensor) -> None:
        super()._follow(here(tensor))


def peak_of_step(recipe: Recipe, folder: Path) -> int:
    """Bytes at the peak of the third step, beside what is there between steps."""
    run = build_run(recipe, torch.device("cpu"))
    run.model.train()
    batches = run.loader.batches(0, 3)
    for _ in range(2):  # in the second DDP agrees on new buckets
        optimizer_step(run, batches, folder)
        run.step += 1
    run.optimizer.zero_grad()
    state = [t for each in run.optimizer.state.values() for t in each.values() if isinstance(t, Tensor)]
    stays = [*state, *(t for m in (run.model, run.head) for t in (*m.parameters(), *m.buffers()))]
    with LocalWatch({storage_of(here(t)) for t in stays}) as watch:
        optimizer_step(run, batches, folder)
    batches.close()
    return watch.peak


def main(recipe_path: str, out: str) -> None:
    with process_group(torch.device("cpu")):
        peak = peak_of_step(load_recipe(recipe_path), Path(out).parent)
        if rank() == 0:
            Path(out).write_text(str(peak))
