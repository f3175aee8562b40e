"""Thresholds chosen on some people and scored on others, and what the report shows."""

import dataclasses

import numpy as np
import pytest

from tests.real_data import DATA, needs_data
from topoface.errors import UserError
from topoface.evaluation.calibration.known_pairs import KnownPairs, halves, known_pairs
from topoface.evaluation.calibration.probability import quality
from topoface.evaluation.calibration.threshold import choose, pairs_needed, require_resolution
from topoface.evaluation.embedding import FAILED_GENUINE, FAILED_IMPOSTOR, PairScores
from topoface.evaluation.images import EncodedImages
from topoface.evaluation.pairs.protocol import PairProtocol, build_protocol
from topoface.evaluation.pairs.verification import judge
from topoface.evaluation.report.calibration import calibration_section, reliability_plot
from topoface.functional.score_calibration import cllr, fit_logistic
from topoface.functional.verification import tar_at_far, threshold_at_far

PEOPLE, FOLDS = 200, 10


def planted(seed: int = 0, people: int = PEOPLE, spread: float = 0.1) -> KnownPairs:
    """Two genuine pairs of each person and four impostor pairs, all within ten folds of people; Gaussian scores."""
    random = np.random.default_rng(seed)
    fold = np.arange(people) * FOLDS // people
    sides = []
    for person in range(people):
        others = np.flatnonzero((fold == fold[person]) & (np.arange(people) != person))
        sides += [(person, person)] * 2 + [(person, int(other)) for other in random.choice(others, 4)]
    both = np.array(sides)
    same = both[:, 0] == both[:, 1]
    scores = np.where(same, 0.6, 0.1) + random.normal(0, spread, len(same))
    return KnownPairs(scores, same, both, fold[both[:, 0]])


def as_protocol(pairs: KnownPairs) -> PairProtocol:
    """One image a person and side; nobody looks at them."""
    count = int(pairs.people.max()) + 1
    return build_protocol(
        name="planted",
        uri="planted:",
        images=EncodedImages([f"p{i}" for i in range(count)], lambda i: b"", "planted"),
        pairs=pairs.people,
        same=pairs.same,
        folds=pairs.folds,
        people=list(range(count)),
        stamps=["planted"],
    )


@pytest.mark.parametrize("far", [0.02, 0.1, 0.5])
def test_the_threshold_is_the_exact_one_of_all_people(far: float) -> None:
    pairs = planted()
    chosen = choose(pairs, far, where="planted")
    accept = chosen.bars.accept
    assert accept.value == threshold_at_far(pairs.scores, pairs.same, far).threshold
    accepted = pairs.scores >= accept.value
    assert accepted[pairs.same].mean() == tar_at_far(pairs.scores, pairs.same, far)
    assert accepted[~pairs.same].sum() == chosen.false_accepts <= far * (~pairs.same).sum()
    assert accept.low <= accept.value <= accept.high
    assert (pairs.scores[pairs.same] < chosen.bars.reject.value).mean() <= chosen.miss_rate


def test_honest_rates_are_those_of_the_other_half_both_ways() -> None:
    pairs = planted()
    chosen = choose(pairs, 0.05, where="planted", seed=4)
    half, _ = halves(pairs, 4, "planted")
    false = missed = 0
    for k in (0, 1):
        learned, tried = half == 1 - k, half == k
        threshold = threshold_at_far(pairs.scores[learned], pairs.same[learned], 0.05).threshold
        false += (pairs.scores[tried & ~pairs.same] >= threshold).sum()
        missed += (pairs.scores[tried & pairs.same] < threshold).sum()
    assert chosen.honest_far.value == pytest.approx(false / (~pairs.same).sum())
    assert chosen.honest_miss.value == pytest.approx(missed / pairs.same.sum())
    assert sum(chosen.genuine_verdicts) == pytest.approx(1)
    assert sum(chosen.impostor_verdicts) == pytest.approx(1)


def test_whole_folds_make_halves_where_no_person_is_in_two_and_no_pair_is_lost() -> None:
    pairs = planted()
    half, words = halves(pairs, 0, "planted")
    assert set(half.tolist()) == {0, 1}
    assert not set(pairs.people[half == 0].ravel()) & set(pairs.people[half == 1].ravel())
    assert "folds" in words


@pytest.mark.parametrize("seed", range(3))
def test_halves_of_people_have_nobody_in_common_where_folds_do(seed: int) -> None:
    pairs = planted()
    pairs = pairs._replace(folds=np.arange(len(pairs.same)) % FOLDS)
    half, words = halves(pairs, seed, "planted")
    assert not set(pairs.people[half == 0].ravel()) & set(pairs.people[half == 1].ravel())
    assert (half[pairs.same] >= 0).all()
    assert f"{(half < 0).sum():,} pairs between them left out" in words
    chosen = choose(pairs, 0.05, where="planted", seed=seed)
    assert 0 < chosen.honest_far.value < 0.15


def test_the_order_of_the_pairs_decides_nothing() -> None:
    pairs = planted()
    order = np.random.default_rng(1).permutation(len(pairs.same))
    turned = KnownPairs(*(part[order] for part in pairs[:4]))
    assert choose(pairs, 0.05, where="planted").bars == (choose(turned, 0.05, where="planted").bars)


@pytest.mark.parametrize(
    ("far", "impostors", "message"),
    [
        (1e-3, 3000, r"takes at least 10,000 impostor pairs, there are 3,000; .* --far 0\.0034 or more"),
        (1e-6, 800, r"takes at least 10,000,000 impostor pairs, there are 800"),
        (1e-2, 999, r"takes at least 1,000 impostor pairs, there are 999"),
        (0.0, 999, r"is 0; give a rate"),
        (0.7, 999, r"is 0\.7; give a rate"),
        (float("nan"), 999, r"is nan; give a rate"),
    ],
)
def test_a_rate_that_the_pairs_cannot_tell_is_refused(far: float, impostors: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_resolution(far, impostors, "lfw")


@pytest.mark.parametrize("far", [1e-3, 3e-3, 0.1, 1 / 3])
def test_as_many_pairs_as_asked_for_are_enough(far: float) -> None:
    require_resolution(far, pairs_needed(far), "lfw")
    with pytest.raises(UserError):
        require_resolution(far, pairs_needed(far) - 1, "lfw")


def test_pairs_of_failed_images_are_left_out_and_counted() -> None:
    pairs = planted()
    scores = pairs.scores.copy()
    first, other = np.flatnonzero(pairs.same)[0], np.flatnonzero(~pairs.same)[0]
    scores[[first, other]] = FAILED_GENUINE, FAILED_IMPOSTOR
    usable = known_pairs(scores, as_protocol(pairs))
    assert usable.left_out == 2
    assert len(usable.scores) == len(scores) - 2
    assert np.abs(usable.scores).max() <= 1


def test_many_impostor_pairs_with_the_highest_score_are_refused() -> None:
    pairs = planted()
    scores = pairs.scores.copy()
    scores[np.flatnonzero(~pairs.same)[:30]] = 2.0
    with pytest.raises(UserError, match="16 impostor pairs share the highest score"):
        choose(pairs._replace(scores=scores), 0.02, where="planted")


def test_scores_no_better_than_chance_are_refused() -> None:
    pairs = planted()
    with pytest.raises(UserError, match="do not score higher"):
        quality(pairs._replace(scores=-pairs.scores), 0.5, where="planted")


def test_probabilities_hold_for_other_people_and_naive_ones_do_not() -> None:
    found = quality(planted(spread=0.2), 0.5, where="planted")
    assert found.error < found.expected < found.before
    assert found.cllr.low < found.cllr.value < found.cllr.high < 1
    assert 0 < found.brier.low < found.brier.value < found.brier.high


def test_probabilities_of_each_half_come_from_the_line_of_the_other() -> None:
    pairs = planted(people=40, spread=0.3)
    half, _ = halves(pairs, 0, "planted")
    ratio = np.zeros(len(half))
    for k in (0, 1):
        line = fit_logistic(pairs.scores[half == 1 - k], pairs.same[half == 1 - k], 0.3)
        ratio[half == k] = line.log_ratio(pairs.scores[half == k])
    assert quality(pairs, 0.3, where="planted").cllr.value == pytest.approx(cllr(ratio, pairs.same))


def test_the_report_shows_the_smallest_rate_that_pairs_can_tell() -> None:
    pairs = planted()
    judged = judge(
        PairScores(scores=pairs.scores, failed=np.zeros(len(pairs.same), dtype=np.bool_), failures=()),
        as_protocol(pairs),
        flip=True,
        bootstrap=0,
    )
    section = calibration_section({"m": judged}, {"m": "#123456"})
    assert section is not None
    assert section.thresholds["m"].far == 0.1
    assert section.qualities["m"].error < 0.05
    assert "#123456" in section.reliability
    worthless = dataclasses.replace(judged, scores=-judged.scores)
    assert calibration_section({"m": worthless}, {"m": "#123456"}) is None


def test_shares_of_none_and_all_are_drawn_at_the_edge() -> None:
    bins = quality(planted(spread=0.02), 0.5, where="planted").bins
    assert {0.0, 1.0} <= set(bins.share.tolist())
    assert "nan" not in reliability_plot({"m": bins}, {"m": "#123456"})


def test_intervals_hold_the_planted_threshold() -> None:
    """FAR 0.05 of N(0.1, 0.1) lies at 0.1 + 0.1 x 1.6449."""
    held = 0
    for seed in range(30):
        accept = choose(planted(seed), 0.05, where="planted").bars.accept
        held += accept.low <= 0.1 + 0.16449 <= accept.high
    assert held >= 25


@needs_data
def test_lfw_itself_cannot_tell_a_far_of_one_in_a_thousand() -> None:
    from topoface.evaluation import open_protocol

    protocol = open_protocol(f"{DATA}/lfw/lfw_112x112.zip::{DATA}/lfw/pairs.txt")
    pairs = known_pairs(np.linspace(0, 1, len(protocol.same)), protocol)
    with pytest.raises(UserError, match="at least 10,000 impostor pairs, there are 3,000"):
        choose(pairs, 1e-3, where=protocol.uri)
    half, words = halves(pairs, 0, "lfw")
    assert np.bincount(half).tolist() == [3000, 3000]
    assert "10 folds, which have no person in common" in words
