"""Rank, reliability and exact counts against scipy and plain loops."""

import math

import numpy as np
import pytest
from scipy import stats

from topoface.diagnostics.calibration import BINS, mcnemar, mean_over, ranking, reliability, wilson
from topoface.functional.bootstrap import percentile_interval
from topoface.functional.draws import generator

RANDOM = np.random.default_rng(5)
N = 600
IDENTITIES = RANDOM.integers(60, size=N)
PROBABILITY = RANDOM.beta(0.7, 0.9, N)
WRONG = RANDOM.random(N) < PROBABILITY


def test_the_ranking_is_the_rank_statistic_with_an_interval_around_it() -> None:
    scores = np.round(PROBABILITY, 1)  # with ties
    expected = stats.mannwhitneyu(scores[WRONG], scores[~WRONG]).statistic / (WRONG.sum() * (~WRONG).sum())
    found = ranking(scores, WRONG, IDENTITIES)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.low < expected < found.high
    assert ranking(-scores, WRONG, IDENTITIES).value == pytest.approx(1 - expected, abs=1e-12)


def test_copies_of_the_images_of_a_person_do_not_narrow_an_interval() -> None:
    once = ranking(PROBABILITY, WRONG, IDENTITIES)
    twice = ranking(*(np.tile(values, 2) for values in (PROBABILITY, WRONG, IDENTITIES)))
    assert twice == pytest.approx(once, abs=1e-12)
    means = (mean_over(np.tile(WRONG, k).astype(float), np.tile(IDENTITIES, k)) for k in (1, 2))
    assert next(means) == pytest.approx(next(means), abs=1e-12)


@pytest.mark.parametrize("all_of_them", [True, False])
def test_one_kind_alone_cannot_be_ranked(all_of_them: bool) -> None:
    assert all(map(math.isnan, ranking(PROBABILITY, np.full(N, all_of_them), IDENTITIES)))


def test_reliability_is_what_plain_loops_count() -> None:
    found = reliability(PROBABILITY, WRONG, IDENTITIES)
    error, seen = 0.0, 0
    for k in range(BINS):
        members = [i for i in range(N) if k <= PROBABILITY[i] * BINS < k + 1]
        each = next(b for b in found.bins if b.tenth == k)
        share = sum(bool(WRONG[i]) for i in members) / len(members)
        mean = sum(PROBABILITY[i] for i in members) / len(members)
        assert (each.samples, each.probability, each.share.value) == pytest.approx(
            (len(members), mean, share)
        )
        assert each.share.low <= share <= each.share.high
        error += len(members) / N * abs(mean - share)
        seen += len(members)
    assert seen == N
    assert found.error == pytest.approx(error, abs=1e-12)


def test_only_probabilities_that_are_met_count_as_calibrated() -> None:
    assert reliability(PROBABILITY, WRONG, IDENTITIES).calibrated
    assert not reliability(PROBABILITY**3, WRONG, IDENTITIES).calibrated
    everything_hard = reliability(np.full(N, 0.999), WRONG, IDENTITIES)
    assert not everything_hard.calibrated
    assert everything_hard.error == pytest.approx(0.999 - WRONG.mean())
    assert len(everything_hard.bins) == 1
    assert reliability(np.ones(N), np.ones(N, dtype=bool), IDENTITIES).error == 0


def test_what_calibrated_probabilities_show_by_chance_is_passed_in_one_draw_of_twenty() -> None:
    random = np.random.default_rng(1)
    limit = reliability(PROBABILITY, WRONG, IDENTITIES).error_if_calibrated
    above = 0
    for _ in range(300):
        wrong = random.random(N) < PROBABILITY
        place = (PROBABILITY * BINS).astype(int)
        gaps = [abs((wrong[place == k] - PROBABILITY[place == k]).sum()) for k in range(BINS)]
        above += sum(gaps) / N > limit
    assert 3 <= above <= 30


def test_an_interval_spans_independence_and_people() -> None:
    few = np.array([0.95] * 3 + [0.05] * 40)
    wrong = np.array([True] * 3 + [True, False] * 20)
    persons = np.array([1, 2, 3] + [4] * 20 + [5] * 20)
    low, high = reliability(few, wrong, persons).bins
    assert (high.share.low, high.share.high) == pytest.approx(wilson(3, 3))  # all agree, yet three are few
    assert low.share.low <= wilson(20, 40)[0]
    # four people, each wholly right or wholly wrong: far less is known than from 80 independent samples
    clustered = reliability(
        np.full(80, 0.5), np.repeat([True, False, True, False], 20), np.repeat(range(4), 20)
    )
    assert (clustered.bins[0].share.low, clustered.bins[0].share.high) == (0, 1)


def test_the_mean_is_drawn_by_people() -> None:
    values = RANDOM.normal(size=N)
    drawn = []
    for r in range(1000):
        people = generator(0, "identity bootstrap", r).integers(60, size=60)
        drawn.append(np.concatenate([values[person == IDENTITIES] for person in people]).mean())
    assert mean_over(values, IDENTITIES) == pytest.approx(
        (values.mean(), *percentile_interval(np.array(drawn))), abs=1e-12
    )


@pytest.mark.parametrize(("k", "n"), [(0, 4), (3, 3), (7, 40), (300, 1000)])
def test_the_interval_of_a_share_is_wilsons(k: int, n: int) -> None:
    expected = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 5), (1, 9), (30, 116), (900, 1100)])
def test_mcnemars_p_is_that_of_a_fair_coin(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(second, first) == mcnemar(first, second)
