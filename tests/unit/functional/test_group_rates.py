"""Error rates of groups of pairs: equal to the definitions, in replicates too, and intervals hold what they promise."""

import numpy as np
import pytest

from tests.oracles.group_errors import errors_by_group, threshold
from topoface.functional.bootstrap import identity_counts, percentile_interval
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
    (found,) = group_rates(scores, same, who, [cells], FARS, replicates=0)
    for kind in (0, 1):
        assert found[kind].people.shape == (0, len(FARS), 3)
        for k, far in enumerate(FARS):
            np.testing.assert_allclose(
                found[kind].plain[k], by_definition(scores, same, cells, far, kind), rtol=1e-12
            )


def test_a_cell_without_pairs_of_one_kind_has_no_rate_of_it():
    scores, same, who, cells = drawn(2)
    cells = np.where(~same & (cells == 2), -1, cells)
    ((fmr, fnmr),) = group_rates(scores, same, who, [cells], FARS, replicates=5)
    assert np.isnan(fmr.plain[:, 2]).all()
    assert np.isnan(fmr.people[:, :, 2]).all()
    assert not np.isnan(fnmr.plain).any()


@pytest.mark.parametrize("seed", range(3))
def test_a_replicate_is_the_figure_of_pairs_repeated_as_often_as_drawn_with_a_threshold_of_its_own(seed):
    scores, same, who, cells = drawn(seed)
    (found,) = group_rates(scores, same, who, [cells], FARS, replicates=20, seed=seed)
    counts = identity_counts(len(np.unique(who)), range(20), seed).astype(int)
    left, right = np.searchsorted(np.unique(who), who).T
    bars = set()
    for r in range(20):
        times = np.where(same, counts[r, left], counts[r, left] * counts[r, right])
        again = np.repeat(np.arange(len(scores)), times)
        bars.add(threshold(scores[again].tolist(), same[again].tolist(), 0.1))
        for kind in (0, 1):
            for k, far in enumerate(FARS):
                wanted = by_definition(scores[again], same[again], cells[again], far, kind)
                np.testing.assert_allclose(found[kind].people[r, k], wanted, rtol=1e-12)
    assert len(bars) > 1


def test_a_replicate_of_couples_leaves_genuine_pairs_alone():
    scores, same, who, cells = drawn(1)
    (found,) = group_rates(scores, same, who, [cells], (1.0, 0.0), replicates=15)
    np.testing.assert_array_equal(found[1].couples[:, 0], np.zeros((15, 3)))  # everything accepted
    assert (
        len(np.unique(group_rates(scores, same, who, [cells], FARS, replicates=15)[0][0].couples[:, 0])) > 3
    )


def test_the_order_of_pairs_and_other_partitions_change_nothing():
    scores, same, who, cells = drawn(5)
    (plain,) = group_rates(scores, same, who, [cells], FARS, replicates=10)
    order = np.random.default_rng(0).permutation(len(scores))
    other = np.arange(len(scores)) % 5
    _, shuffled = group_rates(
        scores[order], same[order], who[order], [other, cells[order]], FARS, replicates=10
    )
    for a, b in zip(plain, shuffled, strict=True):
        np.testing.assert_array_equal(a.plain, b.plain)
        np.testing.assert_array_equal(a.people, b.people)


def test_renaming_people_in_order_and_a_rising_map_of_scores_change_nothing():
    scores, same, who, cells = drawn(6)
    (plain,) = group_rates(scores, same, who, [cells], FARS, replicates=10)
    (mapped,) = group_rates(np.exp(scores) * 7, same, who + 1000, [cells], FARS, replicates=10)
    np.testing.assert_array_equal(plain[0].people, mapped[0].people)
    np.testing.assert_array_equal(plain[1].couples, mapped[1].couples)


def test_memory_in_blocks_gives_the_same(monkeypatch):
    scores, same, who, cells = drawn(7)
    (whole,) = group_rates(scores, same, who, [cells], FARS, replicates=10)
    monkeypatch.setattr("topoface.functional.bootstrap.BLOCK", 3 * len(scores))
    (blocks,) = group_rates(scores, same, who, [cells], FARS, replicates=10)
    np.testing.assert_array_equal(whole[0].people, blocks[0].people)


def test_the_interval_of_a_group_holds_the_planted_rate():
    """Two groups of 60 people who differ in how easy they are; half of the impostor pairs of each kind of couple."""
    n, held = 120, {"fmr": 0, "fnmr": 0}
    group = np.arange(n) % 2
    trials = 30
    truth = planted_truth()
    for trial in range(trials):
        rng = generator(trial, "coverage of groups")
        scores, same, who = planted(rng, n, group)
        cells = np.where(group[who[:, 0]] == group[who[:, 1]], group[who[:, 0]], -1)
        fmr, fnmr = group_rates(scores, same, who, [cells], (0.05,), replicates=120, seed=trial)[0]
        for name, rates in (("fmr", fmr), ("fnmr", fnmr)):
            _, replicates = rates.settled(lambda r: r[:, 1], 0, n // 2)
            low, high = percentile_interval(replicates)
            held[name] += low <= truth[name] <= high
    assert held["fmr"] >= 0.83 * trials, held
    assert held["fnmr"] >= 0.83 * trials, held


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
