"""Every head with its class centers cut over the processes, beside the same head that has them all."""

import itertools
import json
from pathlib import Path
from typing import Any

import torch

from topoface.data.batch import Batch
from topoface.functional.collectives import gather_for_all, rank, world_size
from topoface.functional.directions import unit_rows
from topoface.functional.draws import SampleDraws
from topoface.functional.negatives import PairBatch, pair_log_mass, whisker_bounds
from topoface.functional.placement import held, is_cut, own_classes, whole
from topoface.heads import AdaFace, ArcFace, CombinedMargin, CosFace, MagFace, Softmax, StatisticsRequest
from topoface.training.distributed import process_group

HEADS: list[tuple[type[Softmax], dict[str, Any]]] = [
    (Softmax, {}),
    (ArcFace, {}),
    (ArcFace, {"margin_gradient": "straight"}),
    (CosFace, {}),
    (CombinedMargin, {}),
    (MagFace, {"least_norm": 1.0, "greatest_norm": 9.0}),
    (AdaFace, {}),
    (CosFace, {"filter_above": 0.3}),
    # these move their class centers themselves
    (CosFace, {"rate": 0.4}),
    (ArcFace, {"fused": True}),
]
CLASSES = [31, 7, 2]  # ragged; fewer than rows; on three processes one without any
REQUESTS = [
    StatisticsRequest(),
    StatisticsRequest(differentiable=True),
    StatisticsRequest(margin=False, differentiable=True, log_epsilon=1e-5),
]
CASES = list(itertools.product(range(len(HEADS)), CLASSES))
B, D = 24, 8


def build(kind: type[Softmax], arguments: dict[str, Any], classes: int) -> Softmax:
    """Cut over the processes if there are any yet."""
    return kind(D, classes, seed=3, scale=16.0, **arguments).double()


def virtual_class(x: torch.Tensor, labels: torch.Tensor, here: torch.Tensor) -> torch.Tensor:
    """UNPG's log-mass with its filter: of all rows, for each row; or this process's share of it."""
    rows, alone = unit_rows(x), len(here) == B
    columns = rows if alone else gather_for_all(rows)
    pairs = PairBatch(rows=rows, columns=columns, row_labels=labels[here], column_labels=labels)
    mass = pair_log_mass(pairs, *whisker_bounds(pairs, 1.5), 16.0)
    return mass.expand(B) if alone else mass


def differences(dense: Softmax, sharded: Softmax, request: StatisticsRequest, *, virtual: bool) -> float:
    """Largest difference of loss, statistics, gradients and moved centers between the two; relative to what is above 1."""
    classes = dense.num_classes
    random = torch.Generator().manual_seed(5)
    embeddings = 2 * torch.randn(B, D, dtype=torch.float64, generator=random)
    labels = torch.randint(classes, (B,), generator=random)
    shift = 0.05 * torch.rand(B, dtype=torch.float64, generator=random)
    extra = torch.randn(B, dtype=torch.float64, generator=random)
    weight = torch.rand(B, dtype=torch.float64, generator=random)
    here = torch.arange(B).chunk(world_size())[rank()]

    def run(head: Softmax, rows: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        if isinstance(head, AdaFace):  # what its running figures should be is another question
            head.eval().norm_statistics.copy_(torch.tensor([5.0, 1.0]))
        x = embeddings[rows].clone().requires_grad_()
        mass = virtual_class(x, labels, rows) if virtual else extra[rows]
        draws = SampleDraws(seed=1, step=2, global_size=B, start=int(rows[0]), stop=int(rows[-1]) + 1)
        batch = Batch(images=x.detach(), labels=labels[rows], indices=rows, draws=draws)
        head.begin_step(0.1)
        stats = head(x, labels[rows], shift[rows], mass, request, head.prepare(batch))
        total = (weight[rows] * stats.loss).mean()
        if request.differentiable:
            total = total + (stats.entropy * stats.target_log_probability).mean()
        if stats.regulariser is not None:
            total = total + stats.regulariser
        total.backward()
        head.end_step()
        assert x.grad is not None
        return [stats.loss, stats.target_log_probability, stats.entropy, stats.target_cosine], x.grad

    dense.zero_grad()
    sharded.zero_grad()
    expected, dense_grad = run(dense, torch.arange(B))
    got, grad = run(sharded, here)
    mine = own_classes(classes)
    assert not is_cut(dense.weight)
    assert held(sharded.weight).shape == (len(mine), D)
    pairs = [
        *((one, all_of_them[here]) for one, all_of_them in zip(got, expected, strict=True)),
        # averaging over the processes is what DDP does to the backbone's gradient
        (grad / world_size(), dense_grad[here]),
        (sharded.class_centers(), dense.class_centers()[mine.start : mine.stop]),
        (whole(sharded.weight.detach()), dense.weight.detach()),
    ]
    if dense.sgd is None:
        assert dense.weight.grad is not None
        assert sharded.weight.grad is not None
        pairs.append((held(sharded.weight.grad), dense.weight.grad[mine.start : mine.stop]))
    for one, other in pairs:
        assert one.shape == other.shape
        assert one.isfinite().all()
    return max(
        float((one - other).detach().abs().max() / other.detach().abs().max().clamp(min=1))
        for one, other in pairs
        if one.numel()
    )


def main(out: str) -> None:
    dense = {case: build(*HEADS[case[0]], case[1]) for case in CASES}  # no process knows of others yet
    with process_group(torch.device("cpu")):
        sharded = {case: build(*HEADS[case[0]], case[1]) for case in CASES}
        worst = {
            f"{HEADS[case[0]]} {case[1]} classes {request} {virtual=}": differences(
                dense[case], sharded[case], request, virtual=virtual
            )
            for case in CASES
            for request, virtual in (*zip(REQUESTS, [False] * 3, strict=True), (REQUESTS[0], True))
            if not (request.log_epsilon and HEADS[case[0]][1].get("fused"))  # refused
        }
        Path(out).with_suffix(f".{rank()}").write_text(json.dumps(worst))
