"""Agreement of clusters with labels (oracle 18 of jlcc.md)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import centers as oracle
from topoface.errors import UserError
from topoface.functional.clustering import agreement

LABELLED = st.lists(st.tuples(st.integers(-2, 4), st.integers(0, 4)), min_size=1, max_size=25)


def test_the_figures_of_the_specification() -> None:
    got = agreement([0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2, 2, 2])
    third = 1 / 3
    np.testing.assert_allclose(
        got.bcubed_precision, [2 * third, 2 * third, third, 2 * third, 2 * third, third, 1, 1]
    )
    np.testing.assert_allclose(
        got.bcubed_recall, [1, 1, third, 2 * third, 2 * third, third, 2 * third, 2 * third]
    )
    assert got.bcubed == pytest.approx((2 / 3, 2 / 3, 2 / 3), abs=1e-12)
    assert got.bcubed_f.mean() == pytest.approx(0.65, abs=1e-12)
    assert got.pairs == pytest.approx((3 / 7, 3 / 7, 3 / 7), abs=1e-12)
    assert got.nmi == pytest.approx(0.558873038217, abs=1e-12)  # exactly; the specification has ...032


@settings(max_examples=60, deadline=None)
@given(LABELLED)
def test_equals_looking_at_every_pair(samples: list[tuple[int, int]]) -> None:
    assigned, labels = (list(column) for column in zip(*samples, strict=True))
    got = agreement(assigned, labels)
    precision, recall = oracle.bcubed(assigned, labels)
    np.testing.assert_allclose(got.bcubed_precision, precision, atol=1e-12)
    np.testing.assert_allclose(got.bcubed_recall, recall, atol=1e-12)
    assert (got.pair_precision, got.pair_recall) == pytest.approx(oracle.pairs(assigned, labels), abs=1e-12)
    assert got.nmi == pytest.approx(oracle.nmi(assigned, labels), abs=1e-10)


def test_names_of_clusters_do_not_matter_and_a_perfect_match_is_one() -> None:
    got = agreement([7, 7, -3, -3, 100], [0, 0, 1, 1, 2])
    assert (*got.bcubed, *got.pairs, got.nmi) == pytest.approx((1.0,) * 7)


def test_one_cluster_of_one_label_and_clusters_of_one_are_defined() -> None:
    assert agreement([0, 0], [4, 4]).nmi == 1.0
    assert agreement([0, 1, 2], [0, 1, 2]).pairs == (1.0, 1.0, 1.0)
    assert agreement([0, 1], [0, 0]).pairs == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(("assigned", "labels"), [([], []), ([0], [0, 1]), ([[0]], [[1]])])
def test_what_cannot_be_compared_is_refused(assigned: list[int], labels: list[int]) -> None:
    with pytest.raises(UserError, match="one cluster and one label"):
        agreement(assigned, labels)
