"""The toy of unpg.md, section 12, and of jlcc.md, section 15: identities as vectors, a small network, an open-set task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tests.facts import run_facts
from topoface.data.batch import Batch
from topoface.functional.draws import SampleDraws
from topoface.heads import ArcFace
from topoface.methods.method import Method, RunFacts, StepState
from topoface.training.step import Hooks, forward_step

SCALE, BATCH = 32.0, 256


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Toy:
    """Samples ``x`` ``[m, 128]`` of identities ``who``, true positions ``z`` of the identities; then those of strangers."""

    x: Tensor
    who: np.ndarray
    z: np.ndarray
    strangers: Tensor
    stranger: np.ndarray


def draw(*, families: int, images: int, identities: int = 400, others: int = 200, seed: int = 0) -> Toy:
    """The first ``identities`` are for training."""
    rng = np.random.default_rng(seed)
    family = unit(rng.normal(size=(families, 16)))
    people = identities + others
    f = family[rng.integers(0, families, people)]
    z = unit(f + 0.9 * rng.normal(size=(people, 16)) / 4)
    first, second = 0.45 * rng.normal(size=(24, 128)), 1.2 * rng.normal(size=(128, 128)) / np.sqrt(128)
    who = np.repeat(np.arange(people), images)
    n = rng.normal(size=(len(who), 8))
    quality = rng.uniform(0.2, 1, (len(who), 1))
    x = np.tanh(np.tanh(np.concatenate([2 * z[who], n], 1) @ first) @ second)
    x = torch.from_numpy(x + 0.35 * quality * rng.normal(size=x.shape)).float()
    known = who < identities
    return Toy(x=x[known], who=who[known], z=z[:identities], strangers=x[~known], stranger=who[~known])


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(128, 256), nn.BatchNorm1d(256), nn.PReLU(),
            nn.Linear(256, 256), nn.BatchNorm1d(256), nn.PReLU(),
            nn.Linear(256, 64), nn.BatchNorm1d(64),
        )  # fmt: skip


def facts(samples: int, identities: int) -> RunFacts:
    from dataclasses import replace

    plain = run_facts(num_classes=identities, embedding_dim=64, steps_per_epoch=samples / BATCH)
    return replace(plain, num_images=samples, logit_scale=SCALE, margin_room=0.3)


def train(
    toy: Toy,
    labels: np.ndarray,
    methods: Sequence[Method],
    *,
    steps: int,
    schedule: int,
    look: Callable[[int, StepState], None] | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """ArcFace (s 32, m .3), SGD with one cycle over ``schedule`` steps; stops after ``steps``. ``look`` sees each step before updates."""
    net, head = network(seed), ArcFace(64, int(labels.max()) + 1, scale=SCALE, margin=0.3)
    head.weight.data.copy_(0.1 * torch.from_numpy(np.random.default_rng(seed).normal(size=head.weight.shape)))
    parameters = [*net.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=schedule, pct_start=0.1, cycle_momentum=False
    )
    hooks = Hooks.of(nn.ModuleList(methods))
    rng = np.random.default_rng(seed + 1)
    order = np.zeros(0, dtype=np.int64)
    for step in range(steps):
        if len(order) < BATCH:
            order = np.concatenate([order, rng.permutation(len(labels))])
        chosen, order = torch.from_numpy(order[:BATCH]), order[BATCH:]
        batch = Batch(
            images=toy.x[chosen],
            labels=torch.from_numpy(labels)[chosen],
            indices=chosen,
            draws=SampleDraws(seed=seed, step=step, global_size=BATCH, start=0, stop=BATCH),
        )
        output = forward_step(net, head, hooks, batch)
        optimizer.zero_grad()
        output.total.backward()
        optimizer.step()
        cycle.step()
        if look is not None:
            look(step, output.state)
        with torch.no_grad():
            for method in hooks.update:
                method.update([output.state])
    return net.eval()
