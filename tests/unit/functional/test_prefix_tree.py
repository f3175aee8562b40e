"""Likelihoods, entropies and the beam over the tree of prefixes, against brute force and the fixture's numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import identity_codes as oracle
from topoface.functional.prefix_tree import (
    PrefixTree,
    beam_search,
    estimated_tree_entropy,
    global_entropy,
    global_log_likelihood,
    independent,
    product_log_likelihood,
    tree_entropy,
    tree_log_likelihood,
)

REAL = torch.tensor([[0, 0], [0, 2], [1, 0], [1, 1], [1, 2], [2, 1]])
Z = oracle.unit(oracle.fixture(3, 4))
W = oracle.unit(oracle.fixture(6, 4, 0.7, 1.3, 0.19))
LOG_P = (10 * Z @ W.T).view(3, 2, 3).log_softmax(2)


def random_codes(seed: int, count: int, alphabets: tuple[int, ...]) -> Tensor:
    rng = np.random.default_rng(seed)
    every = np.array(oracle.all_codes(alphabets))
    return torch.from_numpy(every[rng.choice(len(every), count, replace=False)])


def random_log_p(seed: int, n: int, alphabets: tuple[int, ...]) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(n, len(alphabets), max(alphabets), generator=g, dtype=torch.float64)
    for j, k in enumerate(alphabets):
        scores[:, j, k:] = -1e9
    return scores.log_softmax(2)


def test_likelihoods_of_the_fixture() -> None:
    tree = PrefixTree.of(REAL)
    mass = product_log_likelihood(LOG_P, tree).exp().sum(1)
    assert mass.tolist() == pytest.approx([0.998768934509, 0.000731337788, 0.549411572678], abs=1e-10)
    expected = [
        0.000011250931,
        0.953150258135,
        0.000000552129,
        0.000060363707,
        0.046774973635,
        0.000002601463,
    ]
    assert tree_log_likelihood(LOG_P, tree).exp()[0].tolist() == pytest.approx(expected, abs=1e-10)
    assert global_log_likelihood(LOG_P, tree).exp()[0, 1].item() == pytest.approx(0.953095, abs=1e-6)
    tree_nats, global_nats = tree_entropy(LOG_P, tree), global_entropy(LOG_P, tree)
    assert tree_nats.tolist() == pytest.approx([0.189734801576, 0.000792276750, 0.002480330762], abs=1e-10)
    assert global_nats.tolist() == pytest.approx([0.189873418500, 0.332752160088, 0.002768657754], abs=1e-10)


@pytest.mark.parametrize(
    ("alphabets", "count"), [((4, 4, 4), 30), ((2, 5, 3), 11), ((6,), 4), ((3, 3, 3, 3), 81)]
)
def test_the_recursions_equal_brute_force(alphabets: tuple[int, ...], count: int) -> None:
    codes, log_p = random_codes(3, count, alphabets), random_log_p(4, 5, alphabets)
    tree = PrefixTree.of(codes)
    as_tuples = [tuple(c) for c in codes.tolist()]
    for i in range(5):
        p = [log_p[i, j, :k].exp().numpy() for j, k in enumerate(alphabets)]
        product = np.array([oracle.code_probability(p, c) for c in as_tuples])
        walked = np.array([oracle.tree_probability(p, as_tuples, c) for c in as_tuples])
        assert walked.sum() == pytest.approx(1, abs=1e-13)
        np.testing.assert_allclose(product_log_likelihood(log_p, tree)[i].exp(), product, rtol=1e-12)
        np.testing.assert_allclose(tree_log_likelihood(log_p, tree)[i].exp(), walked, rtol=1e-12)
        np.testing.assert_allclose(
            global_log_likelihood(log_p, tree)[i].exp(), product / product.sum(), rtol=1e-11
        )
        assert tree_entropy(log_p, tree)[i].item() == pytest.approx(oracle.entropy(walked), abs=1e-12)
        assert global_entropy(log_p, tree)[i].item() == pytest.approx(
            oracle.entropy(product / product.sum()), abs=1e-12
        )


def test_the_entropy_of_drawn_paths_is_unbiased_and_steady() -> None:
    codes, log_p = random_codes(5, 40, (4, 4, 4)), random_log_p(6, 1, (4, 4, 4))
    tree = PrefixTree.of(codes)
    draws = 4000
    uniform = torch.rand(draws, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = estimated_tree_entropy(log_p.expand(draws, -1, -1), tree, uniform)
    exact = float(tree_entropy(log_p, tree))
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / draws**0.5
    leaf = tree_log_likelihood(log_p, tree)[0]
    plain = float(((leaf.exp() * leaf.square()).sum() - exact**2).sqrt())  # of -log p of a drawn identity
    assert float(found.std()) < plain


def test_a_beam_as_wide_as_the_widest_level_is_exhaustive() -> None:
    alphabets = (6, 6, 6)
    codes, log_p = random_codes(7, 200, alphabets), random_log_p(8, 50, alphabets)
    tree = PrefixTree.of(codes)
    rows, scores = beam_search(independent(log_p), tree, 200, 50)
    every = product_log_likelihood(log_p, tree)
    assert torch.equal(rows[:, 0], every.argmax(1))
    torch.testing.assert_close(scores, every.sort(1, descending=True).values, rtol=0, atol=1e-12)
    as_tuples = [tuple(c) for c in codes.tolist()]
    for i in range(10):
        assert int(rows[i, 0]) == oracle.best_code([row.exp().numpy() for row in log_p[i]], as_tuples)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_a_beam_returns_different_real_identities_and_their_scores(width: int) -> None:
    codes, log_p = random_codes(9, 50, (5, 2, 9)), random_log_p(10, 20, (5, 2, 9))
    tree = PrefixTree.of(codes)
    rows, scores = beam_search(independent(log_p), tree, width, 20)
    assert rows.shape == (20, width)
    assert all(len(set(row)) == width for row in rows.tolist())
    torch.testing.assert_close(
        scores, product_log_likelihood(log_p, tree).gather(1, rows), rtol=0, atol=1e-12
    )
    assert (scores.diff(dim=1) <= 0).all()


def test_ties_go_to_the_first_in_token_order() -> None:
    codes = random_codes(11, 30, (4, 4, 4))
    tree = PrefixTree.of(codes)
    log_p = torch.full((2, 3, 4), -1.0, dtype=torch.float64)
    rows, _ = beam_search(independent(log_p), tree, 3, 2)
    first = sorted(tuple(c) for c in codes.tolist())[:3]
    assert [tuple(codes[r].tolist()) for r in rows[0]] == first


def test_a_tree_lists_every_prefix_once_and_every_code_at_its_row() -> None:
    codes = random_codes(12, 90, (5, 5, 5))
    tree = PrefixTree.of(codes)
    for j in range(3):
        assert len(tree.tokens[j]) == len({tuple(c[: j + 1]) for c in codes.tolist()})
    assert torch.equal(codes[tree.owners][:, -1], tree.tokens[-1])
    assert sorted(tree.owners.tolist()) == list(range(90))
