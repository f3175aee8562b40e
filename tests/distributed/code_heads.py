"""Code heads on several processes beside the same heads on one."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.code_tables import named_source
from topoface.data.batch import Batch
from topoface.functional.collectives import rank, world_size
from topoface.functional.draws import SampleDraws
from topoface.heads import Composed, IdentityCode
from topoface.training.distributed import average_gradients, process_group

B, D, C = 12, 16, 40
HEADS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (IdentityCode, {"token_weight": 1.0, "projection": "mlp", "prefix_conditioned": True}),
    (Composed, {"negatives": None}),
    (Composed, {"negatives": 7, "neighbours": 3}),
    (Composed, {"negatives": 0, "centers": "books"}),
    (Composed, {"negatives": 7, "centers": "frozen"}),
]


def results(head: Any, rows: torch.Tensor) -> list[torch.Tensor]:
    """Losses, entropies and gradients of these rows of a global batch."""
    random = torch.Generator().manual_seed(5)
    z = torch.randn(B, D, dtype=torch.float64, generator=random)[rows].requires_grad_()
    labels = torch.randint(C, (B,), generator=random)[rows]
    # UNPG's mass as it comes: on several processes a share of each
    extra = torch.randn(B, dtype=torch.float64, generator=random)[rows].logsumexp(0)
    batch = Batch(
        images=torch.empty(0),
        labels=labels,
        indices=rows,
        draws=SampleDraws(seed=0, step=3, global_size=B, start=int(rows[0]), stop=int(rows[-1]) + 1),
    )
    head.zero_grad()
    stats = head(z, labels, extra=extra, extras=head.prepare(batch))
    stats.loss.mean().backward()
    average_gradients(list(head.parameters()))
    assert z.grad is not None
    return [stats.loss.detach(), stats.entropy, z.grad, *(p.grad for p in head.parameters())]


def main(table: str, out: str) -> None:
    heads = []
    for kind, settings in HEADS:
        head = kind(D, C, table=table, **settings).double()
        head.connect(named_source(C))
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        heads.append(head)
    whole = [results(head, torch.arange(B)) for head in heads]  # no process knows of others yet
    with process_group(torch.device("cpu")):
        here = torch.arange(B).chunk(world_size())[rank()]
        worst = []
        for head, (losses, entropies, gradient, *parameters) in zip(heads, whole, strict=True):
            got = results(head, here)
            # the mean over fewer rows, averaged over the processes
            expected = [losses[here], entropies[here], gradient[here] * world_size(), *parameters]
            pairs = zip(got, expected, strict=True)
            worst.append(max(float((one - other).abs().max()) for one, other in pairs))
        Path(f"{out}.{rank()}").write_text(json.dumps(worst))
