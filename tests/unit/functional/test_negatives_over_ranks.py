"""What goes wrong when in-batch negatives meet several processes, with the numbers that each mistake gives; and that ours does not."""

import math

import pytest
import torch

from tests.oracles import negatives as oracle
from tests.unit.functional.test_negatives import arc_loss
from topoface.functional.directions import unit_rows
from topoface.functional.negatives import PairBatch, pair_log_mass, whisker_bounds
from topoface.functional.softmax import negative_log_likelihood

X, W, Y = oracle.fixture()
RIGHT_LOSS, RIGHT_NORM = 12.665497280223, 6.770580162410


def rows_of(ranks):
    """The fixture's six samples in rank order, evenly cut."""
    return torch.arange(6).tensor_split(ranks)


def batch_of(rows, part):
    return PairBatch(rows=rows[part], columns=rows, row_labels=Y[part], column_labels=Y)


def whole(rows):
    return PairBatch(rows=rows, columns=rows, row_labels=Y, column_labels=Y)


def loss_and_norm(u_of):
    x = X.clone().requires_grad_()
    loss = arc_loss(x, W, Y, 16, u_of(unit_rows(x)))
    loss.backward()
    return float(loss.detach()), float(x.grad.norm())


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("whisker", [None, 0.5, 1.5])
@pytest.mark.parametrize("scale", [16, 64])
def test_the_shares_of_the_ranks_make_the_whole(ranks, whisker, scale):
    x, y = (X.clone().requires_grad_() for _ in range(2))
    rows = unit_rows(x)
    bounds = whisker_bounds(whole(rows), whisker)
    shares = [pair_log_mass(batch_of(rows, part), *bounds, scale) for part in rows_of(ranks)]
    joined = torch.stack(shares).logsumexp(0)
    dense = pair_log_mass(whole(unit_rows(y)), *bounds, scale)
    arc_loss(x, W, Y, scale, joined).backward()
    arc_loss(y, W, Y, scale, dense).backward()
    assert float(joined.detach()) == pytest.approx(float(dense.detach()), abs=1e-12)
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-12)


def test_the_right_numbers():
    loss, norm = loss_and_norm(lambda rows: pair_log_mass(whole(rows), *whisker_bounds(whole(rows), 1.5), 16))
    assert (loss, norm) == pytest.approx((RIGHT_LOSS, RIGHT_NORM), abs=1e-9)


@pytest.mark.parametrize(("ranks", "wrong"), [(2, 13.163413660642), (3, 13.478489046094)])
def test_trap_a_virtual_class_on_every_rank_counts_several_times(ranks, wrong):
    loss, _ = loss_and_norm(
        lambda rows: pair_log_mass(whole(rows), *whisker_bounds(whole(rows), 1.5), 16) + math.log(ranks)
    )
    assert loss == pytest.approx(wrong, abs=1e-9)
    assert loss > RIGHT_LOSS + 0.4


@pytest.mark.parametrize(("ranks", "wrong"), [(2, 10.924967183982), (3, 15.562336243385)])
def test_trap_the_pairs_pushed_back_on_every_rank(ranks, wrong):
    def summed(rows):
        u = pair_log_mass(whole(rows), *whisker_bounds(whole(rows), 1.5), 16)
        return u.detach() + ranks * (u - u.detach())

    loss, norm = loss_and_norm(summed)
    assert loss == pytest.approx(RIGHT_LOSS, abs=1e-9), "the loss hides it"
    assert norm == pytest.approx(wrong, abs=1e-9)


@pytest.mark.parametrize(("ranks", "wrong"), [(2, 11.660939164572), (3, 11.737288799920)])
def test_trap_each_rank_its_own_negatives_as_released(ranks, wrong):
    rows = unit_rows(X)
    losses = []
    for part in rows_of(ranks):
        own = PairBatch(rows=rows[part], columns=rows[part], row_labels=Y[part], column_labels=Y[part])
        u = pair_log_mass(own, *whisker_bounds(own, 1.5), 16)
        losses.append(arc_loss(X[part], W, Y[part], 16, u))
    assert float(torch.stack(losses).mean()) == pytest.approx(wrong, abs=1e-9)


def test_trap_a_constant_logit_loses_the_push():
    _, norm = loss_and_norm(
        lambda rows: pair_log_mass(whole(rows), *whisker_bounds(whole(rows), 1.5), 16).detach()
    )
    assert norm == pytest.approx(4.652295416866, abs=1e-9)


@pytest.mark.parametrize("ranks", [2, 3])
def test_trap_the_push_of_own_rows_only_is_a_share_of_it(ranks):
    """A rank that keeps the gradient of its own rows' losses to itself pushes by its part of the mean q; the sum is right."""
    full = torch.zeros_like(X)
    for part in rows_of(ranks):
        x = X.clone().requires_grad_()
        rows = unit_rows(x)
        u = pair_log_mass(whole(rows), *whisker_bounds(whole(rows), 1.5), 16)
        (arc_loss(X[part], W, Y[part], 16, u) * len(part) / 6).backward()
        full += x.grad
        assert float(x.grad.norm()) < RIGHT_NORM - 0.5
    x = X.clone().requires_grad_()
    u = pair_log_mass(whole(unit_rows(x)), *whisker_bounds(whole(unit_rows(x)), 1.5), 16)
    arc_loss(X, W, Y, 16, u).backward()
    torch.testing.assert_close(full, x.grad, rtol=0, atol=1e-12)


def test_trap_the_logarithm_of_a_clamped_probability_saturates():
    target, rest = torch.tensor([-18.0]), torch.tensor([64.0])
    clamped = -torch.softmax(torch.cat([target, rest]), 0)[0].clamp(1e-30).log()
    assert float(clamped) == pytest.approx(69.0776, abs=1e-3)
    assert float(negative_log_likelihood(target, rest)) == pytest.approx(82.0, abs=1e-5)
