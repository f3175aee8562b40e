"""What looking for the lowest cost takes off it, where that is known."""

import numpy as np
import pytest

from topoface.functional.lowest_cost import Choosing, of_choosing, unchosen
from topoface.functional.verification import DetectionCost


def test_the_loss_is_what_the_minimum_of_a_parabola_with_noise_loses():
    """Replicates add noise of another variance: 1 (genuine pairs alone), 3 (impostor pairs alone), or between."""
    rng = np.random.default_rng(0)
    steps, trials, most = 400, 400, 10**9
    parabola = np.linspace(-4, 4, steps + 1) ** 2

    def noise(variance, how_many):
        walk = np.cumsum(rng.normal(size=(how_many, steps + 1)) * np.sqrt(8 / steps * variance), axis=1)
        return walk - walk[:, steps // 2, None]

    lost = (parabola + noise(1.0, 20_000)).min(axis=1).mean()
    cost = DetectionCost(prior=0.5)  # ratio 1
    for genuine, impostors, added in ((100, most, 1.0), (most, 100, 3.0), (100, 100, 2.0)):
        told = np.empty(trials)
        for trial in range(trials):
            curve = parabola + noise(1.0, 1)[0]
            extra = noise(added, 60)
            drawn = (curve + extra - extra[:, curve.argmin(), None]).min(axis=1)
            told[trial] = of_choosing(curve.min(), drawn, genuine, impostors, cost).lost
        assert told.mean() == pytest.approx(lost, rel=0.1)


def test_replicates_get_back_what_was_lost_and_vary_more_by_half_its_square():
    drawn = 0.5 + 0.02 * np.random.default_rng(0).normal(size=5000)
    moved = unchosen(0.5, drawn, Choosing(-0.02, 0.02**2 / 2))
    assert np.isclose(moved.var(), drawn.var() + 0.02**2 / 2)
    assert moved.mean() == pytest.approx(0.52, abs=1e-3)
    np.testing.assert_array_equal(unchosen(0.5, drawn, Choosing(0.0, 0.0)), drawn)


def test_undefined_replicates_stay_so():
    none = np.full(4, np.nan)
    assert of_choosing(0.3, none, 5, 5, DetectionCost()) == Choosing(0, 0)
    assert np.isnan(unchosen(0.3, none, Choosing(0, 0))).all()
    some = unchosen(0.3, np.array([0.2, np.nan, 0.4]), Choosing(-0.1, 0.005))
    assert np.isnan(some).tolist() == [False, True, False]
    assert unchosen(0.3, np.full(3, 0.3), Choosing(-0.1, 0.005)) == pytest.approx(
        np.full(3, 0.4)
    )  # all alike


@pytest.mark.parametrize("folds", [2, 10])
def test_pairs_held_out_miss_the_truth_by_a_third_of_what_the_minimum_loses(folds):
    """A parabola with noise in independent parts: each part stands where the sum of all others is lowest."""
    rng = np.random.default_rng(0)
    steps, trials = 400, 1500
    place = np.linspace(-3, 3, steps + 1)
    lowest, held_out = np.empty((2, trials))
    for trial in range(trials):
        walk = np.cumsum(rng.normal(size=(folds, steps + 1)) * np.sqrt(6 / steps / folds), axis=1)
        parts = walk - walk[:, steps // 2, None] + place**2 / folds
        whole = parts.sum(axis=0)
        lowest[trial] = whole.min()
        held_out[trial] = sum(part[np.argmin(whole - part)] for part in parts)
    found = Choosing(lowest.mean(), 0.0).held_out(folds)
    assert found.lost == pytest.approx(held_out.mean(), rel=0.15)
    assert found.variance == pytest.approx(held_out.var(), rel=0.25)
