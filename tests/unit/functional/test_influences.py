"""What pairs do to figures, against derivatives and definitions; and what errors made of it promise."""

import numpy as np
import pytest
from scipy import stats

from topoface.functional.bootstrap import difference_intervals, drawn_figures, paired_intervals
from topoface.functional.influences import (
    Error,
    Meetings,
    Ranked,
    accuracy_influence,
    eer_influence,
    influences,
    normal_of_student,
    student_of_normal,
    tar_influence,
    window,
)
from topoface.functional.verification import DetectionCost, kfold
from topoface.functional.weighted_figures import fold_accuracy, rates, roc_figures

COST = DetectionCost(prior=0.3)


def ranked(scores, same, weights=None):
    order = np.argsort(-scores, kind="stable")
    ends = np.append(0, 1 + np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)))
    weights = np.ones(len(scores)) if weights is None else weights
    tar, far = rates(weights[None, order], same[order], ends)
    return Ranked(same[order], ends, tar[0], far[0]), order


def some(seed=0, pairs=200, ties=True):
    rng = np.random.default_rng(seed)
    same = np.arange(pairs) < pairs // 3
    scores = rng.normal(size=pairs) + 1.5 * same
    return np.round(scores, 1) if ties else scores, same


@pytest.mark.parametrize("ties", [False, True])
def test_influences_are_derivatives_by_the_weight_of_a_pair(ties):
    scores, same = some(ties=ties)
    pairs, order = ranked(scores, same)
    best = int(np.argmin(COST.of(pairs.far, pairs.tar)))
    fold = np.arange(len(scores)) % 5
    right = (scores >= kfold(scores, same, fold).thresholds[fold]) == same
    found = influences(pairs, (), COST, (right[order], fold[order]))
    step = 1e-6
    for pair in range(0, len(scores), 7):
        moved = {}
        for sign in (1, -1):
            weights = np.ones(len(scores))
            weights[pair] += sign * step
            again = ranked(scores, same, weights)[0]
            moved[sign] = {
                "auc": roc_figures(again.tar[None], again.far[None], ())["auc"][0],
                "min_dcf": COST.of(again.far, again.tar)[best],
                "accuracy": fold_accuracy(weights[None], right, fold)[0],
            }
        for name in moved[1]:
            derivative = (moved[1][name] - moved[-1][name]) / (2 * step)
            assert found[name][order == pair] == pytest.approx(derivative, abs=1e-9)


def test_a_false_accept_more_moves_a_threshold_as_far_as_the_roc_is_steep():
    """TAR = sqrt(FAR), of evenly spread scores: TAR at f moves by -1 / (2 sqrt(f)) for each unit of FAR; at the EER the slope is 0.809."""
    n = 200_000
    even = (np.arange(n) + 0.5) / n
    scores, same = np.append(1 - even**2, 1 - even), np.arange(2 * n) < n
    pairs, order = ranked(scores, same)
    for far in (0.04, 0.25):
        moved = tar_influence(pairs, far) * n
        impostors = scores[order][~pairs.labels] >= 1 - far
        np.testing.assert_allclose(moved[~pairs.labels], (far - impostors) / (2 * np.sqrt(far)), rtol=0.01)
        genuine = scores[order][pairs.labels] > 1 - far
        off = np.abs(moved[pairs.labels] - (genuine - np.sqrt(far)))
        assert (off > 1e-4).sum() <= 1  # the pair at the threshold itself
    eer = (3 - 5**0.5) / 2  # 1 - sqrt(f) = f
    slope = 1 / (2 * np.sqrt(eer))
    moved = eer_influence(pairs) * n * (1 + slope)
    impostors = scores[order][~pairs.labels] >= 1 - eer
    off = np.abs(moved[~pairs.labels] - slope * (impostors - eer))
    missed = scores[order][pairs.labels] < 1 - eer
    assert (off > 5e-3).sum() <= 1
    assert (np.abs(moved[pairs.labels] - (missed - eer)) > 5e-3).sum() <= 1


def test_where_no_false_accept_is_allowed_the_highest_impostor_pair_counts():
    scores, same = some(3, ties=False)
    pairs, _ = ranked(scores, same)
    moved = tar_influence(pairs, 1e-9)[~pairs.labels]
    assert np.argmin(moved) == 0
    assert (moved[1:] > 0).all()


def test_a_window_holds_what_chance_leaves_open_and_stays_within_the_errors():
    assert window(0, 500) == (0, 3)
    assert window(100, 500) == (85, 115)
    assert window(100, 105) == (85, 105)
    assert window(2, 2) == (0, 2)


def test_the_error_is_the_sum_over_all_couples_of_pairs_that_share_anybody():
    rng = np.random.default_rng(1)
    who = rng.integers(0, 9, (70, 2))
    influence = rng.normal(size=70)
    same = who[:, 0] == who[:, 1]
    for kind in (same, ~same):
        influence[kind] -= influence[kind].mean()
    shared = sum(
        influence[i] * influence[j]
        for i in range(70)
        for j in range(70)
        if set(who[i].tolist()) & set(who[j].tolist())
    )
    error = Meetings(who + 100).error(influence)
    assert error.size**2 == pytest.approx(shared * 9 / 8)
    order = rng.permutation(70)
    turned = Meetings(who[order][:, ::-1]).error(influence[order])
    assert turned == error  # to the last bit


def test_people_alone_and_strangers():
    """Everyone once: as of independent pairs. All pairs of one couple: nothing else can be told than what the couple does."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=50)
    values -= values.mean()
    alone = Meetings(np.arange(50)[:, None].repeat(2, 1)).error(values)
    assert alone.size == pytest.approx(np.sqrt((values**2).sum() * 50 / 49))
    strangers = Meetings(np.arange(100).reshape(50, 2)).error(values)
    assert strangers.size == pytest.approx(np.sqrt((values**2).sum() * 100 / 99))
    assert Meetings(np.zeros((50, 2), int)).error(values).size == pytest.approx(0, abs=1e-12)
    nothing = Meetings(np.array([[0, 0]])).error(np.zeros(1))
    assert nothing.size == nothing.reach == 0


def test_degrees_of_freedom_are_few_where_few_people_do_most():
    everyone = np.arange(40)[:, None].repeat(2, 1)
    alike = np.where(np.arange(40) % 2, 1.0, -1.0)
    assert Meetings(everyone).error(alike).freedom > 1e6
    one = np.append(39.0, -np.ones(39))
    assert Meetings(everyone).error(one).freedom == pytest.approx(2, abs=0.2)
    normal = np.random.default_rng(0).normal(size=4000)
    wide = Meetings(np.arange(4000)[:, None].repeat(2, 1)).error(normal - normal.mean())
    assert wide.freedom == pytest.approx(4000, rel=0.1)  # that of a variance of normal values: n - 1


def test_intervals_of_an_error():
    error = Error(0.1, 8.0)
    assert error.reach == pytest.approx(0.1 * stats.t.ppf(0.975, 8), rel=0.01)
    assert error.reach_of_one_of(10) == pytest.approx(0.1 * stats.t.ppf(1 - 0.0025, 8), rel=0.03)
    low, high = error.around(0.5)
    assert low * high == pytest.approx(0.25)
    assert np.log(high / 0.5) == pytest.approx(error.reach / 0.5)
    assert error.around(0.0) == (0.0, 0.0)


def test_deviates_of_student_are_about_those_of_the_normal_distribution():
    for freedom in (3.0, 8.0, 50.0, 1e6):
        t = stats.t.ppf([0.025, 0.2, 0.5, 0.9, 0.975], freedom)
        z = stats.norm.ppf([0.025, 0.2, 0.5, 0.9, 0.975])
        np.testing.assert_allclose(normal_of_student(t, np.array(freedom)), z, atol=0.02)
        assert student_of_normal(z[-1], freedom) == pytest.approx(t[-1], rel=0.02)


def test_accuracy_counts_every_fold_alike():
    right, fold = np.array([1, 1, 0, 1], bool), np.array([0, 0, 0, 1])
    np.testing.assert_allclose(accuracy_influence(right, fold), np.array([1 / 3, 1 / 3, -2 / 3, 0]) / 6)


def test_the_difference_of_means_is_that_of_their_influences():
    (one, other), same, who = people_who_differ(np.random.default_rng(3), 30)
    folds = np.arange(len(same)) % 3
    a, b, c = (
        drawn_figures(scores, same, who, folds, (0.1,), COST, 40, 0)
        for scores in (one, other, (one + other) / 2)
    )
    assert difference_intervals([a, c], [c, a])["auc"] == pytest.approx((0, 0), abs=1e-12)
    found = difference_intervals([a, b], [c])
    error = a.meetings.error((a.influence["eer"] + b.influence["eer"]) / 2 - c.influence["eer"])
    assert found["eer"][1] - found["eer"][0] == pytest.approx(2 * error.reach)
    lost = (a.choosing["min_dcf"].lost + b.choosing["min_dcf"].lost) / 2 - c.choosing["min_dcf"].lost
    middle = (a.plain["min_dcf"] + b.plain["min_dcf"]) / 2 - c.plain["min_dcf"] - lost
    assert sum(found["min_dcf"]) / 2 == pytest.approx(middle)
    for name in ("min_dcf", "accuracy"):  # choosing a threshold adds noise
        alone = a.meetings.error((a.influence[name] + b.influence[name]) / 2 - c.influence[name])
        assert found[name][1] - found[name][0] > 2 * alone.reach


def people_who_differ(rng, n=80):
    """Everyone three times with himself and once with everyone else; a second model separates a little less."""
    left, right = np.triu_indices(n, 1)
    own = np.repeat(np.arange(n), 3)
    ease, wolf = 0.6 * rng.normal(size=n), 0.4 * rng.normal(size=n)
    expected = np.append(3 + ease[own], wolf[left] + wolf[right])
    same = np.arange(len(expected)) < len(own)
    common = 0.6 * rng.normal(size=len(expected))
    scores = [expected + common + 0.8 * rng.normal(size=len(expected)) - worse * same for worse in (0, 0.4)]
    who = np.concatenate([np.stack([own, own], 1), np.stack([left, right], 1)])
    return scores, same, who


def test_intervals_of_a_difference_hold_the_planted_one():
    """(benchmarks/intervals.py tries more designs, longer.)"""
    n, impostor = stats.norm, np.sqrt(1 + 2 * 0.16)
    spread = np.sqrt(1 + 0.36)
    bar = n.isf(0.02) * impostor
    truth = {
        "auc": n.cdf(3 / np.hypot(spread, impostor)) - n.cdf(2.6 / np.hypot(spread, impostor)),
        "tar@0.02": n.sf((bar - 3) / spread) - n.sf((bar - 2.6) / spread),
        "eer": n.cdf(-3 / (spread + impostor)) - n.cdf(-2.6 / (spread + impostor)),
    }
    held = dict.fromkeys(truth, 0)
    for trial in range(200):
        (one, other), same, who = people_who_differ(np.random.default_rng(trial))
        found = paired_intervals(one, other, same, who, fars=(0.02,), replicates=1)
        for name, value in truth.items():
            held[name] += found[name][0] <= value <= found[name][1]
    assert all(183 <= number <= 199 for number in held.values()), held  # 95 % +- 2.3 standard deviations


def test_errors_are_the_spread_of_figures_over_other_people():
    errors, values = {}, {}
    for trial in range(120):
        (scores, _), same, who = people_who_differ(np.random.default_rng(1000 + trial))
        found = drawn_figures(scores, same, who, None, (0.1,), None, 1, 0)
        for name, influence in found.influence.items():
            errors.setdefault(name, []).append(found.meetings.error(influence).size)
            values.setdefault(name, []).append(found.plain[name])
    for name in values:
        assert np.median(errors[name]) == pytest.approx(np.std(values[name]), rel=0.2), name
