"""Random rows in blocks: the same whoever draws which range."""

from itertools import pairwise

import numpy as np
import pytest

from topoface.functional import draws
from topoface.functional.draws import generator, rows_in_blocks


def rows(start: int, stop: int, seed: int = 5, *counters: int) -> np.ndarray:
    made = np.full((stop - start, 3), np.nan)
    for place, drawn in rows_in_blocks(
        range(start, stop), lambda g, n: g.normal(size=(n, 3)), seed, "test", *counters
    ):
        made[place] = drawn
    return made


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(draws, "_AT_ONCE", 8)


@pytest.mark.parametrize(
    "cuts", [(0, 37), (0, 8, 37), (0, 1, 7, 9, 16, 36, 37), (0, 20, 20, 37), tuple(range(38))]
)
def test_any_cut_gives_the_rows_of_the_whole(cuts):
    parts = [rows(a, b) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), rows(0, 37))


def test_rows_do_not_depend_on_how_many_there_are():
    np.testing.assert_array_equal(rows(0, 37)[:21], rows(0, 21))


def test_the_first_block_is_the_stream_of_the_purpose_itself():
    np.testing.assert_array_equal(rows(0, 8), generator(5, "test").normal(size=(8, 3)))


def test_blocks_seeds_and_counters_differ():
    whole = rows(0, 64)
    assert len(np.unique(whole)) == whole.size
    assert not np.intersect1d(rows(0, 64, 6), whole).size
    assert not np.intersect1d(rows(0, 64, 5, 1), rows(0, 64, 5, 2)).size


def test_an_empty_range_gives_nothing():
    assert rows(16, 16).shape == (0, 3)
