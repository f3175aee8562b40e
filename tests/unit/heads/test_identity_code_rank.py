"""How many directions a code head can separate (oracle 18), asked of the heads themselves; and that composed centers go beyond them.

The heads normalise: of the gradient at an embedding they take away its part along the embedding, so that it would have full rank whatever
the head is. What is left outside some directions is therefore looked at up to a multiple of the embedding's own part there.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.code_tables import CodesOf
from tests.oracles import identity_codes as oracle
from topoface.heads import Composed, IdentityCode

ROWS, D, L, K = 500, 64, 3, 5


@pytest.fixture
def codes(tmp_path: Path) -> CodesOf:
    return CodesOf(folder=tmp_path / "t", identities=100, alphabets=(K,) * L, dimension=D)


def gradients(head: IdentityCode | Composed, codes: CodesOf) -> tuple[Tensor, Tensor]:
    """Embeddings of random length ``[500, 64]``, and the gradient of the head's loss at each."""
    head.connect(codes.source)
    g = torch.Generator().manual_seed(1)
    z = torch.randn(ROWS, D, generator=g, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, codes.identities, (ROWS,), generator=g)
    (gradient,) = torch.autograd.grad(head(z, labels).loss.sum(), z)
    return z.detach(), gradient


def span(directions: Tensor) -> Tensor:
    """Orthonormal rows."""
    rows: Tensor = torch.linalg.svd(directions, full_matrices=False).Vh
    return rows[: int(torch.linalg.matrix_rank(directions))]


def without_normalisation(gradient: Tensor, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients before they lost their part along ``z``, if all that is outside ``directions`` is due to that; and what else is."""
    basis = span(directions)
    outside, own = (rows - rows @ basis.T @ basis for rows in (gradient, oracle.unit(z)))
    lost = (outside * own).sum(1, keepdim=True) / own.square().sum(1, keepdim=True)
    return gradient - lost * oracle.unit(z), outside - lost * own


def token_centers(head: IdentityCode) -> Tensor:
    return oracle.unit(head.weight.detach()).view(L, K, D)


@pytest.mark.parametrize(
    "settings", [{}, {"margin": 0.0, "scale": 1.0, "token_weight": 1.0}, {"margin": [0.0, 0.2, 0.4]}]
)
def test_tokens_separate_as_many_directions_as_they_have_differences(
    codes: CodesOf, settings: dict[str, Any]
) -> None:
    """500 embeddings, D = 64, L = 3, K = 5: rank exactly 12 = L (K - 1)."""
    head = IdentityCode(D, codes.identities, table=str(codes.folder), **settings).double()
    centers = token_centers(head)
    differences = (centers[:, 1:] - centers[:, :1]).flatten(0, 1)
    z, gradient = gradients(head, codes)
    linear, beyond = without_normalisation(gradient, z, differences)
    assert beyond.norm() < 1e-12 * gradient.norm()
    assert int(torch.linalg.matrix_rank(linear)) == L * (K - 1)


def test_an_angular_margin_adds_a_direction_a_position(codes: CodesOf) -> None:
    """Its slope weighs the own token differently, so that the weights of a position no longer sum to 0."""
    head = IdentityCode(
        D, codes.identities, table=str(codes.folder), margin_kind="arcface", margin=0.3
    ).double()
    z, gradient = gradients(head, codes)
    linear, beyond = without_normalisation(gradient, z, token_centers(head).flatten(0, 1))
    assert beyond.norm() < 1e-12 * gradient.norm()
    assert int(torch.linalg.matrix_rank(linear)) == L * K


def test_code_books_alone_separate_one_direction_more(codes: CodesOf) -> None:
    """Centers that are sums of rows, each brought to unit length: the weights in a position no longer sum to 0, but to the same in each."""
    head = Composed(D, codes.identities, table=str(codes.folder), centers="books", negatives=None).double()
    assert head.rows is not None
    z, gradient = gradients(head, codes)
    linear, beyond = without_normalisation(gradient, z, head.rows.detach().view(L * K, D))
    assert beyond.norm() < 1e-12 * gradient.norm()
    assert int(torch.linalg.matrix_rank(linear)) == L * (K - 1) + 1


def test_composed_centers_and_projections_go_beyond_the_tokens(codes: CodesOf) -> None:
    """All that the directions of the tokens leave is used, by what trains just as few rows and by the paper's projections."""
    composed = Composed(D, codes.identities, table=str(codes.folder), negatives=None).double()
    assert composed.rows is not None
    drawn = torch.randn(L * K, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    composed.rows.data = 0.3 * drawn.flatten()
    z, gradient = gradients(composed, codes)
    _, beyond = without_normalisation(gradient, z, drawn)
    assert int(torch.linalg.matrix_rank(beyond)) == D - L * K

    projected = IdentityCode(D, codes.identities, table=str(codes.folder), projection="mlp").double()
    z, gradient = gradients(projected, codes)
    _, beyond = without_normalisation(gradient, z, token_centers(projected).flatten(0, 1))
    assert int(torch.linalg.matrix_rank(beyond)) == D - L * K
