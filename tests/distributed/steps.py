"""A few optimizer steps in float64 on any number of processes.

With START and STOP only these steps are made, from the checkpoint that an earlier call left beside OUT.
"""

import json
from pathlib import Path

import torch
from torch import nn

from topoface.functional.collectives import mean_over_ranks, rank
from topoface.functional.placement import whole
from topoface.recipe.files import load_recipe
from topoface.training import run as run_room
from topoface.training.distributed import process_group, replicate
from topoface.training.loop import _log_values
from topoface.training.saving import Saver
from topoface.training.state import restore
from topoface.training.update import optimizer_step


def double_replicate(module: nn.Module, device: torch.device) -> nn.Module:
    return replicate(module.double(), device)


def main(recipe_path: str, out: str, start: str = "0", stop: str = "") -> None:
    device = torch.device("cpu")
    run_room.replicate = double_replicate  # before the gradients' buckets are laid out
    with process_group(device):
        run = run_room.build_run(load_recipe(recipe_path), device)
        run.methods.double()
        run.model.train()
        saver = Saver(Path(out).parent / "checkpoints", keep_last=1)
        if int(start):
            checkpoint = saver.newest(print)
            assert checkpoint is not None
            restore(run, checkpoint)
            assert run.step == int(start)
        last = int(stop) if stop else run.total_steps
        batches = run.loader.batches(run.step, last)
        lines, logs = [], []
        while run.step < last:
            update = optimizer_step(run, batches, Path(out).parent)
            run.step += 1
            terms = mean_over_ranks(torch.stack(list(update.terms.values())))
            norms = torch.stack(list(update.norms.values()))
            lines.append([*terms.tolist(), *norms.tolist()])
            log = _log_values(run, update, 0.0)
            logs.append({name: value for name, value in log.items() if not isinstance(value, list)})
        batches.close()
        saver.save(run)
        saver.wait()
        parameters = [whole(p.detach()) for p in (*run.model.parameters(), *run.head.parameters())]
        if rank() == 0:
            weights = torch.cat([p.flatten() for p in parameters])
            Path(out).write_text(json.dumps({"lines": lines, "logs": logs, "weights": weights.tolist()}))
