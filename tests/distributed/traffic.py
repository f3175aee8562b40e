"""What one training step sends, seen by torch itself."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from topoface.functional.collectives import rank
from topoface.recipe.files import load_recipe
from topoface.training.distributed import process_group
from topoface.training.run import build_run
from topoface.training.update import optimizer_step


class Collectives(TorchDispatchMode):
    """Bytes that this process hands to each kind of collective operation, DDP's own among them."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = defaultdict(int)
        self.calls: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        space, name = func.name().split(".")[0].split("::")
        if space == "c10d":
            handed = args[1] if name == "allgather_" else args[0]
            self.bytes[name] += sum(
                t.numel() * t.element_size() for t in tree_leaves(handed) if isinstance(t, Tensor)
            )
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


def main(recipe_path: str, out: str) -> None:
    device = torch.device("cpu")
    with process_group(device):
        run = build_run(load_recipe(recipe_path), device)
        run.model.train()
        batches = run.loader.batches(0, 3)
        for _ in range(2):  # in the second DDP agrees on new buckets
            optimizer_step(run, batches, Path(out).parent)
            run.step += 1
        with Collectives() as seen:
            optimizer_step(run, batches, Path(out).parent)
        batches.close()
        trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        if rank() == 0:
            found = {"bytes": seen.bytes, "calls": seen.calls, "trained": trained}
            Path(out).write_text(json.dumps(found))
