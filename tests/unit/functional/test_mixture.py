"""The mixture of easy and hard samples: exact steps, recovery of planted parameters, order, degenerate batches."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import mixture as oracle
from topoface.functional import mixture
from topoface.functional.compiled import compiled
from topoface.functional.mixture import FITS, fit_mixture, hardness, posterior
from topoface.functional.mixture_loops import exponentials

EXAMPLE = [0.01, 0.02, 0.05, 0.08, 0.1, 0.15, 2, 4]
LOCAL_FITS = ("ml", "moments", "eq7")


def vector(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def parameters(fit):
    return [float(fit.weight), float(fit.variance), float(fit.upper)]


@pytest.mark.parametrize(("fit", "upper"), [("ml", 1), ("moments", 1.34236223), ("eq7", 2.09195932)])
def test_one_step_by_hand(fit, upper):
    found = fit_mixture(vector([0.0, 1]), fit=fit, iterations=1, floor=0)
    assert parameters(found) == pytest.approx([0.41174940, 0.35621169, upper], abs=1e-8)
    before = posterior(vector([0.0, 1]), vector(0.5), vector(0.5), vector(1.0))
    assert before.tolist() == pytest.approx([0.4698411, 0.7066601], abs=1e-7)


@pytest.mark.parametrize("fit", LOCAL_FITS)
@pytest.mark.parametrize("support", [{}, {"support": "logC", "num_classes": 1000}])
def test_compiled_and_tensor_expectation_maximisation_agree(fit, support, monkeypatch):
    rng = np.random.default_rng(0)
    batches = [
        np.where(rng.random(n) < 0.7, np.abs(rng.normal(0, 0.3, n)), 4 * rng.random(n))
        for n in (1, 2, 127, 128)
    ]
    batches += [
        np.zeros(5),
        np.full(5, 6.4),
        np.r_[np.zeros(127), 5.0],
        np.full(3, 1e-9),
        np.array([0.0, 800.0]),
    ]
    compiled = [fit_mixture(vector(batch), fit=fit, **support) for batch in batches]
    monkeypatch.setattr(mixture, "_compiled_em", lambda: None)
    for batch, one in zip(batches, compiled, strict=True):
        other = fit_mixture(vector(batch), fit=fit, **support)
        assert parameters(one) == pytest.approx(parameters(other), rel=1e-11)
        torch.testing.assert_close(one.hardness, other.hardness, rtol=1e-9, atol=1e-12)


def test_vectorised_exponentials_equal_those_of_the_library():
    vectorised = compiled(exponentials, fused=True)
    values = np.r_[
        np.linspace(-700, 700, 100_001), 0, -0.0, 1e-300, np.random.default_rng(0).normal(0, 3, 10_000)
    ]
    found = values.copy()
    vectorised(found, np.empty(len(values), np.int64))
    np.testing.assert_allclose(found, [math.exp(x) for x in values], rtol=3e-13, atol=0)
    assert found[100_001] == 1
    ends = np.array([-1e9, -np.inf, 1e9, np.inf, np.nan])
    vectorised(ends, np.empty(5, np.int64))
    np.testing.assert_allclose(ends, [math.exp(-700)] * 2 + [math.exp(700)] * 2 + [np.nan], rtol=3e-13)


@pytest.mark.parametrize("compile_it", [True, False])
def test_an_entropy_that_is_no_number_is_not_hidden(compile_it, monkeypatch):
    if not compile_it:
        monkeypatch.setattr(mixture, "_compiled_em", lambda: None)
    for place in (0, 3):
        entropies = vector(EXAMPLE)
        entropies[place] = math.nan
        assert fit_mixture(entropies).hardness.isnan().all()


def test_posterior_at_given_parameters():
    found = posterior(vector([0, 0.5, 1]), vector(0.8), vector(0.04), vector(3.0))
    assert found.tolist() == pytest.approx([0.02046116, 0.32222764, 0.99982163], abs=1e-8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fit": "ml"}, [0.736400, 0.00688508, 4]),
        ({"fit": "moments"}, [0.740000, 0.00691121, 5.370989]),
        ({"fit": "eq7"}, [0.741458, 0.00692177, 6.255050]),
        ({"support": "logC", "num_classes": 1000}, [0.742288, 0.00692778, math.log(1000)]),
    ],
)
def test_the_example_of_the_specification(options, expected):
    assert parameters(fit_mixture(vector(EXAMPLE), floor=0, **options)) == pytest.approx(expected, abs=6e-7)


def test_hardness_of_the_example():
    found = fit_mixture(vector(EXAMPLE), floor=0).hardness
    expected = [0.009287, 0.00949, 0.011036, 0.014597, 0.018876, 0.045517, 1, 1]
    assert found.tolist() == pytest.approx(expected, abs=6e-7)


def test_the_released_fit_of_the_example_is_not_monotone():
    found = fit_mixture(vector(EXAMPLE), fit="release")
    expected = [0.1086, 0.0982, 0.1262, 0.0831, 0.1558, 0.0724, 1, 1]
    assert found.hardness.tolist() == pytest.approx(expected, abs=6e-5)
    assert found.weight == 0.5


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0.05, 11), min_size=2, max_size=12), st.sampled_from(LOCAL_FITS))
def test_em_equals_the_oracle(entropies, fit):
    # two steps: later EM may go to a boundary, where the clamps are the point
    expected = oracle.em(entropies, fit, 2)
    found = fit_mixture(vector(entropies), fit=fit, iterations=2, floor=0)
    assert parameters(found) == pytest.approx([min(max(expected[0], 1e-3), 0.999), *expected[1:]], rel=1e-9)


@pytest.mark.parametrize(
    ("planted", "eq7_fails"),
    [((0.8, 0.04, 3), False), ((0.5, 0.04, 3), False), ((0.3, 0.09, 4), True), ((0.9, 0.0025, 5), False)],
)
def test_ml_recovers_planted_parameters_and_eq7_does_not_always(planted, eq7_fails):
    weight, variance, upper = planted
    rng = np.random.default_rng(0)
    easy = np.abs(rng.normal(0, math.sqrt(variance), 100_000))
    entropies = torch.from_numpy(np.where(rng.random(100_000) < weight, easy, rng.uniform(0, upper, 100_000)))
    assert parameters(fit_mixture(entropies)) == pytest.approx(planted, rel=0.02)
    moments, printed = fit_mixture(entropies, fit="moments"), fit_mixture(entropies, fit="eq7")
    assert float(moments.weight) == pytest.approx(weight, rel=0.02)
    # at the planted fixed point: the printed equation is too wide by 1 / sqrt(pi)
    assert (abs(float(printed.weight) - weight) > 0.5) == eq7_fails


def test_eq7_is_the_moment_fit_over_the_root_of_the_weight():
    entropies = vector(EXAMPLE)
    moments, printed = (fit_mixture(entropies, fit=fit, iterations=1, floor=0) for fit in ("moments", "eq7"))
    torch.testing.assert_close(moments.upper / printed.upper, printed.weight.sqrt())


def test_the_likelihood_of_ml_never_falls():
    entropies = np.random.default_rng(1).gamma(0.7, 1.0, 60).tolist()
    traces = [
        oracle.log_likelihood(
            entropies, *parameters(fit_mixture(vector(entropies), iterations=k, floor=1e-6))
        )
        for k in range(1, 60)
    ]
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(traces))


@pytest.mark.parametrize("fit", FITS)
def test_order_matters_to_the_released_fit_alone(fit):
    entropies = torch.from_numpy(np.random.default_rng(2).gamma(0.7, 1.0, 128))
    order = torch.from_numpy(np.random.default_rng(3).permutation(128))
    moved = fit_mixture(entropies[order], fit=fit).hardness
    shift = (moved - fit_mixture(entropies, fit=fit).hardness[order]).abs().max()
    assert shift > 0.01 if fit == "release" else shift < 1e-7


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 12), min_size=1, max_size=20), st.sampled_from(LOCAL_FITS))
def test_hardness_is_a_probability_and_increases_with_the_entropy(entropies, fit):
    found = fit_mixture(vector(sorted(entropies), torch.float32), fit=fit).hardness
    assert found.isfinite().all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found.diff() >= 0).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "entropies", [[0.0] * 128, [6.4] * 128, [0.0] * 127 + [5.0], [3.0], [0.0], [1e-9] * 64, [12.0, 0.0]]
)
def test_degenerate_batches_are_finite(entropies, dtype, fit):
    found = fit_mixture(vector(entropies, dtype), fit=fit)
    assert found.hardness.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    for value in (found.hardness, found.weight, found.variance, found.upper):
        assert value.isfinite().all()


def test_hard_is_absolute():
    assert hardness(torch.zeros(128)).max() < 2e-4
    assert hardness(torch.full((128,), 1e-9)).max() < 2e-4
    assert hardness(torch.full((128,), 6.4)).min() > 0.999
    outlier = hardness(torch.tensor([5.0] + [0.0] * 127))
    assert outlier[0] == 1
    assert outlier[1:].max() < 1e-4


def test_float32_agrees_with_float64():
    entropies = torch.from_numpy(np.random.default_rng(4).gamma(0.7, 1.0, 128))
    assert (hardness(entropies.float()).double() - hardness(entropies)).abs().max() < 1e-6


def test_the_graph_goes_through_the_posterior_with_the_parameters_held():
    entropies = vector(EXAMPLE).requires_grad_()
    fit = fit_mixture(entropies)
    assert not any(value.requires_grad for value in (fit.weight, fit.variance, fit.upper))
    (gradient,) = torch.autograd.grad(fit.hardness.sum(), entropies)
    h = fit.hardness.detach()
    torch.testing.assert_close(gradient, h * (1 - h) * vector(EXAMPLE) / fit.variance)
    assert torch.autograd.gradcheck(lambda e: posterior(e, fit.weight, fit.variance, fit.upper), entropies)


@pytest.mark.parametrize(
    ("entropies", "options", "message"),
    [
        ([1.0], {"fit": "best"}, "'best'.*ml, moments, eq7, release"),
        ([1.0], {"support": "all"}, "'all'.*batch, logC"),
        ([1.0], {"support": "logC"}, "num_classes"),
        ([], {}, "at least one"),
        ([[1.0]], {}, "at least one"),
    ],
)
def test_what_cannot_be_fitted_is_refused(entropies, options, message):
    with pytest.raises(ValueError, match=message):
        fit_mixture(vector(entropies), **options)
