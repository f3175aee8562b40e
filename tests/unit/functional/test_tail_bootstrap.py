"""The bootstrap of many pairs against that of few, and what must never change it."""

import numpy as np
import pytest

from topoface.functional import tail_bootstrap as module
from topoface.functional.bootstrap import drawn_figures, identity_counts
from topoface.functional.lowest_cost import of_choosing
from topoface.functional.tail_bootstrap import ScoredPairs, tail_bootstrap
from topoface.functional.verification import DetectionCost

COST = DetectionCost(prior=0.1)
FARS = (0.2, 0.01, 0.05)


def drawn(people=25, genuine=80, impostors=900, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, people, (2, impostors))
    right = np.where(left == right, (right + 1) % people, right)
    wolf = 0.4 * rng.normal(size=people)
    own = rng.integers(0, people, genuine)
    scores = rng.normal(size=impostors) + wolf[left] + wolf[right], 2 + rng.normal(size=genuine) + wolf[own]
    impostor, good = (np.round(part, 1 if ties else 8) for part in scores)
    return ScoredPairs(good, own, own), ScoredPairs(impostor, left, right)


@pytest.fixture(params=["compiled", "arrays"])
def way(request, monkeypatch):
    if request.param == "arrays":
        monkeypatch.setattr(module, "compiled", lambda *_, **__: None)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("ties", [False, True])
def test_before_couples_are_taken_off_it_is_the_bootstrap_of_all_weighted_pairs(monkeypatch, ties):
    monkeypatch.setattr(module, "towards", lambda _, values, *__: values.astype(float))
    monkeypatch.setattr(module, "unchosen", lambda _, values, __: values)
    lost = []
    monkeypatch.setattr(module, "of_choosing", lambda *given: lost.append(of_choosing(*given)))
    genuine, impostor = drawn(ties=ties)
    scores = np.append(genuine.scores, impostor.scores)
    who = np.concatenate([np.stack(kind[1:], axis=1) for kind in (genuine, impostor)])
    same = np.arange(len(scores)) < len(genuine.scores)
    by_weights = drawn_figures(scores, same, who, None, FARS, COST, 140, 3)
    every = by_weights.people
    found = tail_bootstrap(genuine, impostor, 25, FARS, COST, replicates=140, seed=3)
    for k, far in enumerate(FARS):
        np.testing.assert_allclose(found.tar[:, k], every[f"tar@{far:g}"], atol=1e-12)
    np.testing.assert_allclose(found.min_dcf, every["min_dcf"], atol=1e-12)
    assert lost == [pytest.approx(by_weights.choosing["min_dcf"])]


def test_compiled_and_arrays_agree_whatever_the_strides_lanes_and_the_order_of_pairs(monkeypatch):
    genuine, impostor = drawn(seed=1)
    plain = tail_bootstrap(genuine, impostor, 25, FARS, COST, replicates=50)
    order = np.random.default_rng(0).permutation(len(impostor.scores))
    turned = ScoredPairs(impostor.scores[order], impostor.right[order], impostor.left[order])
    for name, value in (("_STRIDE", 7), ("_LANES", 16), ("compiled", lambda *_, **__: None)):
        monkeypatch.setattr(module, name, value)
        other = tail_bootstrap(genuine, turned, 25, FARS, COST, replicates=50)
        np.testing.assert_allclose(other.tar, plain.tar, atol=1e-12)
        np.testing.assert_allclose(other.min_dcf, plain.min_dcf, atol=1e-12)


def test_a_tail_that_is_too_short_is_widened(monkeypatch):
    genuine, impostor = drawn(seed=2, impostors=20_000, people=12)
    plain = tail_bootstrap(genuine, impostor, 12, (0.01,), DetectionCost(0.001), replicates=40)
    built, sizes = module._tail, []

    def short(*arguments):
        made = built(*arguments[:3], arguments[3] if sizes else 0.0)
        sizes.append(len(made.scores))
        return made

    monkeypatch.setattr(module, "_tail", short)
    monkeypatch.setattr(module, "_LANES", 8)
    other = tail_bootstrap(genuine, impostor, 12, (0.2,), DetectionCost(0.001), replicates=40)
    assert len(sizes) > 1
    monkeypatch.setattr(module, "_tail", built)
    expected = tail_bootstrap(genuine, impostor, 12, (0.2,), DetectionCost(0.001), replicates=40)
    np.testing.assert_allclose(other.tar, expected.tar, atol=1e-12)
    assert plain.tar.shape == (40, 1)


def test_the_variance_of_couples_is_what_drawing_them_gives():
    _, impostor = drawn(seed=3, people=12)
    couples = module._Couples(impostor, 12)
    tail = module._tail(*drawn(seed=3, people=12), 12, 1.0)
    low, high = np.minimum(impostor.left, impostor.right), np.maximum(impostor.left, impostor.right)
    codes = np.unique(low * 12 + high, return_inverse=True)[1]
    bar = np.sort(impostor.scores)[-90]
    cells = np.bincount(codes, impostor.scores >= bar) - 0.1 * np.bincount(codes)
    sums, squares = couples.influences(tail, np.array([300, 90]))
    assert squares[1] == pytest.approx((cells**2).sum())
    for k, accepted in enumerate((300, 90)):
        above = impostor.scores >= np.sort(impostor.scores)[-accepted]
        share = accepted / len(above)
        for person in range(12):
            own = (impostor.left == person) | (impostor.right == person)
            assert sums[person, k] == pytest.approx(above[own].sum() - share * own.sum())


def test_the_weight_of_all_pairs_counts_a_person_with_himself_once():
    pairs = ScoredPairs(np.zeros(4), np.array([0, 1, 2, 0]), np.array([1, 0, 2, 2]))
    weights = module._weights(3, range(5), seed=0)
    a, b, c = identity_counts(3, range(5), 0).T
    assert module._Couples(pairs, 3).total(weights).tolist() == (2 * a * b + c + a * c).tolist()


def test_replicates_without_one_kind_are_undefined():
    genuine, impostor = (
        ScoredPairs(np.array([0.9]), np.array([0]), np.array([0])),
        ScoredPairs(np.array([0.1, 0.2]), np.array([1, 2]), np.array([2, 3])),
    )
    found = tail_bootstrap(genuine, impostor, 4, (0.5,), COST, replicates=200)
    lost = np.isnan(found.min_dcf)
    assert 0 < lost.sum() < 200
    assert np.array_equal(np.isnan(found.tar[:, 0]), lost)
