"""Margins: values, gradients, ends, and what follows past pi - m."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.heads import angular_logit
from topoface.functional.margin import arcface, combined, cosface, straight_through

COSINES = torch.linspace(-1, 1, 4001, dtype=torch.float64)
MARGINS = [0.0, 0.1, 0.3, 0.5, 1.0, 1.5]


@pytest.mark.parametrize("margin", MARGINS)
def test_arcface_equals_the_angle_formula(margin: float) -> None:
    expected = [angular_logit(float(c), margin) for c in COSINES]
    np.testing.assert_allclose(arcface(COSINES, margin).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("continuation", ["linear", "insightface"])
def test_margins_are_monotone_and_never_easier_than_none(margin: float, continuation: str) -> None:
    value = arcface(COSINES, margin, continuation)
    assert (value.diff() >= -1e-12).all()
    assert (value <= COSINES + 1e-12).all()


def test_continuations_differ_as_named_past_pi_minus_m() -> None:
    m = 0.5
    edge = math.cos(math.pi - m)
    just_past = torch.tensor(edge - 1e-9, dtype=torch.float64)
    assert arcface(just_past, m).item() == pytest.approx(-1, abs=1e-6)
    assert arcface(just_past, m, "insightface").item() == pytest.approx(edge - m * math.sin(m), abs=1e-6)
    assert -1 - arcface(just_past, m, "insightface").item() == pytest.approx(0.117, abs=1e-3)
    assert arcface(torch.tensor(-1.0), m, "wrap").item() == pytest.approx(math.cos(math.pi + m), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [-1.0, 1.0, 1.0 + 1e-6, -1.0 - 1e-6])
def test_values_are_exact_and_gradients_finite_at_the_ends(dtype: torch.dtype, value: float) -> None:
    cosine = torch.tensor(value, dtype=dtype, requires_grad=True)
    for function in (arcface, lambda c, m: combined(c, multiplier=1.2, angular=m, additive=0.1)):
        out = function(cosine, 0.5)
        (gradient,) = torch.autograd.grad(out, cosine)
        assert gradient.isfinite()
    if abs(value) == 1:
        assert arcface(cosine, 0.5).item() == pytest.approx(angular_logit(value, 0.5), abs=1e-7)


@pytest.mark.parametrize("margin", [0.1, 0.5])
def test_gradient_is_that_of_the_angle(margin: float) -> None:
    cosine = torch.linspace(-0.999, 0.999, 101, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: arcface(c, margin), cosine)
    (gradient,) = torch.autograd.grad(arcface(cosine, margin).sum(), cosine)
    theta = cosine.detach().acos()
    inside = theta + margin < math.pi
    expected = torch.where(inside, (theta + margin).sin() / theta.sin(), 1.0)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


def test_straight_through_keeps_the_value_and_passes_the_gradient() -> None:
    cosine = torch.linspace(-0.9, 0.9, 11, dtype=torch.float64, requires_grad=True)
    value = straight_through(arcface(cosine, 0.5), cosine)
    torch.testing.assert_close(value, arcface(cosine, 0.5), rtol=0, atol=1e-15)
    (gradient,) = torch.autograd.grad(value.sum(), cosine)
    assert torch.equal(gradient, torch.ones_like(gradient))


@given(st.floats(-1, 1), st.floats(0, 1.5), st.floats(0, 0.5))
def test_combined_margin_contains_the_others(c: float, angular: float, additive: float) -> None:
    cosine = torch.tensor([c], dtype=torch.float64)
    torch.testing.assert_close(combined(cosine, angular=angular), arcface(cosine, angular))
    torch.testing.assert_close(combined(cosine, additive=additive), cosface(cosine, additive))


@pytest.mark.parametrize("multiplier", [1.0, 1.1, 1.35, 2.0])
def test_combined_margin_is_continuous_and_monotone(multiplier: float) -> None:
    value = combined(COSINES, multiplier=multiplier, angular=0.3, additive=0.2)
    assert (value.diff() >= -1e-12).all()
    assert value.diff().abs().max() < 0.06  # no jump; the steepest part is near cos = 1


def test_a_margin_for_each_sample_equals_one_call_each() -> None:
    cosine = torch.tensor([0.9, 0.1, -0.95], dtype=torch.float64)
    margin = torch.tensor([0.1, 0.5, 0.4], dtype=torch.float64)
    each = torch.stack([arcface(c, float(m)) for c, m in zip(cosine, margin, strict=True)])
    torch.testing.assert_close(arcface(cosine, margin), each)


def test_an_unknown_continuation_is_refused() -> None:
    with pytest.raises(ValueError, match="linear, insightface or wrap"):
        arcface(torch.zeros(1), 0.5, "bend")  # type: ignore[arg-type]
