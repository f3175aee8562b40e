"""The tree of blocks is the tree of all: the same edges as from the whole matrix, with ties, at any block size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import topology as oracle
from topoface.functional import streaming_tree
from topoface.functional.persistence import h0_edges
from topoface.functional.streaming_tree import blockwise_tree, pixel_tree


def from_matrix(matrix, calls=None):
    def between(a, b):
        if calls is not None:
            calls.append((a, b))
        return matrix[a, b]

    return between


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 14), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_blocks_give_the_tree_of_kruskal_with_many_ties(n, block, values, seed):
    full = np.random.default_rng(seed).integers(0, values, (n, n))
    matrix = np.where(np.tri(n, dtype=bool), full.T, full)
    np.fill_diagonal(matrix, 0)
    edges, keys = blockwise_tree(n, from_matrix(torch.from_numpy(matrix)), block=block)
    assert [tuple(edge) for edge in edges.tolist()] == oracle.kruskal(matrix)
    assert keys.tolist() == [matrix[i, j] for i, j in oracle.kruskal(matrix)]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
@pytest.mark.parametrize("block", [7, 100, 299, 300, 1024])
def test_large_matrices_give_the_edges_of_the_dense_tree(dtype, block):
    points = torch.randint(0, 9, (300, 3), generator=torch.Generator().manual_seed(0)).double()
    matrix = (points[:, None] - points).square().sum(-1).to(dtype)
    edges, keys = blockwise_tree(300, from_matrix(matrix), block=block)
    expected = h0_edges(matrix)
    assert torch.equal(edges, expected)
    assert torch.equal(keys, matrix[expected[:, 0], expected[:, 1]])


def test_every_distance_is_made_once_and_never_more_than_a_block():
    calls = []
    blockwise_tree(25, from_matrix(torch.rand(25, 25), calls), block=10)
    seen = np.zeros((25, 25), int)
    for a, b in calls:
        assert a.stop - a.start <= 10
        seen[a, b] += 1
    assert (seen[np.triu_indices(25)] == 1).all()


@pytest.mark.parametrize("product_is_exact", [True, False])
def test_images_give_the_tree_of_their_exact_distances(monkeypatch, product_is_exact):
    monkeypatch.setattr(streaming_tree, "int8_product_is_exact", lambda device: product_is_exact)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (23, 30, 30, 3), dtype=np.uint8)
    images[5] = images[20]
    images[0], images[1] = 0, 255  # the largest distance there is
    distances = np.array(oracle.integer_squared_distances(images))
    edges, squared = pixel_tree(torch.from_numpy(images), block=5)  # blocks of 5, 5, 5, 5 and 3
    assert [tuple(edge) for edge in edges.tolist()] == oracle.kruskal(distances)
    assert squared.dtype == torch.int64
    assert squared.tolist() == [distances[e] for e in oracle.kruskal(distances)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_last_block_of_one_image_is_measured_rightly(n):
    images = torch.tensor([[0, 0], [3, 4], [6, 8]], dtype=torch.uint8)[:n]
    edges, squared = pixel_tree(images, block=2)
    assert edges.tolist() == [[0, 1], [1, 2]][: n - 1]
    assert squared.tolist() == [25, 25][: n - 1]


def test_no_images_have_no_tree():
    edges, _ = pixel_tree(torch.zeros(0, 4, dtype=torch.uint8))
    assert edges.shape == (0, 2)
