"""The identity bootstrap against pairs that are really repeated, and what its intervals promise."""

from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from tests.oracles import verification as oracle
from topoface.functional import bootstrap
from topoface.functional.bootstrap import (
    drawn_figures,
    identity_bootstrap,
    paired_intervals,
    percentile_interval,
    towards,
)
from topoface.functional.draws import generator
from topoface.functional.influences import Error
from topoface.functional.lowest_cost import of_choosing
from topoface.functional.verification import DetectionCost, auc, kfold, min_dcf

FARS = (0.01, 0.1, 0.5)
COST = DetectionCost(prior=0.25)


def some_pairs(seed=0, people=12, pairs=60, folds=3):
    """Scores with ties, both kinds in every fold."""
    rng = np.random.default_rng(seed)
    same = np.arange(pairs) % 2 == 0
    left = rng.integers(people, size=pairs)
    right = np.where(same, left, (left + 1 + rng.integers(people - 1, size=pairs)) % people)
    scores = np.round(rng.normal(size=pairs) * 0.3 + same * 0.5, 1)
    return scores, same, np.stack([left, right], axis=1), np.arange(pairs) % folds


def cost_by_definition(scores, same, threshold, weights):
    """Of the threshold that is best for the pairs as they are."""
    far, tar = (float(rate) for rate in oracle.rates(scores.tolist(), same.tolist(), threshold, weights))
    return 1 - tar + (1 - COST.prior) * far / COST.prior  # accepting nobody costs 1


def accuracy_by_definition(scores, same, folds, weights):
    """At the thresholds that are best for the pairs as they are."""
    weights = np.ones(len(scores)) if weights is None else np.array(weights)
    right = (scores >= kfold(scores, same, folds).thresholds[folds]) == same
    drawn = [k for k in range(3) if weights[folds == k].sum()]
    return np.mean([np.average(right[folds == k], weights=weights[folds == k]) for k in drawn])


def figures_by_definition(scores, same, folds, weights):
    weighted = (scores.tolist(), same.tolist())
    return {
        "auc": float(oracle.auc(*weighted, weights)),
        "eer": float(oracle.equal_error_rate(*weighted, weights)),
        "min_dcf": cost_by_definition(scores, same, min_dcf(scores, same, COST)[1], weights),
        "accuracy": accuracy_by_definition(scores, same, folds, weights),
        **{f"tar@{far:g}": float(oracle.tar_at_far(*weighted, far, weights)) for far in FARS},
    }


def test_each_replicate_equals_the_figures_of_weighted_pairs():
    scores, same, who, folds = some_pairs()
    found = drawn_figures(scores, same, who, folds, FARS, COST, 12, 5)
    names, codes = np.unique(who, return_inverse=True)
    codes = codes.reshape(-1, 2)
    assert found.plain == pytest.approx(figures_by_definition(scores, same, folds, None), abs=1e-12)
    lowest, fewest = [], []
    for r in range(12):
        counts = np.bincount(
            generator(5, "identity bootstrap", r).integers(len(names), size=len(names)), minlength=len(names)
        )
        weights = [int(counts[a] if a == b else counts[a] * counts[b]) for a, b in codes]
        expected = figures_by_definition(scores, same, folds, weights)
        assert {name: values[r] for name, values in found.people.items()} == pytest.approx(
            expected, abs=1e-12
        )
        lists = scores.tolist(), same.tolist()
        lowest.append(float(oracle.min_dcf(*lists, COST.prior, weights)))
        fewest.append(float(oracle.min_dcf(*lists, 0.5, weights)))  # half of the pairs are genuine
    even = DetectionCost(prior=0.5)
    lost = of_choosing(found.plain["min_dcf"], np.array(lowest), 30, 30, COST)
    of_folds = of_choosing(min_dcf(scores, same, even)[0], np.array(fewest), 30, 30, even).held_out(3)
    assert found.choosing == {
        "min_dcf": pytest.approx(lost),
        "accuracy": pytest.approx((-0.5 * of_folds.lost, 0.25 * of_folds.variance)),
    }


def test_replicates_are_moved_until_they_are_as_far_apart_as_the_error_says():
    rng = np.random.default_rng(0)
    drawn = 5 + rng.normal(size=10_000) * 3
    for size in (0.5, 2.0, 3.0, 3.2):
        moved = towards(5.0, drawn, Error(size, 1e9))
        assert moved.std() == pytest.approx(size, rel=0.03)
        assert np.abs(moved - 5).max() <= np.abs(drawn - 5).max()
    assert np.array_equal(towards(1.0, np.ones(3), Error(1.0, 9)), np.ones(3))
    assert towards(5.0, drawn, Error(1.0, 9.0)).std() == pytest.approx(2.262 / 1.96, rel=0.03)  # Student's t
    undefined = towards(5.0, np.append(drawn, np.nan), Error(1.0, 1e9))
    assert np.isnan(undefined).sum() == 1


def test_where_everyone_appears_once_the_interval_is_that_of_independent_pairs():
    """Pairs of strangers who meet nobody else: products of two counts alone would be sqrt(3) times too wide."""
    rng = np.random.default_rng(1)
    n = 400
    scores = np.append(rng.normal(size=n) + 2, rng.normal(size=n))
    same = np.arange(2 * n) < n
    who = np.concatenate([np.arange(n)[:, None].repeat(2, 1), n + np.arange(2 * n).reshape(n, 2)])
    found = drawn_figures(scores, same, who, None, (0.1,), None, 400, 0)
    above = (scores[same][:, None] > scores[~same]).astype(float)
    independent = (above.mean(1).var() + above.mean(0).var()) / n
    assert found.settled()["auc"].var() == pytest.approx(independent, rel=0.25)
    assert found.people["auc"].var() > 1.6 * independent


def test_replicates_depend_on_the_seed_alone_and_not_on_blocks_or_the_order_of_pairs(monkeypatch):
    scores, same, who, folds = some_pairs(2)
    whole = identity_bootstrap(scores, same, who, folds, fars=FARS, replicates=40, seed=1)
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * len(scores))
    order = np.random.default_rng(0).permutation(len(scores))
    pieces = identity_bootstrap(
        scores[order], same[order], who[order], folds[order], fars=FARS, replicates=40, seed=1
    )
    other = identity_bootstrap(scores, same, who, folds, fars=FARS, replicates=40, seed=2)
    for name in whole:
        np.testing.assert_allclose(pieces[name], whole[name], atol=1e-12)
        assert not np.array_equal(other[name], whole[name])


def test_strictly_increasing_maps_and_other_names_of_people_change_nothing():
    scores, same, who, folds = some_pairs(3)
    plain = identity_bootstrap(scores, same, who, folds, fars=FARS, replicates=20)
    mapped = identity_bootstrap(np.exp(3 * scores), same, who * 10 + 3, folds, fars=FARS, replicates=20)
    for name in plain:
        np.testing.assert_array_equal(mapped[name], plain[name])


def test_the_difference_of_a_model_with_itself_is_zero_and_of_a_mapped_one_too():
    scores, same, who, folds = some_pairs(4)
    for twin in (scores, scores * 2 + 1):
        found = paired_intervals(scores, twin, same, who, folds, fars=FARS, cost=COST, replicates=20)
        assert set(found.values()) == {(0.0, 0.0)}


def test_paired_differences_are_narrower_than_two_intervals_suggest():
    scores, same, who, _ = some_pairs(5, people=200, pairs=2000)
    rng = np.random.default_rng(1)
    a, b = (scores + rng.normal(size=len(scores)) * 0.05 for _ in range(2))
    apart = [identity_bootstrap(s, same, who, replicates=200)["auc"] for s in (a, b)]
    low, high = paired_intervals(a, b, same, who, replicates=1)["auc"]
    assert (high - low) / 3.92 < 0.6 * np.hypot(apart[0].std(), apart[1].std())
    assert low + high == pytest.approx(2 * (auc(a, same) - auc(b, same)))


def test_intervals_cover_the_truth_when_people_differ_in_difficulty():
    """Planted identity effects: the figures of the population are known, 95 % intervals must hold them about that often.

    (benchmarks/intervals.py tries more designs, longer.)
    """
    held = np.zeros(2)
    for trial in range(150):
        rng = np.random.default_rng(trial)
        people = 40
        effect = rng.normal(size=people) * 0.7
        left, right = np.triu_indices(people, 1)  # everyone against everyone
        who = np.concatenate(
            [np.repeat(np.arange(people), 3)[:, None].repeat(2, 1), np.stack([left, right], 1)]
        )
        same = who[:, 0] == who[:, 1]
        scores = rng.normal(size=len(who)) + np.where(same, 1.5 + effect[who[:, 0]], 0)
        drawn = identity_bootstrap(scores, same, who, cost=COST, replicates=150, seed=trial)
        for k, (name, truth) in enumerate((("auc", TRUE_AUC), ("min_dcf", TRUE_COST))):
            low, high = percentile_interval(drawn[name])
            held[k] += low <= truth <= high
    assert (held >= 140).all()  # 93 %
    assert (held <= 147).all()


TRUE_AUC = 0.829093  # P(N(1.5, 1 + 0.49) > N(0, 1)) = Phi(1.5 / sqrt(2.49))
TRUE_COST = min(  # of all thresholds: misses, and false accepts at the ratio of COST
    NormalDist(1.5, 1.49**0.5).cdf(t) + 3 * NormalDist().cdf(-t) for t in np.linspace(-2, 6, 8001)
)


def test_replicates_without_one_kind_are_undefined_and_left_out_of_intervals():
    scores, same, who = [0.9, 0.1, 0.2], [1, 0, 0], [[0, 0], [1, 2], [2, 3]]
    samples = identity_bootstrap(scores, same, who, replicates=100)["auc"]
    assert 0 < np.isnan(samples).sum() < 100
    assert not np.isnan(percentile_interval(samples)).any()
    assert np.isnan(percentile_interval(np.full(3, np.nan))).all()


def test_wrong_identities_are_refused():
    with pytest.raises(ValueError, match=r"\[pairs, 2\]"):
        identity_bootstrap([0.1, 0.2], [1, 0], [1, 2])


def test_an_interval_is_that_of_the_percentiles_moved_by_the_skewness():
    rng = np.random.default_rng(0)
    mirrored = np.concatenate([rng.normal(size=500), np.zeros(1)])
    mirrored = np.concatenate([mirrored, -mirrored])
    np.testing.assert_allclose(percentile_interval(mirrored), np.quantile(mirrored, [0.025, 0.975]))
    for samples in (rng.exponential(size=3000), -rng.gamma(9, size=3000), np.exp(rng.normal(size=999))):
        a = np.clip(stats.skew(samples) / 6, -0.15, 0.15)
        z = stats.norm.ppf([0.025, 0.975])
        expected = np.quantile(samples, stats.norm.cdf(z / (1 - a * z)))
        np.testing.assert_allclose(percentile_interval(samples), expected, rtol=1e-12)
        low, high = np.quantile(samples, [0.025, 0.975])
        assert (expected[0] > low and expected[1] > high) == (a > 0)


def test_the_interval_of_a_skewed_mean_holds_it_more_often_than_percentiles_do():
    held = np.zeros(2)
    for trial in range(1000):
        rng = np.random.default_rng(trial)
        values = rng.exponential(size=15)
        means = values[rng.integers(0, 15, (800, 15))].mean(1)
        low, high = percentile_interval(means)
        plain = np.quantile(means, [0.025, 0.975])
        held += [low <= 1 <= high, plain[0] <= 1 <= plain[1]]
    assert held[0] > held[1]
