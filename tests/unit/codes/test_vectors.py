"""Class statistics, shrinkage, whitening and the potential, against the figures of gif.md section 14."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import code_vectors as oracle
from topoface.codes import statistics
from topoface.codes.potential import least_potential, potential, spread_out, tangent_gradient
from topoface.codes.statistics import ClassSums, Shrinkage, analyse, wiener
from topoface.codes.vectors import check_alpha, random_vectors, unit, whitening
from topoface.errors import UserError


def seen(rows: np.ndarray, labels: np.ndarray, classes: int | None = None) -> ClassSums:
    sums = ClassSums.empty(classes or int(labels.max()) + 1, rows.shape[1])
    sums.add(rows, labels)
    return sums


# --- potential (oracles 1 to 4) ------------------------------------------------------------------------------


def test_potential_and_its_gradient_have_the_figures_of_the_fixture() -> None:
    rows = oracle.unit(oracle.fixture(6, 4))
    assert potential(rows, published=True) == pytest.approx(0.182279203854, abs=1e-11)
    assert potential(rows) == pytest.approx(-3.219129969419, abs=1e-11)
    ambient = oracle.ambient_gradient(rows, 2)
    assert np.linalg.norm(ambient) == pytest.approx(0.472921587813, abs=1e-11)
    tangent = tangent_gradient(rows, step="sum")
    assert np.linalg.norm(tangent) == pytest.approx(0.327715691546, abs=1e-11)
    np.testing.assert_allclose(
        tangent[0], [0.102335265194, 0.053146621329, 0.014162515482, 0.126567662448], atol=1e-11
    )
    np.testing.assert_allclose(tangent, ambient - rows * (rows * ambient).sum(1, keepdims=True), atol=1e-14)


def test_published_step_is_the_gradient_of_the_published_value() -> None:
    rows = torch.tensor(oracle.unit(oracle.fixture(6, 4)), requires_grad=True)
    torch.log(torch.exp(-2 * torch.cdist(rows, rows) ** 2).sum() / 6).backward()
    assert rows.grad is not None
    gradient, plain = rows.grad.numpy(), rows.detach().numpy()
    along = (plain * gradient).sum(1, keepdims=True)
    np.testing.assert_allclose(tangent_gradient(plain, step="sum"), gradient - plain * along, atol=1e-14)


def test_row_step_turns_rows_as_far_as_the_fixture_says() -> None:
    rows = oracle.unit(oracle.fixture(6, 4))
    moved = unit(rows - 0.1 * tangent_gradient(rows, step="row"))
    assert potential(moved) == pytest.approx(-3.476209066004, abs=1e-11)
    assert np.arccos((rows * moved).sum(1)).mean() == pytest.approx(0.059502882959, abs=1e-11)


@pytest.mark.parametrize(
    ("n", "published", "distinct"),
    [
        (4, 0.014379960967, -16 / 3),
        (10, 0.100471976700, -40 / 9),
        (65, 0.742499485391, -4.0625),
    ],
)
def test_a_simplex_does_not_move(n: int, published: float, distinct: float) -> None:
    rows = oracle.simplex(n)
    assert np.linalg.norm(tangent_gradient(rows, step="sum")) < 1e-15
    assert np.linalg.norm(tangent_gradient(rows, step="row")) < 1e-14
    assert potential(rows, published=True) == pytest.approx(published, abs=1e-11)
    assert potential(rows) == pytest.approx(distinct, abs=1e-11)


@pytest.mark.parametrize(
    ("dimension", "t", "expected"),
    [
        (2, 2.0, -1.575027),
        (3, 2.0, -2.079777),
        (64, 2.0, -3.875236),
        (128, 2.0, -3.937530010204),
        (512, 2.0, -3.984375474943),
        (512, 1.0, -1.996093779686),
    ],
)
def test_least_potential_is_that_of_the_uniform_sphere(dimension: int, t: float, expected: float) -> None:
    assert least_potential(dimension, t=t) == pytest.approx(expected, abs=1e-6 if dimension < 128 else 1e-11)


def test_uniform_directions_reach_the_least_potential() -> None:
    rows = random_vectors(6000, 64, seed=3).astype(np.float64)
    assert potential(rows) == pytest.approx(least_potential(64), abs=1e-3)


@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 2**31))
def test_mean_over_all_pairs_never_falls_below_the_least_potential(n: int, d: int, seed: int) -> None:
    rows = oracle.unit(np.random.default_rng(seed).normal(size=(n, d)))
    mean_of_all = np.log(oracle.kernel_sum(rows, 2, own=True) / n**2)
    assert mean_of_all >= least_potential(d) - 1e-12
    assert potential(rows, published=True) == pytest.approx(mean_of_all + np.log(n), abs=1e-9)


def test_spreading_a_cone_opens_it_and_is_the_same_every_time() -> None:
    rng = np.random.default_rng(0)
    cone = unit(rng.normal(size=(300, 16)) + 3 * rng.normal(size=16)).astype(np.float32)
    opened = spread_out(cone, epochs=30, block=100)
    assert potential(cone) > potential(opened)
    assert potential(opened) == pytest.approx(least_potential(16), abs=0.1)
    np.testing.assert_allclose(np.linalg.norm(opened, axis=1), 1, atol=1e-6)
    assert (opened == spread_out(cone, epochs=30, block=100)).all()
    heavy = spread_out(cone, epochs=30, block=100, step="sum", momentum=0.9)
    plain = spread_out(cone, epochs=30, block=100, step="sum")
    assert potential(cone) > potential(plain) > potential(heavy)


# --- whitening (oracle 5) ------------------------------------------------------------------------------------


def test_whitening_has_the_figures_of_the_fixture() -> None:
    means = oracle.fixture(40, 3) + np.array([2, -1, 0.5])
    assert oracle.off_diagonal_mean(oracle.unit(means)) == pytest.approx(0.814591397373, abs=1e-11)
    spectrum = np.linalg.eigvalsh(np.cov(means.T, bias=True))
    for alpha, trace, cosine in (
        (0.5, 3.562902897540, -0.021748263771),
        (1, 4.231983749277, -0.021739033700),
    ):
        turn = whitening(means, 3, alpha=alpha, epsilon=0)
        assert np.trace(turn.matrix) == pytest.approx(trace, abs=1e-10)
        made = (means - turn.center) @ turn.matrix
        assert oracle.off_diagonal_mean(oracle.unit(made)) == pytest.approx(cosine, abs=1e-10)
        whitened = np.linalg.eigvalsh(np.cov(made.T, bias=True))
        np.testing.assert_allclose(np.sort(whitened), np.sort(spectrum ** (1 - alpha)), rtol=1e-11)


def test_full_whitening_of_few_identities_is_refused() -> None:
    with pytest.raises(UserError, match="leaves no structure"):
        check_alpha(1, 50, 64)
    with pytest.raises(UserError, match="from 0 to 1"):
        check_alpha(-0.5, 50, 4)
    check_alpha(1, 1280, 64)
    for means in (oracle.fixture(50, 64), np.random.default_rng(0).normal(size=(50, 64))):
        spanned = means @ np.linalg.svd(means - means.mean(0))[2][:49].T  # without null directions
        for rows, epsilon, tolerance in ((means, 1e-6, 1e-4), (spanned, 0.0, 1e-12)):
            turn = whitening(rows, rows.shape[1], alpha=1, epsilon=epsilon)
            made = oracle.unit((rows - turn.center) @ turn.matrix)
            np.testing.assert_allclose((made @ made.T)[np.tril_indices(50, -1)], -1 / 49, atol=tolerance)


def test_half_whitening_of_few_identities_keeps_their_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(5), 10)
    means = 2 * rng.normal(size=(5, 64))[groups] + rng.normal(size=(50, 64))
    rows = whitening(means, 64, alpha=0.5)(means)
    cosines = rows @ rows.T - 2 * np.eye(50)
    assert (groups[cosines.argmax(1)] == groups).all()


def test_no_alpha_leaves_the_means_where_they_are() -> None:
    means = oracle.fixture(40, 3) + 2
    np.testing.assert_allclose(whitening(means, 3, alpha=None)(means), oracle.unit(means), atol=1e-6)


def test_more_dimensions_keep_every_cosine_and_fewer_keep_the_leading_ones() -> None:
    means = np.random.default_rng(1).normal(size=(200, 6)) * np.array([9, 5, 3, 1e-4, 1e-4, 1e-4])
    same, wider, narrower = (whitening(means, d, alpha=0.25)(means) for d in (6, 11, 3))
    assert wider.shape == (200, 11)
    np.testing.assert_allclose(wider @ wider.T, same @ same.T, atol=1e-5)
    np.testing.assert_allclose(narrower @ narrower.T, same @ same.T, atol=1e-2)


# --- statistics (oracles 6 and 7) ------------------------------------------------------------------------------


def test_variances_of_three_unequal_classes() -> None:
    values = np.array([[1.0], [3], [5], [7], [9], [10]])
    found = analyse(seen(values, np.array([0, 0, 1, 1, 1, 2])))
    assert found is not None
    np.testing.assert_allclose(
        [*found, found.kappa], [10 / 3, 305 / 12, 11 / 6, 265 / 22, 44 / 159], rtol=1e-14
    )


def test_shards_in_any_order_give_what_one_pass_gives() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(500, 7)), rng.integers(0, 60, 500)
    whole, joined = seen(rows, labels, 61), ClassSums.empty(61, 7)
    for part in np.array_split(rng.permutation(500), 3):
        joined.merge(seen(rows[part], labels[part], 61))
    np.testing.assert_allclose(joined.sums, whole.sums, atol=1e-14)  # of some eight numbers each
    assert (joined.counts == whole.counts).all()
    one, other = analyse(whole), analyse(joined)
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one, other, rtol=5e-15)


def test_many_identities_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sums = seen(rng.normal(size=(400, 6)), rng.integers(0, 90, 400), 91)  # nobody has the last label
    means = sums.means(np.arange(91))
    np.testing.assert_allclose(means[:-1] * sums.counts[:-1, None], sums.sums[:-1], rtol=1e-5, atol=1e-6)
    assert (means[-1] == 0).all()

    def results() -> list[np.ndarray]:
        filter_, turn = wiener(sums), whitening(means, 6, alpha=0.5)
        assert filter_ is not None
        return [turn.center, turn.matrix, turn(means), filter_.gain, filter_(means, sums.counts)]

    whole = results()
    monkeypatch.setattr(statistics, "BLOCK", 7)
    for part, one in zip(results(), whole, strict=True):
        np.testing.assert_allclose(part, one, rtol=1e-5, atol=1e-6)


def test_kappa_of_many_small_classes_is_found() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 12, 20000)
    labels = np.repeat(np.arange(20000), counts)
    rows = (rng.normal(size=(20000, 4)))[labels] + np.sqrt(3.449) * rng.normal(size=(len(labels), 4))
    found = analyse(seen(rows, labels))
    assert found is not None
    assert found.kappa == pytest.approx(3.449, rel=0.03)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0]])
def test_nothing_is_said_of_signal_and_noise_that_cannot_be_told_apart(labels: list[int]) -> None:
    rows = seen(oracle.fixture(4, 3), np.array(labels))
    assert analyse(rows) is None
    assert wiener(rows) is None


@pytest.mark.parametrize("kappa", [0.1, 3.4, 100.0])
def test_isotropic_shrinkage_changes_no_direction(kappa: float) -> None:
    rng = np.random.default_rng(0)
    means, counts = rng.normal(size=(30, 5)), rng.integers(1, 9, 30)
    even = Shrinkage(center=means.mean(0), basis=np.eye(5), inverse=np.eye(5), gain=np.full(5, 1 / kappa))
    shrunk = even(means, counts)
    np.testing.assert_allclose(
        oracle.unit(shrunk - means.mean(0)), oracle.unit(means - means.mean(0)), atol=1e-14
    )


def test_wiener_trusts_one_image_with_a_quarter_of_signal_by_a_fifth() -> None:
    filter_ = Shrinkage(center=np.zeros(1), basis=np.eye(1), inverse=np.eye(1), gain=np.array([0.25]))
    np.testing.assert_allclose(filter_(np.ones((1, 1)), np.array([1])), 0.2)


def test_wiener_brings_rare_identities_nearer_to_their_true_direction() -> None:
    rng = np.random.default_rng(0)
    d, noise = 16, np.linspace(3, 0.1, 16)
    counts = rng.integers(1, 6, 3000)
    labels = np.repeat(np.arange(3000), counts)
    true = rng.normal(size=(3000, d))
    sums = seen(true[labels] + noise * rng.normal(size=(len(labels), d)), labels)
    found = wiener(sums)
    assert found is not None

    def agreement(rows: np.ndarray, n: int) -> float:
        return float((oracle.unit(rows) * oracle.unit(true)).sum(1)[counts == n].mean())

    means = sums.means(np.arange(3000))
    shrunk = found(means, sums.counts)
    assert agreement(shrunk, 1) > agreement(means, 1) + 0.1
    assert agreement(shrunk, 5) > agreement(means, 5)
    expected = np.sort(1 / noise**2)
    np.testing.assert_allclose(np.sort(found.gain), expected, rtol=0.25)


@pytest.mark.parametrize(("people", "copies", "d"), [(20, 3, 8), (40, 2, 128), (300, 20, 512)])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_wiener_leaves_the_means_of_copies_where_they_are(
    people: int, copies: int, d: int, noise: float
) -> None:
    """What is left of their noise is rounding, of either sign, which no ridge relative to itself covers."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(people), copies)
    rows = oracle.unit(rng.normal(size=(people, d)))[labels] + noise * rng.normal(size=(len(labels), d))
    sums = seen(rows.astype(np.float32), labels)
    found, variances = wiener(sums), analyse(sums)
    assert found is not None
    assert variances is not None
    assert 0 <= variances.kappa < 1e-6
    means = sums.means(np.arange(people))
    np.testing.assert_allclose(found(means, sums.counts), means, atol=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.0, 0.25])
@pytest.mark.parametrize("people", [1, 2, 7])
def test_means_that_do_not_differ_are_refused_in_one_line(people: int, alpha: float | None) -> None:
    row = np.random.default_rng(0).normal(size=5)
    with pytest.raises(UserError, match=r"same for all identities.*tells nobody apart"):
        whitening(np.tile(row, (people, 1)), 5, alpha=alpha)
