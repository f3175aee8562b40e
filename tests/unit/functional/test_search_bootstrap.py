"""Replicates of searches against searches that are really repeated, and what their intervals promise."""

from statistics import NormalDist

import numpy as np
import pytest

from topoface.functional import search_bootstrap as module
from topoface.functional.bootstrap import identity_counts, percentile_interval
from topoface.functional.identification import Searches, point_at_fpir, shares_within
from topoface.functional.search_bootstrap import search_bootstrap


def asked(rng, people=12, each=5, effect=0.7):
    """Searches of people with and without mates, whose scores have something in common within a person."""
    who = rng.permutation(np.repeat(np.arange(2 * people), each))
    mated = who < people
    score = (effect * rng.normal(size=2 * people))[who] + rng.normal(size=len(who))
    return Searches(
        mated=mated,
        mate=np.where(mated, score + 3, -np.inf),
        stranger=np.where(mated, -np.inf, score),
        rank=np.where(mated, 1 + (score < -2) + (score < -2.5), 9),
    ), who


def repeated(searches, times):
    return Searches(*(np.repeat(part, times) for part in searches))


def test_before_they_are_moved_replicates_are_figures_of_repeated_searches(monkeypatch):
    monkeypatch.setattr(module, "towards", lambda _, drawn, __: drawn)
    searches, who = asked(np.random.default_rng(0))
    shares, tpir = search_bootstrap(searches, who, 24, (1, 2), (0.1, 0.02), replicates=15, seed=4)
    for r, counts in enumerate(identity_counts(24, range(15), 4).astype(int)):
        again = repeated(searches, counts[who])
        assert shares[r].tolist() == pytest.approx(shares_within(again, (1, 2)))
        assert tpir[r].tolist() == pytest.approx([point_at_fpir(again, f).tpir for f in (0.1, 0.02)])


def test_replicates_are_as_far_apart_as_people_who_are_left_out_say():
    """The jackknife over people, which needs no slope of a curve, for the rank; and a wide one of TPIR."""
    searches, who = asked(np.random.default_rng(1), people=40, each=8)
    shares, tpir = search_bootstrap(searches, who, 80, (1,), (0.2,), replicates=4000)
    without = []
    for person in range(80):
        kept = Searches(*(part[who != person] for part in searches))
        without.append((shares_within(kept, (1,))[0], point_at_fpir(kept, 0.2).tpir))
    error = np.sqrt(((np.array(without) - np.mean(without, axis=0)) ** 2).sum(axis=0) * 79 / 80)
    assert shares.std() == pytest.approx(error[0], rel=0.2)  # a little more, by Student's t
    assert tpir.std() == pytest.approx(error[1], rel=0.3)


def test_nobody_with_a_mate_and_nobody_without_one():
    searches, who = asked(np.random.default_rng(2))
    mated = Searches(*(part[searches.mated] for part in searches))
    shares, tpir = search_bootstrap(mated, who[searches.mated], 12, (1,), (0.1,), replicates=6)
    assert np.isfinite(shares).all()
    assert np.isnan(tpir).all()
    strangers = Searches(*(part[~searches.mated] for part in searches))
    shares, tpir = search_bootstrap(strangers, who[~searches.mated] - 12, 12, (1,), (0.1,), replicates=6)
    assert np.isnan(shares).all()
    assert np.isnan(tpir).all()


def test_mates_that_were_never_found_and_equal_scores_are_taken_as_they_are():
    searches, who = asked(np.random.default_rng(3))
    lost = searches._replace(mate=np.where(who < 3, -np.inf, np.round(searches.mate)))
    _, tpir = search_bootstrap(lost, who, 24, (1,), (0.1,), replicates=50)
    assert np.isfinite(tpir).all()
    assert tpir.max() < 1


def test_intervals_hold_the_planted_figures_of_few_people():
    """(benchmarks/intervals.py tries more, longer.)"""
    held, spread, normal = np.zeros(2), np.hypot(1, 0.7), NormalDist()
    truth = (
        1 - normal.cdf(-2 / spread),
        1 - normal.cdf((normal.inv_cdf(0.9) * spread - 3) / spread),
    )
    for trial in range(150):
        searches, who = asked(np.random.default_rng(trial), people=40, each=4)
        shares, tpir = search_bootstrap(searches, who, 80, (1,), (0.1,), replicates=200, seed=trial)
        for k, drawn in enumerate((shares[:, 0], tpir[:, 0])):
            low, high = percentile_interval(drawn)
            held[k] += low <= truth[k] <= high
    assert (held >= 134).all()  # 95 % less 3 standard deviations
