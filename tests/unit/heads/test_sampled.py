"""Partial FC: who takes part, the softmax over them, and centers that are caught up so that nothing of dense SGD is lost."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.utils._python_dispatch import TorchDispatchMode

from tests.oracles import identity_codes as oracle
from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional import blocked_softmax
from topoface.functional.blocked_softmax import DrawnRows
from topoface.functional.draws import SampleDraws
from topoface.heads import AdaFace, ArcFace, CosFace, PartialFC, own_sgd
from topoface.heads.head import StatisticsRequest
from topoface.recipe import Component, OptimizerConfig
from topoface.recipe.components import build

C, D = 20, 8
LABELS = torch.tensor([3, 17, 3, 0])
Z = oracle.fixture(4, D)
BATCH = Batch(
    images=torch.zeros(4, 3, 112, 112, dtype=torch.uint8),
    labels=LABELS,
    indices=torch.arange(4),
    draws=SampleDraws(seed=0, step=5, global_size=4, start=0, stop=4),
)


def head_of(rate: float, **arguments: Any) -> PartialFC:
    return PartialFC(D, C, rate=rate, scale=10.0, margin=0.2, **arguments).double()


def at_step(step: int) -> Batch:
    return replace(BATCH, draws=replace(BATCH.draws, step=step))


def taking_part(head: PartialFC, batch: Batch) -> list[int]:
    """The classes whose centers get a gradient."""
    head.begin_step(0.0)
    stats = head(Z, LABELS, extras=head.prepare(batch))
    assert stats.class_centers is not None
    (gradient,) = torch.autograd.grad(stats.loss.sum(), head.sgd._taken[0][1])  # type: ignore[union-attr]
    chosen = head.sgd._taken[0][0]  # type: ignore[union-attr]
    assert (gradient.abs().sum(1) > 0).all()
    return chosen.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_classes_of_the_batch_always_take_part(rate: float) -> None:
    head = head_of(rate)
    chosen = taking_part(head, BATCH)
    assert set(LABELS.tolist()) <= set(chosen)
    assert chosen == sorted(set(chosen))
    assert chosen == taking_part(head, BATCH)
    assert rate < 0.3 or chosen != taking_part(head, at_step(6))


def test_loss_is_that_of_a_softmax_over_the_chosen() -> None:
    head = head_of(0.3)
    chosen = taking_part(head, BATCH)
    stats = head(Z, LABELS, extras=head.prepare(BATCH))
    for i, label in enumerate(LABELS.tolist()):
        slow = oracle.centers_loss(Z[i], head.weight.detach()[chosen], chosen.index(label), 10.0, 0.2)
        assert stats.loss[i].item() == pytest.approx(slow, abs=1e-12)


def test_a_rate_of_one_and_a_batch_without_draws_are_the_dense_head() -> None:
    dense = CosFace(D, C, scale=10.0, margin=0.2).double()
    head = head_of(1.0)
    for stats in (head(Z, LABELS, extras=head.prepare(BATCH)), head_of(0.1)(Z, LABELS)):
        torch.testing.assert_close(stats.loss, dense(Z, LABELS).loss, rtol=0, atol=1e-13)
        torch.testing.assert_close(stats.entropy, dense(Z, LABELS).entropy, rtol=0, atol=1e-13)


def test_negatives_are_drawn_alike_and_as_many_as_asked_for() -> None:
    head, steps = head_of(0.5), 1000
    counts = torch.zeros(C)
    for step in range(steps):
        counts[taking_part(head, at_step(step))] += 1
    others = torch.ones(C, dtype=torch.bool)
    others[LABELS] = False
    assert counts[~others].tolist() == [steps] * 3
    # 10 of 20 take part on average, 3 of which are those of the batch
    assert (counts[others] / steps - 7 / 17).abs().max() < 0.07


@pytest.mark.parametrize("log_epsilon", [0.0, 1e-3])
def test_every_statistic_and_gradient_is_that_of_a_head_of_the_chosen_alone(log_epsilon: float) -> None:
    """Blocks are read from the table; the released entropy, which copies them, too."""
    head = head_of(0.3)
    chosen = torch.tensor(taking_part(head, BATCH))
    few = CosFace(D, len(chosen), scale=10.0, margin=0.2).double()
    few.weight.data = head.weight.detach()[chosen]
    request = StatisticsRequest(differentiable=True, log_epsilon=log_epsilon)
    z, other = Z.clone().requires_grad_(), Z.clone().requires_grad_()
    head.begin_step(0.0)
    got = head(z, LABELS, request=request, extras=head.prepare(BATCH))
    expected = few(other, torch.searchsorted(chosen, LABELS), request=request)
    weights = torch.arange(1.0, 5.0, dtype=torch.float64)
    assert head.sgd is not None
    found = torch.autograd.grad(
        (weights * (got.loss + got.entropy)).sum(), (z, head.sgd._taken[0][1]), retain_graph=True
    )
    right = torch.autograd.grad((weights * (expected.loss + expected.entropy)).sum(), (other, few.weight))
    torch.testing.assert_close(got.entropy, expected.entropy, rtol=0, atol=1e-12)
    for mine, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


def test_a_step_copies_no_more_than_a_block_of_the_rows_that_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied: list[int] = []
    rows_of = DrawnRows.rows

    def rows(self: DrawnRows, which: Any, out: Tensor | None = None) -> Tensor:
        found = rows_of(self, which, out)
        copied.append(len(found))
        return found

    monkeypatch.setattr(DrawnRows, "rows", rows)
    monkeypatch.setattr(blocked_softmax, "_ELEMENTS", {"cpu": 2})  # blocks of 256 classes
    head = PartialFC(64, 4000, rate=0.5)
    head.begin_step(0.1)
    labels = torch.tensor([5, 7])
    batch = replace(BATCH, images=BATCH.images[:2], labels=labels, indices=torch.arange(2))
    with AllocatedSizes() as sizes:
        head(torch.randn(2, 64), labels, extras=head.prepare(batch)).loss.mean().backward()
    assert head.sgd is not None
    ((chosen, stand_in),) = head.sgd._taken
    assert stand_in.untyped_storage().nbytes() == 4
    assert sum(copied) == 2 * len(chosen) + 2  # forward, backward, and the own classes
    assert max(copied) == 256
    # the gradient alone is of all rows
    assert sum(size >= 64 * len(chosen) for size in sizes.found) == 1


class AllocatedSizes(TorchDispatchMode):
    """Numbers in each storage that an operation makes. None is kept: autograd copies gradients that others hold."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, Tensor)]
        given = {a.untyped_storage().data_ptr() for a in tensors}
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.found.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(UserError, match=r"head\.init_args\.rate"):
        build(Component(class_path="PartialFC", init_args={"rate": rate}), "head", D, C, seed=0)


# --- centers that move themselves --------------------------------------------------------------------------

SETTINGS = {"momentum": 0.9, "weight_decay": 0.01}


def data_of(step: int) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(step)
    return torch.from_numpy(random.normal(size=(4, D))), torch.from_numpy(random.integers(0, C, 4))


def train(head: Any, steps: range) -> list[Tensor]:
    """Embeddings' gradients of each step; the rate falls from step to step, as a schedule makes it."""
    gradients = []
    for step in steps:
        x, labels = data_of(step)
        batch = replace(at_step(step), labels=labels)
        head.begin_step(0.3 * (1 - step / 2000))
        x.requires_grad_()
        head(x, labels, extras=head.prepare(batch)).loss.mean().backward()
        head.end_step()
        assert x.grad is not None
        gradients.append(x.grad)
    return gradients


def dense_sgd(start: Tensor, head: PartialFC, steps: range, nesterov: bool) -> tuple[list[Tensor], Tensor]:
    """The same softmaxes over the same classes, written out, with torch's dense SGD over all rows."""
    weight = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([weight], nesterov=nesterov, **SETTINGS)  # type: ignore[arg-type]
    gradients = []
    for step in steps:
        x, labels = data_of(step)
        drawn = head.prepare(replace(at_step(step), labels=labels))
        present = labels.unique()
        share = (head.rate * C - len(present)) / (C - len(present))
        chosen = torch.cat([drawn["drawn_classes"][drawn["drawn_numbers"] < share], present]).unique()
        x.requires_grad_()
        logits = 10 * normalize(x) @ normalize(weight[chosen]).T
        place = torch.searchsorted(chosen, labels)
        margins = torch.zeros_like(logits).scatter_(1, place[:, None], 2.0)
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 2000)
        optimizer.zero_grad()
        cross_entropy(logits - margins, place).backward()
        optimizer.step()
        assert x.grad is not None
        gradients.append(x.grad)
    return gradients, weight.detach()


@pytest.mark.parametrize("nesterov", [False, True])
def test_sampling_with_rows_caught_up_is_dense_sgd(nesterov: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the window in which rows may lag ends, several times over."""
    monkeypatch.setattr(own_sgd, "WINDOW", 37)
    head = head_of(0.3)
    start = head.weight.detach().clone()
    head.adopt(OptimizerConfig(nesterov=nesterov, **SETTINGS), 1)
    gradients = train(head, range(100))
    assert len(head.sgd._factors) < 37  # type: ignore[union-attr]
    expected, weight = dense_sgd(start, head, range(100), nesterov)
    for mine, dense in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, dense, rtol=0, atol=1e-12)
    assert (head.weight - weight).abs().max() > 1e-6  # some rows lag
    torch.testing.assert_close(head.class_centers(), weight, rtol=0, atol=1e-12)


def test_rows_that_are_untouched_stay_as_they_are() -> None:
    head = head_of(0.3, unsampled="untouched")
    head.adopt(OptimizerConfig(**SETTINGS), 1)
    before = head.weight.detach().clone()
    head.begin_step(0.1)
    head(Z, LABELS, extras=head.prepare(BATCH)).loss.mean().backward()
    chosen = head.sgd._taken[0][0]  # type: ignore[union-attr]
    head.end_step()
    moved = (head.weight != before).any(1).nonzero()[:, 0]
    assert moved.tolist() == chosen.tolist()
    torch.testing.assert_close(head.class_centers(), head.weight.detach(), rtol=0, atol=0)


def test_a_resume_goes_on_bit_for_bit_with_rows_that_lag() -> None:
    def fresh() -> PartialFC:
        head = PartialFC(D, C, rate=0.3, scale=10.0, margin=0.2)
        head.adopt(OptimizerConfig(**SETTINGS), 1)
        return head

    whole, first, second = fresh(), fresh(), fresh()
    x = train(whole.double(), range(60))
    train(first.double(), range(33))
    second.double().load_state_dict(first.state_dict())
    y = train(second, range(33, 60))
    assert all(torch.equal(a, b) for a, b in zip(x[33:], y, strict=True))
    assert torch.equal(whole.weight, second.weight)


def test_rows_that_lag_are_caught_up_by_the_steps_as_they_were_whatever_the_recipe_says_now() -> None:
    def fresh(**settings: float) -> PartialFC:
        head = head_of(0.3)
        head.adopt(OptimizerConfig(**settings), 1)
        return head

    first, other = fresh(**SETTINGS), fresh(momentum=0.0, weight_decay=0.1)
    train(first, range(30))
    other.load_state_dict(first.state_dict())
    torch.testing.assert_close(other.class_centers(), first.class_centers(), rtol=0, atol=0)


def test_fused_centers_hold_still_while_others_ask_for_gradients() -> None:
    head = CosFace(D, C, fused=True).double()
    head.adopt(OptimizerConfig(**SETTINGS), 1)
    head.begin_step(0.1)
    before = head.weight.detach().clone()
    x = Z.clone().requires_grad_()
    with head.held_still():
        loss = head(x, LABELS).loss.mean()
        (asked,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.equal(head.weight, before)
    loss.backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, asked, rtol=0, atol=1e-14)
    assert not torch.equal(head.weight, before)


def test_micro_batches_move_each_row_once_by_their_sum() -> None:
    def moved(*parts: slice) -> tuple[Tensor, Tensor]:
        head = head_of(0.5)
        head.adopt(OptimizerConfig(**SETTINGS), 1)
        head.begin_step(0.1)
        everyone = {"drawn_classes": torch.arange(C), "drawn_numbers": torch.zeros(C, dtype=torch.float64)}
        for part in parts:
            (head(Z[part], LABELS[part], extras=everyone).loss.sum() / 4).backward()
        norm = head.own_gradient_norm()
        assert norm is not None
        head.end_step()
        return head.weight.detach(), norm

    for one, other in zip(moved(slice(0, 2), slice(2, 4)), moved(slice(0, 4)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", [CosFace, ArcFace, AdaFace])
@pytest.mark.parametrize("nesterov", [False, True])
def test_fused_centers_move_as_torch_would_move_them(kind: Any, nesterov: bool) -> None:
    config = OptimizerConfig(nesterov=nesterov, **SETTINGS)
    fused = kind(D, C, scale=10.0, fused=True).double()
    plain = kind(D, C, scale=10.0).double()
    fused.adopt(config, 1)
    assert not [p for p in fused.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(plain.parameters(), nesterov=nesterov, **SETTINGS)  # type: ignore[arg-type]
    for step in range(20):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 2000)
        optimizer.zero_grad()
        (mine,) = train(fused, range(step, step + 1))
        x, labels = data_of(step)
        plain(x.requires_grad_(), labels).loss.mean().backward()
        optimizer.step()
        torch.testing.assert_close(mine, x.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(fused.weight.detach(), plain.weight.detach(), rtol=0, atol=1e-12)
    x, labels = data_of(99)
    before = fused.weight.detach().clone()
    with torch.no_grad():  # judging moves nothing
        torch.testing.assert_close(fused(x, labels).loss, plain(x, labels).loss, rtol=0, atol=1e-12)
    assert torch.equal(fused.weight.detach(), before)


@pytest.mark.parametrize(
    ("arguments", "optimizer", "accumulation", "where"),
    [
        ({"rate": 0.5}, {"name": "adamw"}, 1, "optimizer.name"),
        ({"rate": 0.5}, {"clip_head": True}, 1, "optimizer.clip_head"),
        ({"fused": True, "rate": 1.0}, {"clip_head": True}, 1, "optimizer.clip_head"),
        ({"fused": True, "rate": 1.0}, {}, 2, "training.accumulation"),
    ],
)
def test_what_such_centers_cannot_follow_is_refused(
    arguments: dict[str, Any], optimizer: dict[str, Any], accumulation: int, where: str
) -> None:
    head = PartialFC(D, C, **arguments)
    with pytest.raises(UserError, match=where):
        head.adopt(OptimizerConfig(**optimizer), accumulation)
    with pytest.raises(UserError, match="fused"):
        PartialFC(D, C, rate=0.5, fused=True)


@pytest.mark.parametrize(
    "arguments", [{"rate": 0.5}, {"rate": 0.5, "unsampled": "untouched"}, {"rate": 1.0, "fused": True}]
)
def test_loops_and_tensors_move_alike(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> Tensor:
        head = head_of(**arguments)
        head.adopt(OptimizerConfig(**SETTINGS), 1)
        train(head, range(12))
        return head.class_centers()

    with_loops = trained()
    monkeypatch.setattr("topoface.functional.center_sgd.compiled", lambda *_, **__: None)
    torch.testing.assert_close(trained(), with_loops, rtol=0, atol=1e-13)
