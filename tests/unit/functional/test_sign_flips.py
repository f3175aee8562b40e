"""The margin of few differences: McNemar's exact test where all weigh alike, and nothing where many decide."""

from math import comb

import numpy as np
import pytest

from topoface.functional.sign_flips import flip_margin


@pytest.mark.parametrize(
    ("one", "other"), [(b, c) for b in range(10) for c in range(b + 1) if 0 < b + c < 10]
)
def test_of_equal_differences_it_leaves_out_zero_when_mcnemars_exact_test_does(one, other):
    parts = np.repeat([0.01, -0.01], [one, other])
    tail = sum(comb(one + other, k) for k in range(one, one + other + 1)) / 2 ** (one + other)
    clear = one != other and 2 * tail <= 0.05
    assert (parts.sum() > flip_margin(parts, np.arange(len(parts))) + 1e-12) == clear


def test_ten_that_decide_are_left_to_the_bootstrap():
    assert flip_margin(np.ones(10), np.arange(10)) == 0.0
    assert flip_margin(np.zeros(0), np.arange(0)) == 0.0


def test_pairs_of_one_person_are_one():
    parts = np.full(9, 0.01)
    assert flip_margin(parts, np.arange(9)) < parts.sum()
    assert flip_margin(parts, np.arange(9) // 3) == pytest.approx(parts.sum())


def test_three_large_among_many_small_are_few():
    parts = np.concatenate([[1.0, 1.0, 1.0], np.full(500, 1e-4)])
    assert flip_margin(parts, np.arange(len(parts))) > 2.9
