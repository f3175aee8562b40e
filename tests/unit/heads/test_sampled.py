"""Partial FC: who takes part, the softmax over them, and the dense head it is at a rate of 1."""

from dataclasses import replace

import pytest
import torch

from tests.oracles import identity_codes as oracle
from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional.draws import SampleDraws
from topoface.heads import CosFace, PartialFC
from topoface.recipe import Component
from topoface.recipe.components import build

LABELS = torch.tensor([3, 17, 3, 0])
Z = oracle.fixture(4, 8)
BATCH = Batch(
    images=torch.zeros(4, 3, 112, 112, dtype=torch.uint8),
    labels=LABELS,
    indices=torch.arange(4),
    draws=SampleDraws(seed=0, step=5, global_size=4, start=0, stop=4),
)


def head_of(rate: float) -> PartialFC:
    return PartialFC(8, 20, rate=rate, scale=10.0, margin=0.2).double()


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_classes_of_the_batch_always_take_part(rate: float) -> None:
    head = head_of(rate)
    chosen = head.prepare(BATCH)["chosen_classes"]
    assert set(LABELS.tolist()) <= set(chosen.tolist())
    assert len(set(chosen.tolist())) == len(chosen) == max(3, round(rate * 20))
    assert torch.equal(chosen, head.prepare(BATCH)["chosen_classes"])
    later = replace(BATCH, draws=replace(BATCH.draws, step=6))
    assert rate != 0.3 or not torch.equal(chosen, head.prepare(later)["chosen_classes"])


def test_loss_and_gradient_are_those_of_a_softmax_over_the_chosen() -> None:
    head = head_of(0.3)
    extras = head.prepare(BATCH)
    stats = head(Z, LABELS, extras=extras)
    weight = head.classes.weight
    chosen = extras["chosen_classes"].tolist()
    for i, label in enumerate(LABELS.tolist()):
        slow = oracle.centers_loss(Z[i], weight.detach()[chosen], chosen.index(label), 10.0, 0.2)
        assert stats.loss[i].item() == pytest.approx(slow, abs=1e-12)
    stats.loss.sum().backward()
    assert weight.grad is not None
    moved = set(weight.grad.abs().sum(1).nonzero()[:, 0].tolist())
    assert moved == set(chosen)
    assert stats.class_centers is weight


def test_a_rate_of_one_and_a_batch_without_draws_are_the_dense_head() -> None:
    dense = CosFace(8, 20, scale=10.0, margin=0.2).double()
    head = head_of(1.0)
    for stats in (head(Z, LABELS, extras=head.prepare(BATCH)), head_of(0.1)(Z, LABELS)):
        torch.testing.assert_close(stats.loss, dense(Z, LABELS).loss, rtol=0, atol=1e-13)
        torch.testing.assert_close(stats.entropy, dense(Z, LABELS).entropy, rtol=0, atol=1e-13)


def test_negatives_are_drawn_alike() -> None:
    head = head_of(0.5)
    counts = torch.zeros(20)
    for step in range(2000):
        counts[head.prepare(replace(BATCH, draws=replace(BATCH.draws, step=step)))["chosen_classes"]] += 1
    others = torch.ones(20, dtype=torch.bool)
    others[LABELS] = False
    assert counts[~others].tolist() == [2000] * 3
    assert (counts[others] / 2000 - 7 / 17).abs().max() < 0.05


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(UserError, match=r"head\.init_args\.rate"):
        build(Component(class_path="PartialFC", init_args={"rate": rate}), "head", 8, 20, seed=0)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topoface.heads.sampled.world_size", lambda: 2)
    with pytest.raises(UserError, match="one process only"):
        head_of(0.1)
