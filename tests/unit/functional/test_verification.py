"""ROC, TAR at FAR, k-fold accuracy, AUC and EER against their definitions, and what must never change them."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import verification as oracle
from topoface.functional.verification import (
    DetectionCost,
    allowed_false_accepts,
    auc,
    equal_error_rate,
    kfold,
    kfold_accuracy,
    min_dcf,
    roc,
    tar_at_far,
    threshold_at_far,
)

compiling = settings(deadline=None)  # the first call of a loop compiles it
FARS = (0.0, 0.01, 0.1, 1 / 3, 0.5, 0.999, 1.0)


@st.composite
def scored_pairs(draw, least=2, most=40):
    """Scores of few values, so that ties within and across the classes are common, and both classes."""
    same = draw(st.lists(st.booleans(), min_size=least, max_size=most))
    same[0], same[-1] = True, False
    values = st.sampled_from([-1.0, -0.5, -0.1, 0.0, 0.1, 0.3, 0.5, 0.9])
    scores = draw(st.lists(values | st.floats(-1, 1, width=32), min_size=len(same), max_size=len(same)))
    return np.array(scores), np.array(same)


@st.composite
def folded_pairs(draw):
    """As above, in two to four folds, each with both kinds."""
    k = draw(st.integers(2, 4))
    parts = [draw(scored_pairs(most=12)) for _ in range(k)]
    folds = np.repeat(np.arange(k), [len(scores) for scores, _ in parts])
    return np.concatenate([s for s, _ in parts]), np.concatenate([g for _, g in parts]), folds


@given(scored_pairs())
def test_roc_holds_every_threshold_and_its_rates(pairs):
    scores, same = pairs
    far, tar, thresholds = roc(scores, same)
    assert thresholds.tolist() == oracle.candidate_thresholds(scores.tolist())
    for f, t, threshold in zip(far, tar, thresholds, strict=True):
        assert (f, t) == tuple(map(float, oracle.rates(scores, same, threshold)))
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)


@given(scored_pairs(), st.sampled_from(FARS) | st.floats(0, 1))
def test_tar_at_far_is_the_largest_that_the_definition_allows(pairs, far):
    scores, same = pairs
    expected = oracle.tar_at_far(scores.tolist(), same.tolist(), Fraction(far))
    # A FAR such as 1/3 is rounded in binary: the true third is then just above or below it.
    nearby = oracle.tar_at_far(scores.tolist(), same.tolist(), Fraction(np.nextafter(far, 2)))
    assert tar_at_far(scores, same, far) in (float(expected), float(nearby))


@given(scored_pairs(), st.sampled_from(FARS) | st.floats(0, 1))
def test_far_never_exceeds_the_asked_one(pairs, far):
    scores, same = pairs
    point = threshold_at_far(scores, same, far)
    accepted = scores >= point.threshold
    assert accepted[~same].mean() == point.far <= far
    assert accepted[same].mean() == point.tar
    assert accepted[~same].sum() == point.false_accepts <= point.allowed


@given(scored_pairs())
def test_auc_and_eer_follow_their_definitions(pairs):
    scores, same = pairs
    assert auc(scores, same) == pytest.approx(float(oracle.auc(scores.tolist(), same.tolist())), abs=1e-12)
    expected = float(oracle.equal_error_rate(scores.tolist(), same.tolist()))
    assert equal_error_rate(scores, same) == pytest.approx(expected, abs=1e-12)


@compiling
@given(folded_pairs())
def test_kfold_thresholds_are_the_best_of_the_other_folds(pairs):
    scores, same, folds = pairs
    mean, per_fold = kfold_accuracy(scores, same, folds)
    expected = [float(a) for a in oracle.kfold_accuracy(scores.tolist(), same.tolist(), folds.tolist())]
    assert per_fold.tolist() == pytest.approx(expected, abs=1e-15)
    assert mean == pytest.approx(np.mean(expected), abs=1e-15)
    for fold, threshold in enumerate(kfold(scores, same, folds).thresholds):
        assert threshold == np.inf or threshold in scores[folds != fold]


def figures(scores, same, folds):
    """Everything that must not depend on how scores are spelt."""
    return (
        [tar_at_far(scores, same, far) for far in FARS],
        auc(scores, same),
        equal_error_rate(scores, same),
        kfold_accuracy(scores, same, folds)[1].tolist(),
    )


@compiling
@given(folded_pairs(), st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(pairs, random):
    order = list(range(len(pairs[0])))
    random.shuffle(order)
    assert figures(*(column[order] for column in pairs)) == figures(*pairs)


@compiling
@given(folded_pairs())
def test_a_strictly_increasing_map_of_the_scores_changes_nothing(pairs):
    scores, same, folds = pairs
    ranks = np.unique(scores, return_inverse=True)[1].astype(np.float64)
    assert figures(np.exp(ranks / 10) - 7, same, folds) == figures(scores, same, folds)


@compiling
@given(folded_pairs(), st.integers(2, 4))
def test_repeating_every_pair_changes_nothing(pairs, times):
    repeated = tuple(np.tile(column, times) for column in pairs)
    for a, b in zip(figures(*repeated), figures(*pairs), strict=True):
        assert a == pytest.approx(b, abs=1e-12)


@given(folded_pairs())
def test_swapping_the_classes_and_the_sign_mirrors_auc_and_eer(pairs):
    scores, same, _ = pairs
    assert auc(-scores, ~same) == pytest.approx(auc(scores, same), abs=1e-12)
    assert equal_error_rate(-scores, ~same) == pytest.approx(equal_error_rate(scores, same), abs=1e-12)


def test_planted_case_with_known_answers():
    scores = [0.9, 0.8, 0.7, 0.4, 0.6, 0.5, 0.3, 0.2]
    same = [1, 1, 1, 1, 0, 0, 0, 0]
    assert tar_at_far(scores, same, 0) == 0.75
    assert threshold_at_far(scores, same, 0.25) == (0.6, 0.75, 0.25, 1, 1)
    assert threshold_at_far(scores, same, 0.5) == (0.4, 1.0, 0.5, 2, 2)
    assert auc(scores, same) == 14 / 16
    assert equal_error_rate(scores, same) == 0.25


def test_ties_across_the_threshold_are_accepted_together_or_not_at_all():
    scores, same = [0.5, 0.5, 0.5, 0.5, 0.1, 0.1], [1, 1, 0, 0, 1, 0]
    point = threshold_at_far(scores, same, 0.4)  # one false accept allowed, but two impostors share the score
    assert point == (np.inf, 0.0, 0.0, 0, 1)
    assert auc([0.5, 0.5], [1, 0]) == equal_error_rate([0.5, 0.5], [1, 0]) == 0.5


@pytest.mark.parametrize(("impostors", "far", "allowed"), [(3000, 1e-3, 3), (1000, 0.1, 100), (10, 0.3, 3), (49, 1 / 49, 1), (7, 0, 0), (7, 1, 7), (10**8, 1e-6, 100)])  # fmt: skip
def test_rounding_neither_gives_nor_takes_a_false_accept(impostors, far, allowed):
    assert allowed_false_accepts(impostors, far) == allowed


@given(st.integers(1, 10**7), st.data())
def test_every_attainable_far_is_attained(impostors, data):
    k = data.draw(st.integers(0, impostors))
    assert allowed_false_accepts(impostors, k / impostors) == k


def test_equally_good_thresholds_are_broken_by_the_strictest():
    # On fold 1, 0.9 and 0.5 are right three times of four; the pair at 0.7 in fold 0 tells them apart.
    scores, same, folds = [0.9, 0.6, 0.5, 0.1, 0.7, 0.0], [1, 0, 1, 0, 1, 0], [1, 1, 1, 1, 0, 0]
    result = kfold(scores, same, folds)
    assert result.thresholds[0] == 0.9
    assert result.accuracy[0] == 0.5


@settings(max_examples=20)
@given(scored_pairs())
def test_torch_tensors_lists_and_float32_give_the_same(pairs):
    scores, same = pairs[0].astype(np.float32), pairs[1]
    tensor = torch.tensor(scores, requires_grad=True)
    expected = tar_at_far(scores, same, 0.1), auc(scores, same)
    assert (tar_at_far(tensor, torch.tensor(same), 0.1), auc(tensor, torch.tensor(same))) == expected
    assert (
        tar_at_far(scores.tolist(), same.astype(int).tolist(), 0.1),
        auc(scores.tolist(), same),
    ) == expected


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([0.1, 0.2], [1, 1], "both kinds are needed"),
        ([0.1, 0.2], [0, 0], "both kinds are needed"),
        ([], [], "both kinds are needed"),
        ([0.1, np.nan], [1, 0], "score 1 is nan"),
        ([np.inf, 0.1], [1, 0], "score 0 is inf"),
        ([0.1, 0.2, 0.3], [1, 0], "one score and one label a pair"),
        ([[0.1, 0.2]], [[1, 0]], "one score and one label a pair"),
        ([0.1, 0.2], [3, 0], "issame"),
    ],
)
@pytest.mark.parametrize("figure", [roc, auc, equal_error_rate, lambda s, g: tar_at_far(s, g, 0.1)])
def test_unusable_scores_are_refused_with_a_remedy(figure, scores, same, message):
    with pytest.raises(ValueError, match=message):
        figure(scores, same)


@pytest.mark.parametrize(
    ("folds", "message"),
    [([0, 0, 0, 0], "at least two"), ([0, 1], "one fold for each"), ([0, 1, 0, 1], "spread both kinds")],
)
def test_unusable_folds_are_refused_with_a_remedy(folds, message):
    with pytest.raises(ValueError, match=message):
        kfold_accuracy([0.1, 0.2, 0.3, 0.4], [1, 0, 1, 0], folds)


@pytest.mark.parametrize("folds", [-3, 0, 1, 2.5])
def test_a_number_of_folds_is_whole_and_from_two(folds):
    with pytest.raises(ValueError, match="whole number from 2"):
        kfold_accuracy([0.1, 0.2, 0.3, 0.4] * 5, [1, 0, 1, 0] * 5, folds)


@pytest.mark.parametrize("far", [-0.1, 1.1, float("nan")])
def test_a_far_outside_0_to_1_is_refused(far):
    with pytest.raises(ValueError, match="between 0 and 1"):
        tar_at_far([0.1, 0.2], [1, 0], far)


def test_a_number_of_folds_means_consecutive_parts() -> None:
    rng = np.random.default_rng(0)
    scores, same = rng.normal(size=40), np.tile([True, False], 20)
    folds = np.repeat(np.arange(4), 10)
    assert kfold_accuracy(scores, same, 4)[1].tolist() == kfold_accuracy(scores, same, folds)[1].tolist()


@compiling
@given(folded_pairs())
def test_the_compiled_cuts_are_those_of_the_arrays(pairs):
    scores, same, folds = pairs
    compiled = kfold(scores, same, folds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topoface.functional.compiled.compiled", lambda *_, **__: None)
        for one, other in zip(compiled, kfold(scores, same, folds), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("names", [[7, 7, 3, 3], [-1, -1, 5000, 5000], ["b", "b", "a", "a"]])
def test_folds_may_have_any_names(names):
    result = kfold([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], names)
    assert result.folds.tolist() == sorted(set(names))
    assert sorted(result.accuracy.tolist()) == [0.5, 1.0]  # the stricter threshold of one rejects 0.8


@given(scored_pairs(), st.floats(0.01, 0.99), st.floats(0.1, 10), st.floats(0.1, 10))
def test_min_dcf_is_the_lowest_cost_of_all_thresholds(pairs, prior, miss, false_accept):
    scores, same = pairs
    # Costs only change the prior that counts.
    weight = miss * prior / (miss * prior + false_accept * (1 - prior))
    expected = oracle.min_dcf(scores.tolist(), same.tolist(), weight)
    value, threshold = min_dcf(scores, same, DetectionCost(prior, miss, false_accept))
    assert value == pytest.approx(expected, rel=1e-9)
    far, tar = oracle.rates(scores.tolist(), same.tolist(), threshold)
    assert float(DetectionCost(weight).of(float(far), float(tar))) == pytest.approx(expected, rel=1e-9)
    assert value <= 1


@pytest.mark.parametrize("cost", [(0, 1, 1), (1, 1, 1), (0.5, 0, 1), (0.5, 1, float("inf"))])
def test_costs_that_make_no_sense_are_refused(cost):
    with pytest.raises(ValueError, match="between 0 and 1"):
        min_dcf([0.1, 0.2], [0, 1], DetectionCost(*cost))
