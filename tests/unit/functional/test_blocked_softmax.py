"""The softmax by blocks against the whole one, written out; what is filtered, bfloat16, memory, and samples that are almost certain."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from topoface.functional import blocked_softmax
from topoface.functional.blocked_softmax import class_part, released_entropy_part
from topoface.functional.shards import ShardPart, join_shards
from topoface.functional.softmax import negative_log_likelihood

SCALE, n, D = 16.0, 7, 6


def whole(rows: Tensor, centers: Tensor, own: Tensor, filter_above: float | None) -> ShardPart:
    """Everything at once, by the definitions."""
    logits = SCALE * rows @ normalize(centers).T
    mine = torch.zeros_like(logits, dtype=torch.bool)
    for i, column in enumerate(own.tolist()):
        if column >= 0:
            mine[i, column] = True
    out = mine if filter_above is None else mine | (logits > SCALE * filter_above)
    rest = logits.masked_fill(out, -torch.inf)
    empty = out.all(1)
    log_p = rest.where(~empty[:, None], 0).log_softmax(1)
    entropy = -(log_p.exp() * log_p.where(~out, 0)).sum(1)
    mass = rest.where(~empty[:, None], 0).logsumexp(1)
    return ShardPart(
        log_mass=torch.where(empty, -torch.inf, mass),
        entropy=entropy.where(~empty, 0),
        own=(logits * mine).sum(1),
    )


def case(classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    rows = normalize(torch.randn(n, D, dtype=torch.float64, generator=random)).requires_grad_()
    centers = torch.randn(classes, D, dtype=torch.float64, generator=random).requires_grad_()
    return rows, centers, torch.randint(-1, classes, (n,), generator=random)


def finite(part: ShardPart) -> Tensor:
    mass = part.log_mass.where(part.log_mass > -torch.inf, 0)
    return torch.stack([part.own, mass, part.entropy])


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_softmax, "_block_size", lambda _: 11)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kept", [0, 3 * 11 * n, 2**25])
@pytest.mark.parametrize("classes", [1, 2, 11, 12, 100])
@pytest.mark.parametrize("filter_above", [None, 0.3, -0.99])
def test_parts_and_gradients_are_those_of_the_whole_softmax(
    classes: int, filter_above: float | None, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked_softmax, "_KEPT", {False: kept, True: 0})
    rows, centers, own = case(classes)
    weights = torch.randn(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    got = class_part(rows, centers, own, SCALE, filter_above=filter_above)
    slow = whole(rows, centers, own, filter_above)
    assert torch.equal(got.log_mass == -torch.inf, slow.log_mass == -torch.inf)
    torch.testing.assert_close(finite(got), finite(slow), rtol=0, atol=1e-12)
    mine = torch.autograd.grad((weights * finite(got)).sum(), (rows, centers))
    expected = torch.autograd.grad((weights * finite(slow)).sum(), (rows, centers))
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.usefixtures("small_blocks")
def test_an_entropy_that_nobody_differentiates_changes_nothing_else() -> None:
    rows, centers, own = case(40)
    part = class_part(rows, centers, own, SCALE, differentiable=False)
    assert not part.entropy.requires_grad
    gradient = torch.autograd.grad((part.own - part.log_mass).sum(), rows)[0]
    slow = whole(rows, centers, own, None)
    torch.testing.assert_close(gradient, torch.autograd.grad((slow.own - slow.log_mass).sum(), rows)[0])


@pytest.mark.usefixtures("small_blocks")
def test_no_classes_at_all_are_no_mass_and_still_connected() -> None:
    rows, _, own = case(3)
    centers = torch.zeros(0, D, dtype=torch.float64, requires_grad=True)
    part = class_part(rows, centers, torch.full_like(own, -1), SCALE)
    assert (part.log_mass == -torch.inf).all()
    part.own.sum().backward()
    assert rows.grad is not None
    assert rows.grad.abs().max() == 0
    assert centers.grad is not None
    released = released_entropy_part(rows, centers, torch.full_like(own, -1), SCALE, rows.sum(1), 1e-5)
    assert released.abs().max() == 0


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("filter_above", [None, 0.3])
def test_released_entropy_and_its_gradient_are_those_of_the_definition(filter_above: float | None) -> None:
    rows, centers, own = case(40)
    total = torch.full((n,), 18.0, dtype=torch.float64, requires_grad=True)
    got = released_entropy_part(rows, centers, own, SCALE, total, 1e-3, filter_above=filter_above)
    logits = SCALE * rows @ normalize(centers).T
    out = own[:, None] == torch.arange(40)
    if filter_above is not None:
        out = out | (logits > SCALE * filter_above)
    p = (logits - total[:, None]).exp().masked_fill(out, 0.0)
    slow = -(p * (p + 1e-3).log()).sum(1)
    torch.testing.assert_close(got, slow, rtol=0, atol=1e-12)
    inputs = (rows, centers, total)
    for one, other in zip(
        torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(slow.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(
            released_entropy_part(rows, centers, own, SCALE, total, 1e-3, filter_above=filter_above), got
        )


@pytest.mark.usefixtures("small_blocks")
def test_a_center_of_length_zero_makes_no_nan() -> None:
    rows, centers, own = case(30)
    with torch.no_grad():
        centers[5] = 0
    part = class_part(rows, centers, own, SCALE)
    gradient = torch.autograd.grad((part.log_mass + part.entropy).sum(), (rows, centers))
    assert all(g.isfinite().all() for g in gradient)


@pytest.mark.parametrize("lead", [0.3, 0.9])
def test_well_trained_rows_keep_their_digits_in_float32(lead: float) -> None:
    """Loss and gradients right to 1e-4 where plain float32 cross entropy is off by a quarter."""
    random = torch.Generator().manual_seed(2)
    exact_centers = torch.randn(3000, 64, dtype=torch.float64, generator=random)
    own = torch.arange(32)
    exact = normalize(normalize(exact_centers[:32]) + (1 - lead) / 8 * torch.randn(32, 64, generator=random))

    def loss_of(rows: Tensor, centers: Tensor) -> tuple[Tensor, ...]:
        rows, centers = rows.clone().requires_grad_(), centers.clone().requires_grad_()
        part = class_part(rows, centers, own, 64.0, differentiable=False)
        loss = negative_log_likelihood(part.own, part.log_mass)
        return loss.detach(), *torch.autograd.grad(loss.sum(), (rows, centers))

    low = exact.float(), exact_centers.float()
    reference = loss_of(low[0].double(), low[1].double())
    assert reference[0].median() < 1e-5
    for got, right in zip(loss_of(*low), reference, strict=True):
        assert ((got - right).norm() / right.norm()).item() < 1e-4


def test_bfloat16_products_stay_within_what_is_stated() -> None:
    random = torch.Generator().manual_seed(3)
    rows = normalize(torch.randn(64, 256, generator=random)).requires_grad_()
    centers = torch.randn(5000, 256, generator=random).requires_grad_()
    own = torch.randint(0, 5000, (64,), generator=random)

    def of(products: Any) -> tuple[Tensor, ...]:
        part = class_part(rows, centers, own, 32.0, differentiable=False, products=products)
        loss = negative_log_likelihood(part.own, part.log_mass)
        return loss, part.own, *torch.autograd.grad(loss.mean(), (rows, centers))

    for number, (low, right) in enumerate(zip(of("bfloat16"), of("float32"), strict=True)):
        error = ((low - right).norm() / right.norm()).item()
        assert error < (1e-3, 1e-6, 0.01, 0.01)[number]


@pytest.mark.usefixtures("small_blocks")
def test_the_sink_gets_every_gradient_once_and_may_move_the_centers() -> None:
    rows, centers, own = case(40)
    expected = torch.autograd.grad(class_part(rows, centers, own, SCALE).log_mass.sum(), centers)[0]
    table, seen = centers.detach().clone(), []

    def move(start: int, change: Tensor, inverse: Tensor) -> None:
        block = table[start : start + len(change)]
        unit = block * inverse[:, None]
        change -= (change * unit).sum(1, keepdim=True) * unit
        seen.append((start, len(change)))
        block.sub_(change)

    class_part(rows, table, own, SCALE, sink=move).log_mass.sum().backward()
    assert seen == [(0, 11), (11, 11), (22, 11), (33, 7)]
    torch.testing.assert_close(centers.detach() - table, expected, rtol=0, atol=1e-12)


def test_nothing_of_the_size_of_the_logits_is_kept_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_softmax, "_KEPT", {False: 0, True: 0})
    rows = normalize(torch.randn(64, 8)).requires_grad_()
    centers = torch.randn(200_000, 8).requires_grad_()
    part = class_part(rows, centers, torch.zeros(64, dtype=torch.int64), 16.0)
    gc.collect()
    given = {t.untyped_storage().data_ptr() for t in (rows, centers)}
    alive = {
        t.untyped_storage().data_ptr(): t.untyped_storage() for t in gc.get_objects() if type(t) is Tensor
    }
    assert sum(s.nbytes() for place, s in alive.items() if place not in given) < 4 * 64 * 200_000 / 4
    part.log_mass.sum().backward()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_center_that_is_not_finite_makes_a_loss_that_is_not(bad: float) -> None:
    """Not one of classes that are not there, whose mass is 0 and whose loss is 0."""
    rows, centers = normalize(torch.randn(4, 8)).requires_grad_(), torch.randn(50, 8)
    centers[40] = bad
    part = class_part(rows, centers.requires_grad_(), torch.arange(4), 16.0)
    assert part.log_mass.isnan().all()
    other = class_part(rows, torch.randn(20, 8), torch.full((4,), -1), 16.0)
    assert join_shards([other, part]).log_mass.isnan().all()
    (gradient,) = torch.autograd.grad(part.log_mass.sum(), rows)
    assert gradient.isnan().any()
