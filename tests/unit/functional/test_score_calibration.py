"""Scores to probabilities: the line is the best one, stays finite, and its errors are what their definitions say."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import score_calibration as oracle
from topoface.functional.score_calibration import (
    brier,
    cllr,
    error_if_calibrated,
    fit_logistic,
    pair_costs,
    probability,
    reliability,
)


def gaussian(genuine: int, impostors: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores around 0.6 and 0.2 with one spread, 0.1: the log likelihood ratio is 40 s - 16."""
    random = np.random.default_rng(seed)
    scores = np.concatenate([random.normal(0.6, 0.1, genuine), random.normal(0.2, 0.1, impostors)])
    return scores, np.arange(genuine + impostors) < genuine


@pytest.mark.parametrize("prior", [0.5, 0.01, 0.9])
@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_the_line_is_the_one_that_a_general_minimiser_finds(prior: float, spread: float) -> None:
    random = np.random.default_rng(3)
    same = np.arange(90) < 30
    scores = np.where(same, 0.5, 0.2) + random.normal(0, spread, 90)
    line = fit_logistic(scores, same, prior)
    found = scipy.optimize.minimize(
        lambda x: oracle.logistic_loss(x[0], x[1], scores, same, prior),
        [1.0, 0.0],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 4000, "maxfev": 4000},
    )
    np.testing.assert_allclose([line.slope, line.offset], found.x, rtol=1e-5)
    assert oracle.logistic_loss(line.slope, line.offset, scores, same, prior) <= found.fun + 1e-13


@pytest.mark.parametrize("prior", [0.5, 0.01])
def test_the_line_approaches_the_likelihood_ratio_of_gaussian_scores(prior: float) -> None:
    scores, same = gaussian(100_000, 300_000)
    line = fit_logistic(scores, same, prior)
    assert line.slope == pytest.approx(40, rel=0.02)
    assert line.offset == pytest.approx(-16, rel=0.02)


def test_the_line_stays_finite_where_scores_separate_the_kinds() -> None:
    same = np.arange(200) < 100
    scores = np.where(same, 0.9, 0.1) + np.linspace(0, 0.01, 200)
    line = fit_logistic(scores, same)
    assert 0 < line.slope < 100
    ratio = line.log_ratio(scores)
    assert np.abs(ratio).max() <= np.log(101) + 1e-12
    assert cllr(ratio, same) < 0.05


def test_no_pair_is_surer_than_the_number_of_pairs_allows() -> None:
    scores, same = gaussian(300, 3000)
    low, high = fit_logistic(scores, same).log_ratio([-50.0, 50.0])
    assert (low, high) == (pytest.approx(-np.log(301)), pytest.approx(np.log(3001)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=6, max_size=40),
    st.sampled_from([0.5, 1e-3, 0.99]),
    st.randoms(use_true_random=False),
)
def test_probabilities_rise_with_the_score_lie_inside_0_and_1_and_ignore_the_order(
    pairs, prior, random
) -> None:
    scores, same = np.array([s / 20 for s, _ in pairs]), np.array([g for _, g in pairs])
    if same.all() or not same.any():
        return
    gap = scores[same].mean() - scores[~same].mean()
    if abs(gap) < 1e-9:  # rounding decides
        return
    if gap < 0:  # and only then does the best line not rise
        with pytest.raises(ValueError, match=r"equal|higher"):
            fit_logistic(scores, same, prior)
        return
    line = fit_logistic(scores, same, prior)
    said = probability(line.log_ratio(np.linspace(-2, 2, 101)), prior)
    assert (np.diff(said) >= 0).all()
    assert ((said > 0) & (said < 1)).all()
    order = list(range(len(pairs)))
    random.shuffle(order)
    again = fit_logistic(scores[order], same[order], prior)
    np.testing.assert_allclose(again, line, rtol=1e-6, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 16), st.booleans()), min_size=2, max_size=40),
    st.sampled_from([0.5, 0.125]),
    st.integers(1, 16),
)
def test_the_calibration_error_is_that_of_a_loop_over_pairs(pairs, prior, bins) -> None:
    said, same = np.array([p / 16 for p, _ in pairs]), np.array([g for _, g in pairs])
    # A stretch whose middle lies on an edge, but for rounding, may go either way.
    weights = np.where(same, prior / max(same.sum(), 1), (1 - prior) / max((~same).sum(), 1))
    middles = [(weights[said < p].sum() + weights[said == p].sum() / 2) * bins for p in said]
    if same.all() or not same.any() or min(abs(m - round(m)) for m in middles) < 1e-9:
        return
    found = reliability(said, same, prior, bins)
    assert found.error == pytest.approx(oracle.calibration_error(said, same, prior, bins), abs=1e-12)
    assert found.weight.sum() == pytest.approx(1)


def test_true_probabilities_stay_below_the_expected_error_and_wrong_ones_do_not() -> None:
    below = 0
    for seed in range(20):
        scores, same = gaussian(1000, 1000, seed)
        truth = 0.4 * (40 * scores - 16)  # the kinds overlap: a flatter line, and scores as wide
        same = np.random.default_rng(seed).random(2000) < probability(truth, 0.5)
        prior = same.mean()
        said = probability(truth, 0.5)
        expected = error_if_calibrated(said, same, prior, seed=seed)
        below += reliability(said, same, prior).error < expected
        assert reliability(probability(2 * truth, 0.5), same, prior).error > expected
    assert below >= 16


def test_cllr_is_1_for_a_ratio_of_1_and_0_for_certainty_that_is_right() -> None:
    same = np.array([True, False, False])
    assert cllr(np.zeros(3), same) == pytest.approx(1)
    assert cllr(np.array([60.0, -60.0, -60.0]), same) == pytest.approx(0, abs=1e-15)
    assert cllr(np.array([-1.0, 1.0, 1.0]), same) > 1
    assert pair_costs(np.array([0.0, np.log(3), 0.0]), same)[1] == pytest.approx(2)


def test_brier_weighs_kinds_by_the_prior() -> None:
    same = np.array([True, False, False])
    assert brier([0.5, 0.0, 1.0], same, 0.2) == pytest.approx(0.2 * 0.25 + 0.8 * 0.5)


@pytest.mark.parametrize(
    ("scores", "same", "prior", "message"),
    [
        ([0.1, 0.2], [1, 0], 0.0, "the prior is 0"),
        ([0.1, 0.2], [1, 0], float("nan"), "the prior is nan"),
        ([0.1, 0.1], [1, 0], 0.5, "all scores are equal"),
        ([0.1, 0.2], [1, 0], 0.5, "do not score higher"),
        ([0.1, np.nan], [1, 0], 0.5, "score 1 is nan"),
        ([0.1, 0.2], [1, 1], 0.5, "both kinds are needed"),
        ([0.1], [1, 0], 0.5, "two lists of one length"),
    ],
)
def test_what_makes_no_sense_is_refused(scores, same, prior, message) -> None:
    with pytest.raises(ValueError, match=message):
        fit_logistic(scores, same, prior)
