"""The order: a pure function of (seed, step), fair to every image or identity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topoface.data import IdentityBalancedOrder, UniformOrder
from topoface.errors import UserError


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_uniform_is_one_shuffle_of_all_images_after_the_other(size, batch, seed) -> None:
    order = UniformOrder(size, batch, seed)
    epochs = 4
    stream = np.concatenate([order.indices(step) for step in range(-(-epochs * size // batch))])
    for epoch in range(epochs):
        assert sorted(stream[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert order.steps_per_epoch == size / batch


def test_uniform_differs_by_epoch_and_seed() -> None:
    a, b = UniformOrder(100, 100, 0), UniformOrder(100, 100, 1)
    assert not np.array_equal(a.indices(0), a.indices(1))
    assert not np.array_equal(a.indices(0), b.indices(0))


def labels_of(*counts: int) -> np.ndarray:
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).permutation(labels)


ORDERS = {
    "uniform": lambda seed: UniformOrder(50, 12, seed),
    "balanced": lambda seed: IdentityBalancedOrder(labels_of(3, 9, 1, 5, 7, 2, 4), 3, 4, seed),
}


@pytest.mark.parametrize("make", ORDERS.values(), ids=ORDERS)
def test_any_step_is_the_same_whatever_was_asked_before(make) -> None:
    walked = make(3)
    forward = [walked.indices(step) for step in range(30)]
    for step in np.random.default_rng(0).permutation(30).tolist():
        assert np.array_equal(make(3).indices(step), forward[step])
        assert np.array_equal(walked.indices(step), forward[step])
    assert all(batch.shape == (12,) and batch.dtype == np.int64 for batch in forward)


@given(
    counts=st.lists(st.integers(0, 12), min_size=3, max_size=12),
    P=st.integers(1, 3),
    K=st.integers(1, 5),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_a_balanced_batch_has_p_identities_with_k_images_different_where_possible(counts, P, K, seed) -> None:
    counts[0] = counts[1] = counts[2] = 4  # at least three identities with images; others may have none
    labels = labels_of(*counts)
    order = IdentityBalancedOrder(labels, P, K, seed)
    for step in range(8):
        rows = order.indices(step).reshape(P, K)
        assert (labels[rows] == labels[rows[:, :1]]).all()
        assert len(set(labels[rows[:, 0]].tolist())) == P
        for row in rows:
            assert len(set(row.tolist())) == min(K, counts[labels[row[0]]])


def test_identities_are_seen_equally_often_when_p_divides_them() -> None:
    labels = labels_of(*[5] * 12)
    order = IdentityBalancedOrder(labels, 4, 2, 0)
    seen = np.concatenate([labels[order.indices(step)] for step in range(3 * 20)])
    assert (np.bincount(seen) == 2 * 20).all()


def test_identities_are_seen_about_equally_often_when_p_does_not_divide_them() -> None:
    labels = labels_of(*[1, 30, 2, 5, 9, 3, 3])
    order = IdentityBalancedOrder(labels, 4, 1, 0)
    seen = np.bincount(np.concatenate([labels[order.indices(step)] for step in range(1400)]))
    # 1,400 rounds of one batch: each identity is in with probability 4/7, so 800 +- 18.5; 5 sigma.
    assert np.abs(seen - 800).max() < 93


def test_images_of_an_identity_come_back_only_after_all_the_others() -> None:
    labels = labels_of(8, 8, 8, 8)
    order = IdentityBalancedOrder(labels, 2, 2, 0)
    seen = np.concatenate(
        [order.indices(step) for step in range(2 * 4 * 5)]
    )  # 5 cycles of 4 visits, 2 steps a round
    for cycle in range(5):
        assert sorted(seen[cycle * 32 : (cycle + 1) * 32].tolist()) == list(range(32))
    pairs = [
        {frozenset(pair) for pair in seen[c * 32 : (c + 1) * 32].reshape(-1, 2).tolist()} for c in range(2)
    ]
    assert pairs[0] != pairs[1]  # each cycle is shuffled anew


def test_more_identities_a_batch_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="4 identities per batch are asked for, the data has 3"):
        IdentityBalancedOrder(labels_of(2, 0, 2, 2), 4, 2, 0)


@pytest.mark.parametrize(("P", "K"), [(0, 2), (2, 0)])
def test_empty_batches_are_refused(P, K) -> None:
    with pytest.raises(UserError, match=r"per .* is 0"):
        IdentityBalancedOrder(labels_of(2, 2), P, K, 0)
    with pytest.raises(UserError, match="batch size is 0"):
        UniformOrder(5, 0, 0)
