"""CMC and TPIR at FPIR against their definitions, and what must never change them."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import templates as oracle
from topoface.functional import identification as module
from topoface.functional.identification import cmc, describe, point_at_fpir, tpir_at_fpir

FPIRS = (0.0, 0.01, 0.25, 1 / 3, 0.5, 1.0)


@st.composite
def searches(draw):
    """Similarities of few values, identities with several entries, at least one mated probe and one without a mate."""
    probes = draw(st.lists(st.integers(0, 5), min_size=1, max_size=10))
    gallery = draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
    probes += [gallery[0], 9]
    values = st.sampled_from([-0.5, 0.0, 0.1, 0.2, 0.7]) | st.floats(-1, 1, width=32)
    cells = st.lists(values, min_size=len(gallery), max_size=len(gallery))
    return [draw(cells) for _ in probes], probes, gallery


@given(searches(), st.sampled_from(FPIRS) | st.floats(0, 1))
def test_tpir_is_the_largest_that_the_definition_allows(case, fpir):
    similarity, probes, gallery = case
    # A rate such as 1/3 is rounded in binary: the true third is then just above or below it.
    expected = {float(oracle.tpir_at_fpir(*case, Fraction(rate))) for rate in (fpir, np.nextafter(fpir, 2))}
    assert tpir_at_fpir(similarity, probes, gallery, fpir) in expected
    point = point_at_fpir(describe(similarity, probes, gallery), fpir)
    assert point.fpir <= np.nextafter(fpir, 2)
    assert point.false_alarms <= point.allowed


@given(searches())
def test_cmc_is_the_share_of_mates_among_the_first(case):
    similarity, probes, gallery = case
    ranks = range(1, len(gallery) + 2)
    shares = cmc(similarity, probes, gallery, ranks)
    assert shares == [float(oracle.cmc(similarity, probes, gallery, rank)) for rank in ranks]
    assert shares == sorted(shares)
    assert shares[len(gallery) - 1] == 1.0


@given(searches(), st.sampled_from(FPIRS), st.integers(0, 2**32))
def test_figures_do_not_change_with_order_monotone_maps_names_or_blocks(case, fpir, seed):
    similarity, probes, gallery = np.array(case[0]), np.array(case[1]), np.array(case[2])
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(probes)), rng.permutation(len(gallery))
    other = np.exp(np.round(similarity, 6)[rows][:, columns])
    names = np.array([f"person {i}" for i in range(10)])

    def figures(matrix, who, entries):
        return tpir_at_fpir(matrix, who, entries, fpir), cmc(matrix, who, entries, [1, 2, 5])

    before = figures(np.round(similarity, 6), probes, gallery)
    assert before == figures(other, names[probes[rows]], names[gallery[columns]])
    block, module._BLOCK = module._BLOCK, 1
    try:
        assert before == figures(torch.from_numpy(np.round(similarity, 6)), probes, gallery)
    finally:
        module._BLOCK = block


def test_planted_case():
    gallery = ["ann", "bob", "cid"]
    probes = ["ann", "bob", "cid", "dan", "eve"]
    similarity = [
        [0.9, 0.1, 0.2],  # found first
        [0.6, 0.5, 0.1],  # found second, and above the strangers' 0.4
        [0.3, 0.3, 0.3],  # the same for all: last
        [0.1, 0.4, 0.0],
        [0.2, 0.0, 0.8],
    ]
    assert cmc(similarity, probes, gallery, [1, 2, 3]) == pytest.approx([1 / 3, 2 / 3, 1])
    assert tpir_at_fpir(similarity, probes, gallery, 0.0) == pytest.approx(1 / 3)
    assert tpir_at_fpir(similarity, probes, gallery, 0.5) == pytest.approx(2 / 3)
    assert tpir_at_fpir(similarity, probes, gallery, 1.0) == 1


def test_a_model_that_tells_nobody_apart_finds_nobody():
    same = np.zeros((3, 4))
    assert cmc(same, [0, 1, 9], [0, 1, 2, 3], [1, 3, 4]) == [0, 0, 1]
    assert tpir_at_fpir(same, [0, 1, 9], [0, 1, 2, 3], 0.5) == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cmc(np.zeros((2, 2)), [1, 2], [1, 2, 3], [1]), "must be"),
        (lambda: cmc(np.zeros((1, 2)), [5], [1, 2], [1]), "no probe with a mate|no probe has a mate"),
        (lambda: cmc(np.zeros((1, 2)), [1], [1, 2], [0]), "ranks"),
        (lambda: cmc(np.full((1, 2), np.nan), [1], [1, 2], [1]), "NaN"),
        (lambda: tpir_at_fpir(np.zeros((1, 2)), [1], [1, 2], 0.1), "every probe has a mate"),
        (lambda: tpir_at_fpir(np.zeros((2, 2)), [1, 3], [1, 2], 1.1), "between 0 and 1"),
    ],
)
def test_what_has_no_answer_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@settings(deadline=None)  # the first one compiles
@given(searches(), st.sampled_from(FPIRS))
def test_a_search_of_vectors_is_that_of_all_their_cosines(case, fpir):
    _, probes, gallery = case
    rng = np.random.default_rng(len(probes))
    rows = [np.round(rng.normal(size=(len(who), 3)), 1) + 0.01 for who in (probes, gallery)]
    units = [
        (part / (1.001 * np.linalg.norm(part, axis=1, keepdims=True))).astype(np.float32) for part in rows
    ]
    cosines = units[0].astype(np.float64) @ units[1].T.astype(np.float64)
    found, every = module.search(*units, probes, gallery, depth=3), describe(cosines, probes, gallery)
    assert found.mated.tolist() == every.mated.tolist()
    np.testing.assert_allclose(found.mate, every.mate, atol=1e-15)
    np.testing.assert_allclose(found.stranger, every.stranger, atol=1e-15)
    assert np.minimum(found.rank, 4).tolist() == np.minimum(every.rank, 4).tolist()
    assert point_at_fpir(found, fpir).tpir == point_at_fpir(every, fpir).tpir
