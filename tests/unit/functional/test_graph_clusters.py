"""Clusters of linked neighbours: as a walk through the graph finds them, and one person each where people are apart."""

import numpy as np
import pytest
import torch

from tests.oracles import centers as oracle
from topoface.functional.clustering import agreement
from topoface.functional.graph_clusters import components, graph_clusters, nearest_links


def walk(n: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The lowest sample that can be reached from each."""
    beside = {i: {i} for i in range(n)}
    for i, j in pairs:
        beside[i].add(j)
        beside[j].add(i)
    lowest = []
    for i in range(n):
        reached, todo = {i}, [i]
        while todo:
            new = beside[todo.pop()] - reached
            reached |= new
            todo += new
        lowest.append(min(reached))
    return lowest


@pytest.mark.parametrize("seed", range(20))
def test_components_are_what_a_walk_reaches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    pairs = rng.integers(0, n, (int(rng.integers(0, 60)), 2))
    expected = walk(n, [tuple(pair) for pair in pairs.tolist()])
    assert components(pairs, np.arange(n)).tolist() == expected
    assert components(rng.permutation(pairs)[:, ::-1], np.arange(n)).tolist() == expected
    first = components(pairs[: len(pairs) // 2], np.arange(n))
    assert components(pairs, first).tolist() == expected


def test_a_long_chain_is_one_component() -> None:
    n = 5000
    order = np.random.default_rng(0).permutation(n)
    pairs = np.stack([order[:-1], order[1:]], 1)
    assert (components(pairs, np.arange(n)) == 0).all()


def test_links_are_the_nearest_neighbours_in_falling_order() -> None:
    rows = oracle.unit(np.random.default_rng(1).normal(size=(40, 5)))
    links = nearest_links(torch.from_numpy(rows), 3)
    expected = set()
    for i in range(40):
        cosines = [(-float(rows[i] @ rows[j]), j) for j in range(40) if j != i]
        expected |= {(i, j) for _, j in sorted(cosines)[:3]}
    assert {tuple(pair) for pair in links.pairs.tolist()} == expected
    assert (np.diff(links.cosines) <= 0).all()
    np.testing.assert_allclose(links.cosines, [rows[i] @ rows[j] for i, j in links.pairs], atol=1e-12)


def test_people_that_are_apart_are_found_and_a_cosine_too_high_or_low_is_not_theirs() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(30), 12)
    rows = oracle.unit(rng.normal(size=(30, 64))[labels] + 0.5 * rng.normal(size=(len(labels), 64)))
    links = nearest_links(torch.from_numpy(rows), 20)
    cosines = np.array([0.97, 0.6, -1.0])
    apart, fitting, together = graph_clusters(links, cosines, len(labels))
    assert agreement(fitting, labels).bcubed[2] > 0.99
    assert agreement(apart, labels).bcubed[1] < 0.2
    assert agreement(together, labels).bcubed[0] < 0.2
    for cosine, got in zip(cosines, (apart, fitting, together), strict=True):
        above = [
            tuple(pair) for pair, c in zip(links.pairs.tolist(), links.cosines, strict=True) if c > cosine
        ]
        assert got.tolist() == walk(len(labels), above)


@pytest.mark.parametrize("n", [1, 2])
def test_one_sample_or_two(n: int) -> None:
    links = nearest_links(torch.eye(n), 8)
    assert graph_clusters(links, np.array([0.5]), n)[0].tolist() == list(range(n))
