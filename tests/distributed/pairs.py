"""UNPG where a process has few pairs of its own, on any number of processes."""

import json
import math
from pathlib import Path

import torch

from tests.facts import run_facts
from topoface.data.batch import Batch
from topoface.functional.collectives import mean_over_ranks, rank, world_size
from topoface.functional.draws import SampleDraws
from topoface.heads.head import ClassStatistics
from topoface.methods.method import StepState
from topoface.methods.unpg import UNPG
from topoface.training.distributed import process_group

# eight embeddings about one direction and, on the last process, one that is opposite: the whisker drops all pairs of that one
ANGLES = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, math.pi + 0.3, 0.8], dtype=torch.float64)
COSINES = torch.linspace(-0.2, 0.9, 10, dtype=torch.float64) ** 2


def figures_of(method: UNPG) -> dict[str, float]:
    """What is logged after a step in which each image is of another person."""
    n = len(ANGLES) // world_size()
    mine = slice(rank() * n, (rank() + 1) * n)
    embeddings = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)[mine]
    batch = Batch(
        images=torch.zeros(n, 3, 112, 112, dtype=torch.uint8),
        labels=torch.arange(10)[mine],
        indices=torch.arange(10)[mine],
        draws=SampleDraws(seed=0, step=0, global_size=10, start=mine.start, stop=mine.stop),
    )
    method.negatives(embeddings, batch)
    none = torch.zeros(n, dtype=torch.float64)
    stats = ClassStatistics(loss=none, target_log_probability=none, entropy=none, target_cosine=COSINES[mine])
    method.update([StepState(batch=batch, embeddings=embeddings, stats=stats, class_loss=none[0], step=0)])
    return {name: mean_over_ranks(torch.as_tensor(v)).item() for name, v in method.log_values().items()}


def main(out: str) -> None:
    facts = run_facts(num_classes=10, embedding_dim=2)
    with process_group(torch.device("cpu")):
        rows = figures_of(UNPG(facts, scope="row"))
        method = UNPG(facts, filter="positive", quantile=0.3)
        figures_of(method)
        figures = {"rows": rows, "fence": method.genuine_fence.item()}
        Path(out).with_suffix(f".{rank()}").write_text(json.dumps(figures))
