"""Assignment under room: the exact optimum as the judge, and loops that do what the arrays do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from topoface.codes import assign
from topoface.codes.assign import assign_balanced, assign_exactly, split_sizes

few = settings(deadline=None, max_examples=40)  # the first call compiles


def optimum(costs: np.ndarray, room: np.ndarray) -> float:
    columns = np.repeat(np.arange(costs.shape[1]), room)
    rows, chosen = linear_sum_assignment(costs[:, columns])
    return float(costs[rows, columns[chosen]].sum())


def test_three_and_three_points_on_a_line() -> None:
    points, centers = np.array([0, 0.1, 0.2, 0.3, 0.9, 1.0]), np.array([0.0, 1.0])
    costs = ((points[:, None] - centers) ** 2).astype(np.float32)[None]
    for loops in (True, False):
        chosen = assign_balanced(costs, loops=loops)[0]
        assert chosen.tolist() == [0, 0, 0, 1, 1, 1]
        assert costs[0, np.arange(6), chosen].sum() == pytest.approx(0.55, abs=1e-6)


@pytest.mark.parametrize("loops", [True, False])
def test_random_points_cost_at_most_two_per_cent_more_than_they_must(loops: bool) -> None:
    rng = np.random.default_rng(0)
    points, centers = rng.normal(size=(600, 16)), rng.normal(size=(20, 16))
    costs = ((points[:, None] - centers) ** 2).sum(2).astype(np.float32)
    chosen = assign_balanced(costs[None], loops=loops)[0]
    best = optimum(costs.astype(np.float64), np.full(20, 30))
    assert (np.bincount(chosen, minlength=20) == 30).all()
    assert 1 - 1e-6 <= costs[np.arange(600), chosen].sum() / best <= 1.02


@few
@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 40), st.integers(0, 2**31), st.booleans())
def test_shares_are_equal_and_loops_do_what_arrays_do(
    b: int, k: int, more: int, seed: int, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    costs = rng.normal(size=(b, k + more, k))
    # Halves are exact, so that both ways of summing give the same prices.
    costs = (rng.integers(0, 3, costs.shape) if ties else costs).astype(np.float32)
    one, other = assign_balanced(costs), assign_balanced(costs, loops=False)
    for chosen in one:
        counts = np.bincount(chosen, minlength=k)
        assert counts.max() - counts.min() <= 1
    assert (one == other).all()


def test_prices_from_a_sample_still_give_equal_and_cheap_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assign, "PRICED_ROWS", 128)
    rng = np.random.default_rng(0)
    points, centers = rng.normal(size=(600, 8)), rng.normal(size=(3, 8))
    costs = ((points[:, None] - centers) ** 2).sum(2).astype(np.float32)
    chosen = assign_balanced(costs[None])[0]
    assert (np.bincount(chosen) == 200).all()
    total = costs[np.arange(600), chosen].sum()
    assert total <= 1.01 * optimum(costs.astype(np.float64), np.full(3, 200))


@few
@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 5), st.integers(0, 2**31), st.booleans())
def test_exact_choice_is_the_cheapest(b: int, m: int, more: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    costs = rng.normal(size=(b, m, m + more))
    costs = (rng.integers(0, 3, costs.shape) if ties else costs).astype(np.float32)
    for loops in (True, False):
        for table, chosen in zip(costs, assign_exactly(costs, loops=loops), strict=True):
            assert len(set(chosen.tolist())) == m
            assert table[np.arange(m), chosen].sum() == pytest.approx(
                optimum(table.astype(np.float64), np.ones(m + more, np.int64)), abs=1e-5
            )


def test_larger_shares_go_where_they_are_wanted() -> None:
    assert split_sizes(8, 3, np.array([[1, 9, 4], [5, 5, 5]])).tolist() == [[2, 3, 3], [3, 3, 2]]
