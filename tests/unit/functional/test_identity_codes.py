"""Token softmaxes, additive and composed centers, regression: the fixture's numbers and the slow versions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import identity_codes as oracle
from topoface.functional.identity_codes import (
    ABSENT,
    by_position,
    composed_centers,
    default_scale,
    first_columns,
    joined_loss,
    log_probability_and_entropy,
    nearest_others,
    other_identities,
    other_tokens,
    regression_loss,
    token_slots,
)
from topoface.functional.softmax import negative_log_likelihood

Z = oracle.unit(oracle.fixture(3, 4))
W = oracle.unit(oracle.fixture(6, 4, 0.7, 1.3, 0.19))
CODES = torch.tensor([[0, 2], [1, 1], [2, 0]])
SCALE = 10.0


def token_losses(
    z: Tensor, w: Tensor, alphabets: tuple[int, ...], tokens: Tensor, scale: float, margin: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and targets ``[n, L]`` and the rest, of cosface classifiers without projection."""
    slots, present = token_slots(alphabets)
    units = z / z.norm(dim=1, keepdim=True), w / w.norm(dim=1, keepdim=True)
    logits = (scale * by_position(units[0] @ units[1].T, slots)).where(present, ABSENT)
    target = logits.gather(2, tokens[..., None])[..., 0] - scale * margin
    rest = other_tokens(logits, tokens)
    return negative_log_likelihood(target, rest.logsumexp(2)), target, rest


def test_token_losses_are_one_softmax_over_additive_centers() -> None:
    losses, _, _ = token_losses(Z, W, (3, 3), CODES, SCALE)
    expected = [0.049272384902, 16.821493173229, 24.032005870199]
    assert losses.sum(1).tolist() == pytest.approx(expected, abs=1e-10)
    additive = torch.stack([W[a] + W[3 + b] for a, b in oracle.all_codes((3, 3))])
    labels = torch.tensor([oracle.all_codes((3, 3)).index(tuple(c)) for c in CODES.tolist()])
    dense = torch.nn.functional.cross_entropy(SCALE * Z @ additive.T, labels, reduction="none")
    torch.testing.assert_close(losses.sum(1), dense, rtol=0, atol=1e-12)


def test_the_extra_mass_is_one_more_code() -> None:
    losses, target, _ = token_losses(Z, W, (3, 3), CODES, SCALE, margin=0.2)
    got = joined_loss(losses, target, torch.tensor(5.0, dtype=torch.float64))
    expected = [0.330916404206, 20.820880221850, 28.032733513397]
    assert got.tolist() == pytest.approx(expected, abs=1e-10)
    nothing = torch.full((3,), -torch.inf, dtype=torch.float64)
    torch.testing.assert_close(joined_loss(losses, target, nothing), losses.sum(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("alphabets", [(5, 5, 5, 5), (3, 5, 4), (2, 9)])
def test_fused_equals_a_loop_of_classifiers(alphabets: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(6, 7, generator=g, dtype=torch.float64, requires_grad=True)
    w = torch.randn(sum(alphabets), 7, generator=g, dtype=torch.float64, requires_grad=True)
    tokens = torch.stack([torch.randint(0, k, (6,), generator=g) for k in alphabets], 1)
    losses, _, _ = token_losses(z, w, alphabets, tokens, 16.0, 0.1)
    slow = torch.stack(
        [
            torch.stack(oracle.classifier_losses(z[i], w.split(alphabets), tokens[i].tolist(), 16.0, 0.1))
            for i in range(6)
        ]
    )
    torch.testing.assert_close(losses, slow, rtol=0, atol=1e-12)
    for fast, plain in zip(
        torch.autograd.grad(losses.sum(), (z, w)), torch.autograd.grad(slow.sum(), (z, w)), strict=True
    ):
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)


def test_entropy_of_all_codes_is_the_sum_of_the_token_entropies() -> None:
    alphabets = (4, 4, 4)
    z, w = oracle.fixture(5, 6), oracle.fixture(12, 6, 0.7, 1.3, 0.19)
    tokens = torch.zeros(5, 3, dtype=torch.int64)
    _, target, rest = token_losses(z, w, alphabets, tokens, 8.0)
    _, entropies = log_probability_and_entropy(target, rest)
    for i in range(5):
        p = [torch.cat([target[i, j, None], rest[i, j, 1:]]).softmax(0).numpy() for j in range(3)]
        brute = oracle.entropy(np.array([oracle.code_probability(p, c) for c in oracle.all_codes(alphabets)]))
        assert float(entropies[i].sum()) == pytest.approx(brute, abs=1e-13)


@pytest.mark.parametrize("lead", [0.0, 30.0, 300.0, -300.0])
def test_log_probability_and_entropy_are_right_at_both_ends(lead: float) -> None:
    target = torch.tensor([lead], dtype=torch.float64)
    rest = torch.tensor([[0.0, 1.0, ABSENT]], dtype=torch.float64)
    log_p, entropy = log_probability_and_entropy(target, rest)
    other = math.log(1 + math.e)  # log-mass of the two others
    expected = (
        -math.log1p(math.exp(other - lead))
        if lead >= 0
        else lead - other - math.log1p(math.exp(lead - other))
    )
    assert float(log_p) == pytest.approx(expected, rel=1e-14, abs=1e-320)
    p, within = math.exp(expected), oracle.entropy(np.array([1, math.e]) / (1 + math.e))
    q = math.exp(other - lead + expected)
    nats = -p * expected + (q * (within - (other - lead + expected)) if q else 0)
    assert float(entropy) == pytest.approx(nats, rel=1e-12, abs=1e-320)


def test_orthonormal_books_give_a_cosine_by_hamming_distance() -> None:
    length, k = 4, 3
    codes = torch.tensor(oracle.all_codes((k,) * length))
    centers = composed_centers(
        None, codes, torch.eye(k * length, dtype=torch.float64), first_columns((k,) * length)
    )
    hamming = (codes[:, None] != codes).sum(2)
    torch.testing.assert_close(centers @ centers.T, 1 - hamming.double() / length, rtol=0, atol=1e-14)


def test_regression_has_the_published_gradient() -> None:
    h = oracle.unit(oracle.fixture(3, 4, 0.4, 2.1, 0.23))
    raw = (3 * Z).requires_grad_()
    cosine = (raw / raw.norm(dim=1, keepdim=True) * h).sum(1)
    assert cosine.tolist() == pytest.approx([0.040886514025, 0.535690428087, 0.004062006497], abs=1e-10)
    loss = regression_loss(cosine, "paper")
    assert loss.tolist() == pytest.approx([0.459949339489, 0.107791689285, 0.495946243452], abs=1e-10)
    (gradient,) = torch.autograd.grad(loss.sum(), raw)
    c = cosine.detach()[:, None]
    torch.testing.assert_close(gradient, (c - 1) * (h - c * Z) / 3, rtol=0, atol=1e-15)


def test_the_cosine_form_pulls_on_where_the_paper_s_has_faded() -> None:
    for c, paper, plain in (
        (-0.5, 1.299, 0.866),
        (0.5, 0.433, 0.866),
        (0.9, 0.0436, 0.436),
        (0.99, 0.0014, 0.141),
    ):
        angle = torch.tensor(c, dtype=torch.float64).acos().requires_grad_()
        for form, pull in (("paper", paper), ("cosine", plain)):
            (slope,) = torch.autograd.grad(regression_loss(angle.cos(), form), angle)  # type: ignore[arg-type]
            assert float(slope) == pytest.approx(pull, rel=1e-2)


H = oracle.unit(oracle.fixture(5, 4, 0.5, 1.1, 0.41))
TABLE = torch.tensor([[0, 0], [1, 2], [2, 1], [0, 2], [1, 1]])


def test_composed_centers_of_the_fixture() -> None:
    rows = 0.3 * oracle.fixture(6, 4, 0.7, 1.3, 0.19)
    centers = composed_centers(H, TABLE, rows, first_columns((3, 3)))
    slow = torch.stack([H[i] + rows[a] + rows[3 + b] for i, (a, b) in enumerate(TABLE.tolist())])
    torch.testing.assert_close(centers, oracle.unit(slow), rtol=0, atol=1e-14)
    losses = [oracle.centers_loss(Z[i], slow, i, SCALE, 0.2) for i in range(3)]
    assert losses == pytest.approx([0.596668210282, 11.948763037239, 15.141348868748], abs=1e-10)
    labels, columns = torch.arange(3), torch.tensor([3, 0, 1, 1, 2, 4, 3])  # everybody, some more than once
    logits = SCALE * Z @ centers[columns].T
    own = SCALE * ((Z * centers[:3]).sum(1) - 0.2)
    got = negative_log_likelihood(own, other_identities(logits, columns, labels).logsumexp(1))
    assert got.tolist() == pytest.approx(losses, abs=1e-10)


def test_rows_of_zero_leave_the_code_vectors() -> None:
    frozen = composed_centers(H, None, None, first_columns((3, 3)))
    moved = composed_centers(H, TABLE, torch.zeros(6, 4, dtype=torch.float64), first_columns((3, 3)))
    torch.testing.assert_close(frozen, moved, rtol=0, atol=0)


@pytest.mark.parametrize("groups", [1, 3, 8])
def test_neighbours_are_the_nearest_of_all_where_all_groups_are_searched(groups: int) -> None:
    g = torch.Generator().manual_seed(2)
    vectors = oracle.unit(torch.randn(60, 16, generator=g, dtype=torch.float64))
    found = nearest_others(vectors.__getitem__, torch.arange(60) % groups, 4)
    cosines = (vectors @ vectors.T).fill_diagonal_(-2)
    assert torch.equal(found.sort(1).values, cosines.topk(4).indices.sort(1).values)


def test_near_duplicates_are_nobody_s_neighbours() -> None:
    vectors = oracle.unit(oracle.fixture(6, 5))
    vectors[3] = oracle.unit(vectors[:1] + 1e-3)[0]  # one person under two labels
    found = nearest_others(vectors.__getitem__, torch.zeros(6, dtype=torch.int64), 5)
    assert 3 not in found[0]
    assert 0 not in found[3]
    assert (found[0] == -1).sum() == 1
    assert 3 in found[1]


def test_the_default_scale_grows_with_the_alphabet() -> None:
    assert [default_scale(k) for k in (2, 20, 21, 64, 65, 256, 257, 10_000)] == [
        16,
        16,
        20,
        20,
        24,
        24,
        32,
        32,
    ]


def test_a_code_softmax_with_a_virtual_class_gives_the_numbers_of_the_unpg_notes() -> None:
    """Oracle 21 of UNPG: four positions of three tokens, log-mass 5 of in-batch negatives in the joint denominator."""
    position, token = torch.arange(4, dtype=torch.float64)[:, None], torch.arange(3, dtype=torch.float64)
    logits = (3 * torch.sin(1.3 * position + 2.1 * token))[None]
    tokens = torch.tensor([[2, 0, 1, 1]])
    target = logits.gather(2, tokens[..., None])[..., 0]
    log_probability, entropy = log_probability_and_entropy(target, other_tokens(logits, tokens))
    losses = -log_probability
    assert losses.sum().item() == pytest.approx(14.305053069420, abs=1e-10)
    joint = joined_loss(losses, target, torch.tensor(5.0, dtype=torch.float64))
    assert joint.item() == pytest.approx(14.308253133322, abs=1e-10)
    assert entropy.sum().item() == pytest.approx(1.311411451525, abs=1e-10)
