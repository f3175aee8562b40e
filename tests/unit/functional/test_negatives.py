"""In-batch negatives: the fixture's numbers, the literal concatenation, filters, blocks, scopes, edge cases."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import negatives as oracle
from topoface.functional import negatives as module
from topoface.functional.directions import unit_rows
from topoface.functional.negatives import (
    PairBatch,
    describe_pairs,
    genuine_quantile,
    pair_bounds,
    pair_log_mass,
    virtual_logit,
    whisker_bounds,
)
from topoface.functional.softmax import negative_log_likelihood, rest_of

X, W, Y = oracle.fixture()
INF = math.inf


def cosine_matrix(x):
    rows = unit_rows(x)
    return rows @ rows.T


def same(labels):
    return labels[:, None] == labels[None, :]


def pair_batch(x, labels):
    rows = unit_rows(x)
    return PairBatch(rows=rows, columns=rows, row_labels=labels, column_labels=labels)


def arc_loss(x, w, labels, scale, u, margin=0.5, weights=1):
    logits = scale * (unit_rows(x) @ unit_rows(w).T)
    cosine = logits.gather(1, labels[:, None])[:, 0] / scale
    target = scale * oracle.arcface(cosine, margin)
    return (weights * negative_log_likelihood(target, rest_of(logits, labels).logsumexp(1), u)).mean()


def random_batch(n=24, classes=7, width=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=g, dtype=torch.float64)
    w = torch.randn(classes, width, generator=g, dtype=torch.float64)
    return x, w, torch.randint(0, classes, (n,), generator=g)


def test_pairs_of_the_fixture():
    pairs = oracle.negative_pairs(Y.tolist())
    values = torch.stack([cosine_matrix(X)[j, k] for j, k in pairs])
    assert len(pairs) == 13
    assert float(values.min()) == pytest.approx(-0.8775749659, abs=1e-10)
    assert float(values.max()) == pytest.approx(0.6654602172, abs=1e-10)
    low, high = pair_bounds(values, 0.0)
    assert (float(low), float(high)) == pytest.approx((-0.793828717343, -0.111864221807), abs=1e-10)


@pytest.mark.parametrize(
    ("whisker", "scale", "expected", "kept"),
    [
        (None, 64, 42.599914624208, 13),
        (1.5, 64, 42.599914624208, 13),
        (None, 16, 11.075374842465, 13),
        (1.5, 16, 11.075374842465, 13),
        (0.5, 64, -7.141390838487, 10),
        (0.5, 16, -1.244577148917, 10),
        (1.0, 16, -1.244577148917, 10),
        (0.0, 16, -1.244587333406, 7),
    ],
)
def test_virtual_logit_of_the_fixture(whisker, scale, expected, kept):
    assert float(virtual_logit(cosine_matrix(X), same(Y), scale, whisker)) == pytest.approx(
        expected, abs=1e-10
    )
    batch = pair_batch(X, Y)
    bounds = whisker_bounds(batch, whisker)
    assert float(pair_log_mass(batch, *bounds, scale)) == pytest.approx(expected, abs=1e-10)
    found = describe_pairs(batch, *bounds)
    assert int(found.count) == 13
    assert round(13 * (1 - float(found.dropped_above + found.dropped_below))) == kept


@pytest.mark.parametrize(
    ("scale", "whisker", "expected"),
    [
        (16, "off", 10.128142017360),
        (16, 1.5, 12.665497280223),
        (16, None, 12.665497280223),
        (16, 0.0, 10.128627497125),
        (16, 0.5, 10.128627502066),
        (64, "off", 40.378587269582),
        (64, 1.5, 48.688742904419),
    ],
)
def test_arcface_loss_of_the_fixture(scale, whisker, expected):
    u = None if whisker == "off" else virtual_logit(cosine_matrix(X), same(Y), scale, whisker)
    assert float(arc_loss(X, W, Y, scale, u)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("scale", "to_x", "to_w", "one"),
    [
        (16, 6.770580162410, 6.018206690165, -1.087122119263),
        (64, 34.262396591527, 24.291137067750, -8.754019398534),
    ],
)
@pytest.mark.parametrize("road", ["matrix", "blocks"])
def test_gradients_of_the_fixture(scale, to_x, to_w, one, road):
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    if road == "matrix":
        u = virtual_logit(cosine_matrix(x), same(Y), scale)
    else:
        batch = pair_batch(x, Y)
        u = pair_log_mass(batch, *whisker_bounds(batch, 1.5), scale)
    arc_loss(x, w, Y, scale, u).backward()
    assert float(x.grad.norm()) == pytest.approx(to_x, abs=1e-9)
    assert float(w.grad.norm()) == pytest.approx(to_w, abs=1e-9)
    assert float(x.grad[2, 1]) == pytest.approx(one, abs=1e-9)


def test_weights_of_the_rows_leave_the_virtual_class_alone():
    """Oracle 7."""
    u = pair_log_mass(pair_batch(X, Y), *whisker_bounds(pair_batch(X, Y), 1.5), 16)
    weights = torch.tensor([1, 0.5, 2, 1.5, 0.25, 1], dtype=torch.float64)
    assert float(arc_loss(X, W, Y, 16, u, weights=weights)) == pytest.approx(13.109195925440, abs=1e-10)
    assert float(arc_loss(X, W, Y, 16, u, weights=3)) == pytest.approx(3 * 12.665497280223, abs=1e-10)


def test_without_the_gradient_of_the_pairs_their_push_is_lost():
    norms = []
    for detach in (True, False):
        x = X.clone().requires_grad_()
        u = virtual_logit(cosine_matrix(x), same(Y), 16)
        arc_loss(x, W, Y, 16, u.detach() if detach else u).backward()
        norms.append(float(x.grad.norm()))
    assert norms == pytest.approx([4.652295416866, 6.770580162410], abs=1e-9)


@pytest.mark.parametrize("whisker", [None, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("scope", ["batch", "row"])
@pytest.mark.parametrize("block", [1, 3, 10, 64])
def test_the_virtual_class_is_the_literal_concatenation(whisker, scope, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", block)
    x, w, labels = random_batch()
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    literal = oracle.literal_loss(one, w, labels, 16, lambda c: oracle.arcface(c, 0.5), whisker, scope)
    batch = pair_batch(two, labels)
    ours = arc_loss(two, w, labels, 16, pair_log_mass(batch, *whisker_bounds(batch, whisker), 16, scope))
    literal.backward()
    ours.backward()
    assert float(ours.detach()) == pytest.approx(float(literal.detach()), abs=1e-12)
    torch.testing.assert_close(two.grad, one.grad, rtol=0, atol=1e-12)


def test_row_scope_of_the_fixture():
    expected = [-1.709054922, 9.398787695, 10.899613328, 10.647364635, 9.250153244, 9.250149858]
    u = virtual_logit(cosine_matrix(X), same(Y), 16, None, scope="row")
    assert u.tolist() == pytest.approx(expected, abs=1e-8)
    assert float(u.logsumexp(0)) - math.log(2) == pytest.approx(11.075374842465, abs=1e-10)
    batch = pair_batch(X, Y)
    rows = pair_log_mass(batch, *whisker_bounds(batch, None), 16, "row")
    torch.testing.assert_close(rows, u, rtol=0, atol=1e-12)


def test_gradcheck_of_the_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 4)
    _, _, labels = random_batch(n=9)
    x = random_batch(n=9)[0].requires_grad_()
    others = random_batch(n=11, seed=1)
    low, high = torch.tensor([-0.6, 0.7], dtype=torch.float64)
    for scope in ("batch", "row"):

        def mass(rows, columns, scope=scope):
            batch = PairBatch(rows=rows, columns=columns, row_labels=labels, column_labels=others[2])
            return pair_log_mass(batch, low, high, 4.0, scope)

        rows, columns = unit_rows(x).detach() * 0.9, unit_rows(others[0]) * 0.9
        assert torch.autograd.gradcheck(mass, (rows.requires_grad_(), columns.requires_grad_()))


@pytest.mark.parametrize(
    ("values", "whisker", "quartiles", "kept"),
    [
        ([-5, *range(8), 20], 1.5, "index", [-5, *range(8)]),
        ([-5, *range(8), 20], 1.0, "index", [*range(8)]),
        ([0, 1, 2, 3, 10], 1.5, "index", [0, 1, 2, 3]),
        ([0, 1, 2, 8], 1.5, "index", [0, 1, 2, 8]),
        ([0, 1, 2, 8], 1.5, "linear", [0, 1, 2]),
        ([0, 1, 2, 8], 1.0, "linear", [0, 1, 2]),
        ([0] * 7 + [9], 1.5, "index", [0] * 7),
        ([3], 0.0, "index", [3]),
        ([4, 4, 4], 0.0, "index", [4, 4, 4]),
    ],
)
def test_whisker_lists(values, whisker, quartiles, kept):
    numbers = torch.tensor(values, dtype=torch.float64)
    low, high = pair_bounds(numbers, whisker, quartiles)
    assert [v for v in values if low <= v <= high] == kept
    assert pair_bounds(numbers, whisker, quartiles, side="upper")[0] == -INF


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-3, 3), min_size=2, max_size=12),
    st.integers(0, 10**6),
    st.sampled_from(["index", "linear"]),
)
def test_bounds_of_the_blocks_are_those_of_the_sorted_list(labels, seed, quartiles):
    labels = torch.tensor(labels)
    x = torch.from_numpy(np.random.default_rng(seed).integers(-2, 3, (len(labels), 3)).astype(np.float64))
    batch = pair_batch(x, labels)
    matrix = (batch.rows @ batch.rows.T).clamp(-1, 1)
    values = (
        torch.stack([matrix[j, k] for j, k in oracle.negative_pairs(labels.tolist())])
        if len(labels.unique()) > 1
        else matrix[:0, 0]
    )
    for whisker in (None, 0.0, 1.5):
        found = whisker_bounds(batch, whisker, quartiles)
        expected = pair_bounds(values, whisker, quartiles)
        assert [float(v) for v in found] == pytest.approx([float(v) for v in expected], abs=1e-12)


def test_doubling_leaves_index_quartiles():
    for count in range(1, 400):
        single = np.arange(count)
        double = np.repeat(single, 2)
        assert double[2 * count // 4] == single[count // 4]
        assert double[3 * 2 * count // 4] == single[3 * count // 4]


@pytest.mark.parametrize("scope", ["batch", "row"])
def test_one_identity_is_the_plain_loss_bit_for_bit(scope):
    x = X.clone().requires_grad_()
    labels = torch.zeros(6, dtype=torch.int64)
    batch = pair_batch(x, labels)
    u = pair_log_mass(batch, *whisker_bounds(batch, 1.5), 16, scope)
    plain = x.detach().clone().requires_grad_()
    loss, expected = arc_loss(x, W, labels, 16, u), arc_loss(plain, W, labels, 16, None)
    loss.backward()
    expected.backward()
    assert torch.equal(loss, expected)
    assert torch.equal(x.grad, plain.grad)
    assert float(virtual_logit(cosine_matrix(X), same(labels), 16).max()) == -INF


def test_permuting_the_batch_permutes_the_gradient():
    x, _, labels = random_batch()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    gradients, values = [], []
    for some, names in ((x, labels), (x[order], 10 - labels[order])):
        points = some.clone().requires_grad_()
        batch = pair_batch(points, names)
        u = pair_log_mass(batch, *whisker_bounds(batch, 1.5), 16)
        u.backward()
        gradients.append(points.grad)
        values.append(float(u.detach()))
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    torch.testing.assert_close(gradients[0][order], gradients[1], rtol=0, atol=1e-12)


def test_the_soft_supremum_bounds_the_hardest_pair():
    for seed in range(20):
        x, _, labels = random_batch(seed=seed)
        batch = pair_batch(x, labels)
        found = describe_pairs(batch, *whisker_bounds(batch, 1.5))
        kept = int(found.count) * (1 - float(found.dropped_above + found.dropped_below))
        u = float(pair_log_mass(batch, found.low, found.high, 64.0)) / 64
        assert (
            float(found.hardest_kept) - 1e-12 <= u <= float(found.hardest_kept) + math.log(kept) / 64 + 1e-12
        )


def test_a_reference_size_makes_batches_of_all_sizes_alike():
    logits = []
    for n, draws in ((64, 16), (256, 8), (1024, 1), (2048, 1)):
        g = torch.Generator().manual_seed(n)
        found = [
            float(
                virtual_logit(
                    cosine_matrix(torch.randn(n, 512, generator=g)),
                    same(torch.arange(n)),
                    64,
                    None,
                    reference_pairs=130_816,
                )
            )
            for _ in range(draws)
        ]
        logits.append(sum(found) / draws)
    assert max(logits) - min(logits) < 0.4
    assert min(logits) > 15.3


def test_genuine_quantiles_leave_out_a_sample_with_itself():
    batch = pair_batch(X, Y)
    pairs = [0.728915153741, 0.602658982784]
    assert float(genuine_quantile(batch, 0.0)) == pytest.approx(min(pairs), abs=1e-10)
    assert float(genuine_quantile(batch, 1.0)) == pytest.approx(max(pairs), abs=1e-10)
    assert math.isnan(float(genuine_quantile(pair_batch(X, torch.arange(6)), 0.5)))


def test_a_broken_embedding_shows():
    x = X.clone()
    x[1, 2] = math.nan
    batch = pair_batch(x, Y)
    assert math.isnan(float(pair_log_mass(batch, *whisker_bounds(batch, 1.5), 16)))


@pytest.mark.parametrize("whisker", [-1.0, INF, math.nan])
def test_no_filter_is_none_and_never_infinite(whisker):
    for call in (lambda: pair_bounds(X[0], whisker), lambda: whisker_bounds(pair_batch(X, Y), whisker)):
        with pytest.raises(ValueError, match="None for no filter"):
            call()


def test_fewer_own_samples_than_all_need_bounds():
    with pytest.raises(ValueError, match="bounds are needed"):
        virtual_logit(cosine_matrix(X)[:2], same(Y)[:2], 16)
    low, high = pair_bounds(cosine_matrix(X)[~same(Y)], None)
    shares = [
        virtual_logit(cosine_matrix(X)[a:b], same(Y)[a:b], 16, bounds=(low, high))
        for a, b in itertools.pairwise([0, 2, 3, 6])
    ]
    assert float(torch.stack(shares).logsumexp(0)) == pytest.approx(11.075374842465, abs=1e-10)
