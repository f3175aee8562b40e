"""Intervals of rates and thresholds by leaving people out: against loops over people, and against planted truths."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from topoface.functional import error_rates as module
from topoface.functional.error_rates import bar_interval, leave_one_out, moved_places, rate_interval


def crowd(seed, people=60, pairs=1000, wolf=0.5, couple=0.5):
    """Scores of impostor pairs whose people, and couples, make them higher or lower; and who they are."""
    rng = np.random.default_rng(seed)
    left = rng.integers(0, people, pairs)
    right = (left + 1 + rng.integers(0, people - 1, pairs)) % people
    effect = wolf * rng.standard_normal(people)
    codes = np.unique(np.minimum(left, right) * people + np.maximum(left, right), return_inverse=True)[1]
    shared = couple * rng.standard_normal(codes.max() + 1)
    return effect[left] + effect[right] + shared[codes] + rng.standard_normal(pairs), np.stack(
        [left, right], 1
    )


def oracle(wrong, who):
    """Influence by person, and error, of the share of wrong pairs; from the definitions."""
    people = sorted({p for pair in who for p in pair})
    rate = sum(wrong) / len(wrong)

    def scale(some):
        kept = [w for w, pair in zip(wrong, who, strict=True) if some not in pair]
        return math.log(max(sum(kept), 0.5) / max(len(kept), 0.5))

    without = {p: scale(p) for p in people}
    mean = sum(without.values()) / len(people)
    influence = {p: mean - without[p] for p in people}

    def excess(chosen):
        return sum(w - rate for w, pair in zip(wrong, who, strict=True) if chosen(pair))

    squares = sum(excess(lambda pair, p=p: p in pair) ** 2 for p in people)
    couples = sum(excess(lambda pair, c=c: set(pair) == set(c)) ** 2 for c in combinations(people, 2))
    once = min(max(squares - couples, couples) / squares, 1.0)
    variance = sum(i**2 for i in influence.values()) * (len(people) - 1) / len(people)
    return list(influence.values()), (once * variance) ** 0.5


@pytest.mark.parametrize("seed", range(4))
def test_influence_and_error_are_those_of_every_person_left_out_in_turn(seed):
    scores, who = crowd(seed, people=9, pairs=80)
    if seed % 2:
        who[::5, 1] = who[::5, 0]  # pairs of one person
    wrong = scores > 1.0
    influence, error = oracle(wrong.tolist(), [tuple(pair) for pair in who.tolist()])
    found = module._of_worst(who[np.argsort(~wrong)], [int(wrong.sum())])
    np.testing.assert_allclose(found.influence[:, 0], influence, atol=1e-12)
    assert found.error[0] == pytest.approx(error)
    values = np.array(influence)
    spread = len(values) * (values**4).sum() / (values**2).sum() ** 2
    assert found.freedom[0] == pytest.approx(2 * len(values) / (spread - 1))


def test_a_rate_that_one_person_makes_is_known_with_little_freedom():
    wrong = np.zeros((50, 1), np.int64)
    wrong[:2] = 20  # one couple
    alone = leave_one_out(wrong, np.full(50, 40), np.array([20]), 1000, np.array([400.0]))
    even = leave_one_out(np.full((50, 1), 4), np.full(50, 40), np.array([100]), 1000, np.array([2.0]))
    assert alone.freedom[0] < 5 < 50 < even.freedom[0]
    assert alone.error[0] > 1
    assert even.error[0] == 0.0


def test_places_are_where_the_deviate_of_the_rate_is_the_asked_one():
    scores, who = crowd(1)
    order = np.argsort(-scores)
    ladder = np.arange(1, 400)
    left = module._of_worst(who[order], ladder)
    asked = np.linspace(-2.0, 2.0, 9)
    places = moved_places(asked, 50, ladder, left)
    assert (np.diff(places) > 0).all()
    assert places[4] == pytest.approx(50)
    for z, place in zip(asked, places, strict=True):
        error, freedom = (np.interp(place, ladder, column) for column in (left.error, left.freedom))
        student = np.log(place / 50) / error
        assert stats.norm.ppf(stats.t.cdf(student, freedom)) == pytest.approx(z, abs=0.03)


def test_no_place_is_below_half_an_error_however_sure():
    scores, who = crowd(2)
    ladder = np.array([1, 2, 10, 40])
    left = module._of_worst(who[np.argsort(-scores)], ladder)
    places = moved_places(np.array([-40.0, 40.0]), 0, ladder, left)
    assert places[0] == pytest.approx(0.5)
    assert places[1] > 40


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_the_order_of_pairs_names_and_a_rising_map_of_scores_decide_nothing(rate):
    scores, who = crowd(3, pairs=300)
    low, high = bar_interval(scores, who, rate)
    order = np.random.default_rng(0).permutation(300)
    assert bar_interval(scores[order], (700 - who)[order][:, ::-1], rate) == (low, high)
    assert bar_interval(np.exp(scores), who, rate) == (np.exp(low), np.exp(high))
    at = np.sort(scores)[::-1][min(int(rate * 300), 299)]
    assert low <= at <= high


@pytest.mark.parametrize(("people", "wolf", "rate"), [(60, 0.5, 0.03), (60, 0.0, 0.1), (200, 0.7, 0.03)])
def test_intervals_hold_a_planted_threshold_in_about_95_percent(people, wolf, rate):
    truth = stats.norm.isf(rate) * np.sqrt(1 + 2 * wolf**2 + 0.25)
    held = 0
    for seed in range(200):
        low, high = bar_interval(*crowd((5, seed), people, wolf=wolf), rate)
        held += low <= truth <= high
    assert 183 <= held <= 199


def test_intervals_of_rates_hold_a_planted_one():
    truth = stats.norm.sf(2.5 / np.sqrt(1 + 2 * 0.25 + 0.25))
    held = 0
    for seed in range(200):
        scores, who = crowd((6, seed))
        wrong = scores > 2.5
        low, high = rate_interval(wrong, who)
        assert low < wrong.mean() < high <= 1
        held += low <= truth <= high
    assert 183 <= held <= 199


def test_of_no_error_nothing_is_said_and_of_errors_only_neither():
    _, who = crowd(4, pairs=50)
    assert rate_interval(np.zeros(50, bool), who) == (0.0, 0.0)
    assert rate_interval(np.ones(50, bool), who) == (1.0, 1.0)


def test_one_who_is_in_all_errors_leaves_half_an_error_behind():
    wrong, pairs = np.array([[3], [3], [0], [0]]), np.full(4, 50)
    found = leave_one_out(wrong, pairs, np.array([3]), 100, np.zeros(1))
    without = np.log([0.5, 0.5, 3, 3])
    np.testing.assert_allclose(found.influence[:, 0], without.mean() - without)


def test_a_threshold_does_not_jump_to_where_next_to_no_errors_are_left():
    """One error in all is hardly known at all, and so never contradicts any rate; those in between do."""
    ladder = np.array([1, 2, 40, 70, 100, 200])
    left = module.LeftOut(
        np.zeros((5, 6)),
        np.array([9.0, 9.0, 0.2, 0.2, 0.2, 0.2]),
        np.array([2.0, 2.0, 90.0, 90.0, 90.0, 90.0]),
    )
    low, high = module.place_interval(100, ladder, left)
    assert 60 < low < 75
    assert 140 < high < 160
