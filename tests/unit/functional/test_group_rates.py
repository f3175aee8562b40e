"""Error rates of groups of pairs: equal to the definitions, in replicates too, and intervals hold what they promise."""

import numpy as np
import pytest

from tests.oracles.group_errors import errors_by_group
from topoface.functional.draws import generator
from topoface.functional.group_rates import group_rates

FARS = (0.3, 0.1, 0.0)


def drawn(seed, people=8, pairs=60, ties=True):
    """Scores, same, identities, and a cell of each pair in a partition of three; some in none."""
    rng = np.random.default_rng(seed)
    who = rng.integers(0, people, (pairs, 2))
    who[: pairs // 3, 1] = who[: pairs // 3, 0]
    same = who[:, 0] == who[:, 1]
    scores = rng.normal(same * 1.0, 1)
    scores = np.round(scores * 3) / 3 if ties else scores
    return scores, same, who * 10 + 3, rng.integers(-1, 3, pairs)


def by_definition(scores, same, cells, far, kind):
    counts = errors_by_group(
        scores.tolist(), same.tolist(), [(None, None) if c < 0 else (str(c),) * 2 for c in cells], far
    )
    rates = np.full(3, np.nan)
    for cell in range(3):
        if frozenset(str(cell)) in counts:
            found = counts[frozenset(str(cell))]
            wrong, every = (
                (found.false_matches, found.impostors)
                if kind == 0
                else (found.false_non_matches, found.genuine)
            )
            rates[cell] = wrong / every if every else np.nan
    return rates


@pytest.mark.parametrize("seed", range(8))
def test_rates_are_those_of_the_definitions(seed):
    scores, same, who, cells = drawn(seed)
    (found,) = group_rates(scores, same, who, [cells], FARS)
    for kind in (0, 1):
        for k, far in enumerate(FARS):
            np.testing.assert_allclose(
                found[kind].plain[k], by_definition(scores, same, cells, far, kind), rtol=1e-12
            )


def test_a_cell_without_pairs_of_one_kind_has_no_rate_of_it():
    scores, same, who, cells = drawn(2)
    cells = np.where(~same & (cells == 2), -1, cells)
    ((fmr, fnmr),) = group_rates(scores, same, who, [cells], FARS)
    assert np.isnan(fmr.plain[:, 2]).all()
    assert not np.isnan(fnmr.plain).any()
    assert np.isfinite(fmr.influence(1, {0: 1.0})).all()


def test_what_a_pair_does_to_a_rate_is_its_own_share_and_what_the_threshold_does_to_all():
    """Even scores, of which group 1 is a share that falls as scores do: its FMR is (f - f^2 / 2) / 0.5 where that of all is f."""
    n = 40_000
    even = (np.arange(n) + 0.5) / n
    group = (np.random.default_rng(0).random(n) < 1 - even).astype(int)
    scores, same = np.append(1 - even, 1 - even**2), np.arange(2 * n) >= n
    cells = np.append(group, np.zeros(n, int))
    ((fmr, fnmr),) = group_rates(scores, same, np.arange(4 * n).reshape(-1, 2), [cells], (0.25,))
    accepted = scores > 0.75
    share = group.mean()
    rate, slope = (0.25 - 0.25**2 / 2) / 0.5, (1 - 0.25) / 0.5
    assert fmr.plain[0, 1] == pytest.approx(rate, rel=0.03)
    own = np.where(same | (cells != 1), 0, (accepted - fmr.plain[0, 1]) / (n * share))
    other = np.where(same, 0, (accepted - 0.25) / n)
    np.testing.assert_allclose(fmr.influence(0, {1: 1.0}) * n, (own - slope * other) * n, atol=0.2)
    missed = np.where(
        same, (~accepted - fnmr.plain[0, 0]) / n, 0
    )  # TAR is sqrt(f): misses fall by 1 / (2 sqrt(f))
    np.testing.assert_allclose(fnmr.influence(0, {0: 1.0}) * n, (missed + 1.0 * other) * n, atol=0.05)


def test_where_all_pairs_are_one_group_its_rate_is_that_of_the_threshold_and_sure():
    scores, same, who, _ = drawn(3, ties=False)
    ((fmr, fnmr),) = group_rates(scores, same, who, [np.zeros(len(scores), int)], (0.3,))
    assert fmr.error(0, {0: 1.0}).size == pytest.approx(0, abs=1e-12)
    assert fnmr.error(0, {0: 1.0}).size > 0.01


def test_sums_of_rates_add_up():
    scores, same, who, cells = drawn(4)
    ((fmr, _),) = group_rates(scores, same, who, [cells], FARS)
    both = fmr.influence(1, {0: 2.0, 2: -1.0})
    np.testing.assert_allclose(both, 2 * fmr.influence(1, {0: 1.0}) - fmr.influence(1, {2: 1.0}), atol=1e-15)
    assert both.sum() == pytest.approx(0, abs=1e-12)


def test_the_order_of_pairs_and_other_partitions_change_nothing():
    scores, same, who, cells = drawn(5)
    (plain,) = group_rates(scores, same, who, [cells], FARS)
    order = np.random.default_rng(0).permutation(len(scores))
    other = np.arange(len(scores)) % 5
    _, shuffled = group_rates(scores[order], same[order], who[order], [other, cells[order]], FARS)
    for a, b in zip(plain, shuffled, strict=True):
        np.testing.assert_array_equal(a.plain, b.plain)
        for k in range(len(FARS)):
            assert a.error(k, {1: 1.0}) == b.error(k, {1: 1.0})


def test_renaming_people_in_order_and_a_rising_map_of_scores_change_nothing():
    scores, same, who, cells = drawn(6)
    (plain,) = group_rates(scores, same, who, [cells], FARS)
    (mapped,) = group_rates(np.exp(scores) * 7, same, who + 1000, [cells], FARS)
    for a, b in zip(plain, mapped, strict=True):
        np.testing.assert_array_equal(a.influence(1, {0: 1.0}), b.influence(1, {0: 1.0}))


def test_the_interval_of_a_group_holds_the_planted_rate():
    """Two groups of 60 people who differ in how easy they are; half of the impostor pairs of each kind of couple.

    (benchmarks/group_intervals.py tries more, longer.)
    """
    n, held = 120, {"fmr": 0, "fnmr": 0}
    group = np.arange(n) % 2
    trials = 200
    truth = planted_truth()
    for trial in range(trials):
        rng = generator(trial, "coverage of groups")
        scores, same, who = planted(rng, n, group)
        cells = np.where(group[who[:, 0]] == group[who[:, 1]], group[who[:, 0]], -1)
        fmr, fnmr = group_rates(scores, same, who, [cells], (0.05,))[0]
        for name, rates in (("fmr", fmr), ("fnmr", fnmr)):
            low, high = rates.error(0, {1: 1.0}).around(rates.plain[0, 1])
            held[name] += low <= truth[name] <= high
    assert all(183 <= number <= 198 for number in held.values()), held


def planted(rng, n, group):
    """Everyone four times with himself and with twelve others; group 1 is harder to tell apart and to recognise."""
    own = np.repeat(np.arange(n), 4)
    left = np.repeat(np.arange(n), 12)
    right = (left + 1 + rng.integers(0, n - 1, len(left))) % n
    ease, wolf = 0.5 * rng.standard_normal(n), 0.4 * rng.standard_normal(n)
    within = (group[left] == group[right]) & (group[left] == 1)
    scores = np.concatenate(
        [
            3 - 0.5 * group[own] + ease[own] + rng.standard_normal(len(own)),
            0.5 * within + wolf[left] + wolf[right] + rng.standard_normal(len(left)),
        ]
    )
    who = np.concatenate([np.stack([own, own], 1), np.stack([left, right], 1)])
    return scores, np.arange(len(scores)) < len(own), who


def planted_truth():
    """Rates of group 1 of endless people, where a twentieth of all impostor pairs is accepted."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    spread = np.sqrt(1 + 2 * 0.4**2)
    share = (60 * 59 / 2) / (120 * 119 / 2)  # of impostor pairs within group 1
    bar = brentq(
        lambda t: share * norm.sf((t - 0.5) / spread) + (1 - share) * norm.sf(t / spread) - 0.05, 0, 5
    )
    return {"fmr": norm.sf((bar - 0.5) / spread), "fnmr": norm.cdf((bar - 2.5) / np.sqrt(1.25))}
