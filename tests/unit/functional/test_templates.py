"""Template pooling and pair cosines against their definitions, compiled and not, and what must never change them."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.oracles import templates as oracle
from topoface.functional import templates as module
from topoface.functional.templates import pair_cosines, pool


@st.composite
def images(draw):
    """Embeddings of a few templates and media, with labels that collide across templates, and weights."""
    n = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = rng.normal(size=(n, draw(st.integers(1, 9)))) * rng.uniform(0.1, 5, (n, 1))
    return rows, rng.integers(0, 5, n), rng.integers(-3, 4, n), rng.choice([0.0, 0.3, 1.0, 2.5], n)


@pytest.fixture(params=["compiled", "arrays"])
def way(request, monkeypatch):
    if request.param == "arrays":
        monkeypatch.setattr(module, "compiled", lambda *_, **__: None)
        monkeypatch.setattr(module, "_BLOCK", 7)


@pytest.mark.usefixtures("way")
@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(images(), st.booleans())
def test_pool_is_the_mean_of_each_medium_then_the_sum_at_unit_length(case, weighted):
    rows, media, templates, weights = case
    given_weights = weights if weighted else None
    ids, pooled = pool(rows, media, templates, given_weights)
    expected = oracle.pool(rows, media.tolist(), templates.tolist(), given_weights)
    assert ids.tolist() == sorted(expected)
    assert pooled.dtype == np.float64
    for row, label in zip(pooled, ids.tolist(), strict=True):
        np.testing.assert_allclose(row, expected[label], atol=1e-12)


@pytest.mark.usefixtures("way")
def test_pool_keeps_float32_and_takes_tensors_and_names():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 4)).astype(np.float32)
    media, templates = np.array(["a", "a", "b", "a", "c", "c"]), np.array(list("yyyxxx"))
    ids, pooled = pool(torch.from_numpy(rows).requires_grad_(), media, templates)
    assert (ids.tolist(), pooled.dtype) == (["x", "y"], np.float32)
    exact = pool(rows.astype(np.float64), media, templates)[1]
    np.testing.assert_allclose(pooled, exact, atol=6e-8)
    assert pool(torch.from_numpy(rows).bfloat16(), media, templates)[1].dtype == np.float32


@given(images(), st.integers(0, 2**32))
def test_pool_does_not_depend_on_the_order_of_the_images(case, seed):
    order = np.random.default_rng(seed).permutation(len(case[0]))
    ids, pooled = pool(*case)
    again, shuffled = pool(*(column[order] for column in case))
    np.testing.assert_array_equal(ids, again)
    np.testing.assert_allclose(pooled, shuffled, atol=1e-12)


def test_a_video_of_many_frames_has_the_voice_of_one_picture():
    rows = np.array([[1.0, 0.0]] * 99 + [[0.0, 1.0]])
    _, pooled = pool(rows, [7] * 99 + [8], [1] * 100)
    np.testing.assert_allclose(pooled, [[0.5**0.5, 0.5**0.5]])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [1e200, 1e-200, 1e-310])
def test_pool_gives_unit_rows_whatever_the_size_of_the_embeddings(size):
    vectors = pool(np.array([[3.0, -4.0], [3.0, -4.0]]) * size, [0, 1], [0, 0])[1]
    np.testing.assert_allclose(vectors, [[0.6, -0.8]], rtol=1e-12)


def test_a_template_that_weighs_nothing_is_zero_not_nan():
    _, pooled = pool(np.array([[1.0, 2.0], [3.0, 4.0]]), [1, 2], [5, 6], weights=[0.0, 1.0])
    np.testing.assert_allclose(pooled, [[0, 0], [0.6, 0.8]])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.ones((3, 2)), [1, 2], [1, 2]), "must be"),
        ((np.ones(3), [1, 2, 3], [1, 2, 3]), "must be"),
        ((np.ones((2, 2)), [1, 2], [1, 2], [1.0]), "weights"),
        ((np.ones((2, 2)), [1, 2], [1, 2], [1.0, -1.0]), "weights"),
        ((np.ones((2, 2)), [1, 2], [1, 2], [1.0, np.nan]), "weights"),
        ((np.array([[1.0, 1.0], [np.nan, 1.0]]), [1, 2], [4, 9]), "template 9"),
    ],
)
def test_pool_refuses_what_has_no_answer(arguments, said):
    with pytest.raises(ValueError, match=said):
        pool(*arguments)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("block", [1 << 18, 64])
def test_pair_cosines_are_those_of_float64_and_do_not_depend_on_their_neighbours(monkeypatch, block):
    monkeypatch.setattr(module, "_SORTED", block)
    rng = np.random.default_rng(1)
    units = rng.normal(size=(40, 37)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    left, right = rng.integers(0, 40, (2, 500)).astype(np.int32)
    scores = pair_cosines(units, left, right)
    exact = (units[left].astype(np.float64) * units[right]).sum(axis=1)
    np.testing.assert_allclose(scores, exact, atol=2e-7)
    for cut in (1, 2, 3, 5, 498, 499):
        np.testing.assert_array_equal(scores[cut:], pair_cosines(units, left[cut:], right[cut:]))
        np.testing.assert_array_equal(scores[:cut], pair_cosines(units, left[:cut], right[:cut]))
    np.testing.assert_array_equal(scores, pair_cosines(units, right, left))
    assert pair_cosines(units, left[:0], right[:0]).shape == (0,)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_pair_cosines_never_read_beyond_the_table(wrong):
    with pytest.raises(ValueError, match="in a table of 3 rows"):
        pair_cosines(np.eye(3, dtype=np.float32), np.array([0, 1]), np.array([2, wrong]))
