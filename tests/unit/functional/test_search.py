"""Exact search against sorting all exact cosines, whatever the precision of the products, the tiles or the library."""

import numpy as np
import pytest

from topoface.functional import search as module
from topoface.functional.search import most_similar, prepare


def unit(rng, n, d):
    rows = rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(params=["compiled", "arrays"])
def way(request, monkeypatch):
    if request.param == "arrays":
        monkeypatch.setattr(module, "compiled", lambda *_, **__: None)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("probes", "entries"), [(512, 8192), (3, 11), (100, 30)])
@pytest.mark.parametrize("k", [1, 7, 20, 500])
@pytest.mark.parametrize("precision", ["float32", "eight bits"])
def test_most_similar_is_what_sorting_all_exact_cosines_gives(monkeypatch, probes, entries, k, precision):
    monkeypatch.setattr(module, "_PROBES", probes)
    monkeypatch.setattr(module, "_ENTRIES", entries)
    rng = np.random.default_rng(0)
    gallery, asked = unit(rng, 300, 24), unit(rng, 13, 24)
    gallery[100:130] = gallery[7]  # equal ones, and some that only float64 tells apart
    gallery[130:140] = gallery[8] + rng.normal(size=(10, 24)).astype(np.float32) * 1e-7
    gallery /= np.maximum(1, np.linalg.norm(gallery, axis=1, keepdims=True))
    asked[0], asked[1] = gallery[7], gallery[8]
    exact = np.array(
        [[sum(float(x) * float(y) for x, y in zip(p, g, strict=True)) for g in gallery] for p in asked]
    )
    if precision == "eight bits" and module.int8_product_is_exact("cpu"):
        gallery = module.prepare(gallery)
        assert gallery.eight is not None
    positions, cosines = most_similar(asked, gallery, k)
    expected = np.sort(exact, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(cosines, expected, atol=1e-14, rtol=0)
    np.testing.assert_allclose(np.take_along_axis(exact, positions, axis=1), cosines, atol=1e-14, rtol=0)
    assert all(len(set(row)) == min(k, 300) for row in positions.tolist())
    assert positions[0, : min(k, 31)].tolist() == [7, *range(100, 130)][:k]


def test_most_similar_of_nobody_and_refusals():
    rows = np.eye(3, dtype=np.float32)
    positions, cosines = most_similar(rows[:0], rows, 2)
    assert positions.shape == cosines.shape == (0, 2)
    for arguments in ((rows, rows[:0], 1), (rows, rows, 0), (2 * rows, rows, 1), (rows, rows[:, :2], 1)):
        with pytest.raises(ValueError):
            most_similar(*arguments)
    with pytest.raises(ValueError, match="finite"):
        most_similar(rows * np.nan, rows, 1)


def test_eight_bits_miss_no_more_than_they_say():
    rng = np.random.default_rng(0)
    rows = unit(rng, 50, 96)
    rows[3] = 0
    rows[4] = np.eye(96, dtype=np.float32)[5]
    made = module._in_eight_bits(rows)
    rest = rows.astype(np.float64) - made["eight"] * made["scale"][:, None].astype(np.float64)
    lengths = np.linalg.norm(rest, axis=1)
    assert (lengths <= made["miss"]).all()
    assert (made["miss"] < 0.02).all()


def test_a_processor_without_eight_bit_products_searches_all_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    gallery, asked = unit(rng, 90, 16), unit(rng, 5, 16)
    expected = most_similar(asked, prepare(gallery), 4)
    monkeypatch.setattr(module, "int8_product_is_exact", lambda _: False)
    plain = prepare(gallery)
    assert plain.eight is None
    for one, other in zip(most_similar(asked, plain, 4), expected, strict=True):
        np.testing.assert_array_equal(one, other)
