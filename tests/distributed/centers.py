"""JLCC's memory on fixture G, cut over any number of processes.

Three updates, then every figure, loss and gradient of a step, for several settings; all of it gathered and written by rank 0.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tests.facts import run_facts
from tests.oracles.centers import class_weights, fixture
from topoface.data.batch import Batch
from topoface.functional.collectives import gather_rows, mean_over_ranks, rank, world_size
from topoface.functional.directions import unit_rows
from topoface.functional.draws import SampleDraws
from topoface.functional.placement import cut, held, own_classes, whole
from topoface.heads.head import ClassStatistics
from topoface.methods.jlcc import JLCC
from topoface.methods.jlcc_settings import Aligning, ClusterMargin, Contrast
from topoface.methods.method import StepState
from topoface.training.distributed import process_group

SETTINGS: dict[str, dict[str, Any]] = {
    "ours": {},
    "nce, posterior, both": {
        "margin": ClusterMargin(hard="posterior", level="both"),
        "align": Aligning(form="nce"),
    },
    "zscore, class, batch": {
        "margin": ClusterMargin(hard="zscore", level="class", direction="hard"),
        "contrast": Contrast(source="batch"),
    },
    "guard, aged, copy": {"guard": True, "max_age": 1.0, "align": Aligning(form="copy", weight=0.5)},
    "bcubed, every center sampled": {
        "margin": ClusterMargin(hard="bcubed"),
        "contrast": Contrast(scope="sampled", share=1.0),
    },
}
ROWS = torch.tensor(fixture(30, 6))
LABELS = torch.tensor([(3 * i // 2) % 11 for i in range(30)])


def one_step(method: JLCC, step: int, rows: Tensor, centers: nn.Parameter) -> dict[str, Tensor]:
    """A step on this rank's part of the rows; ``centers`` hold all classes or this rank's."""
    n = len(rows) // world_size()
    mine = slice(rank() * n, (rank() + 1) * n)
    x = rows[mine].clone().requires_grad_()
    batch = Batch(
        images=torch.zeros(n, 3, 112, 112, dtype=torch.uint8),
        labels=LABELS[mine],
        indices=torch.arange(30)[mine],
        draws=SampleDraws(seed=0, step=step, global_size=len(rows), start=mine.start, stop=mine.stop),
    )
    shift = method.margin_shift(x, batch)
    none = torch.zeros(n, dtype=x.dtype)
    stats = ClassStatistics(
        loss=none, target_log_probability=none, entropy=none, target_cosine=none, class_centers=centers
    )
    state = StepState(batch=batch, embeddings=x, stats=stats, class_loss=none.mean(), step=step)
    terms = dict(method.penalties(state))
    total = sum(terms.values(), 0 * x.sum() + 0 * centers.sum())
    assert isinstance(total, Tensor)
    total.backward()
    assert x.grad is not None
    assert centers.grad is not None
    seen = {name: mean_over_ranks(term.detach()) for name, term in terms.items()}
    if shift is not None:
        seen["shift"] = gather_rows(shift)
    view = method._views[mine.start]
    seen |= {name: getattr(view, name) for name in ("own", "other", "nearest", "level")}
    seen["by rows"] = gather_rows(x.grad) / world_size()
    if len(centers) == len(centers.grad) == method.facts.num_classes:
        seen["by centers"] = mean_over_ranks(centers.grad)
    else:  # as a sharded head does it
        seen["by centers"] = whole(padded(centers.grad / world_size(), method.facts.num_classes))
    centers.grad = None
    with torch.no_grad():
        method.update([replace(state)])
    return seen


def padded(rows: Tensor, classes: int) -> Tensor:
    """This rank's rows as a part of the whole table."""
    table = cut(torch.zeros(classes, rows.shape[1], dtype=rows.dtype))
    held(table).copy_(rows)
    return table


def main(out: str, classes: str, sharded: str) -> None:
    results: dict[str, Any] = {}
    count = int(classes)
    with process_group(torch.device("cpu")):
        for name, settings in SETTINGS.items():
            facts = run_facts(num_classes=count, embedding_dim=6, steps_per_epoch=2.0)
            method = JLCC(facts, beta=0.5, start_epochs=1.0, ramp_epochs=0.0, **settings).double()
            own = own_classes(count)
            table = torch.tensor(class_weights(count, 6))
            centers = nn.Parameter(table[own.start : own.stop] if sharded == "sharded" else table)
            for step in range(3):
                one_step(method, step, ROWS.roll(step, 0), centers)
            found = one_step(method, 3, ROWS, centers)
            logged = {key: torch.as_tensor(value) for key, value in method.log_values().items()}
            kept = {key: whole(value).clone() for key, value in method.state_dict().items()}
            held_by_head = centers.detach()
            all_centers = held_by_head if len(held_by_head) == count else whole(padded(held_by_head, count))
            results[name] = {"step": found, "state": kept, "log": logged, "centers": all_centers}
        if rank() == 0:
            results["unit"] = unit_rows(ROWS)
            torch.save(results, out)
