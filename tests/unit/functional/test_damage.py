"""The structure damage score: its limits, its gates, and what it does to the gradient of the logits."""

import math

import pytest
import torch

from tests.oracles import mixture as oracle
from topoface.functional.damage import damage_score
from topoface.functional.mixture import posterior


def log_p(*values):
    return torch.tensor(values, dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("h", "p", "score"), [(0, 0, 1), (1, 0, 2), (0.5, 0.9, 0.15), (0.3, 1, 0), (0, 1, 0)]
)
def test_limits(h, p, score):
    found = damage_score(torch.tensor([h], dtype=torch.float64), log_p(p))
    assert float(found) == pytest.approx(score, abs=1e-15)


@pytest.mark.parametrize("temperature", [0, 0.5, 1, 3])
def test_equals_the_formula(temperature):
    h, p = torch.rand(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [oracle.damage(x, y, temperature) for x, y in zip(h.tolist(), p.tolist(), strict=True)]
    assert damage_score(h, p.log(), temperature=temperature).tolist() == pytest.approx(expected, rel=1e-13)


def test_parts_can_be_left_out():
    h, target = torch.tensor([0.0, 1.0]), torch.tensor([-1.0, -2.0])
    focal = -torch.expm1(target)
    assert torch.equal(damage_score(h, target, temperature=0), focal)
    assert torch.equal(damage_score(None, target), focal)
    assert damage_score(h, target, focal="off").tolist() == [1, 2]
    assert damage_score(None, target, focal="off").tolist() == [1, 1]


def test_small_errors_are_not_lost_in_float32():
    assert float(damage_score(None, torch.tensor([-1e-9]))) == pytest.approx(1e-9)
    assert damage_score(None, torch.tensor([1e-8])) == 0  # a log p above 0 is rounding


def test_the_gate_is_closed_where_p_rounds_to_one_in_float32():
    target = torch.tensor([-1e-9, -1e-5, -5.0, 0.0], dtype=torch.float64)
    assert damage_score(None, target, focal="gate").tolist() == [0, 1, 1, 0]


def test_the_cap_is_the_largest_score():
    h, target = torch.tensor([1.0, 0, 0]), log_p(0.1, 0.5, 1).float()
    assert damage_score(h, target, cap=1.5).tolist() == pytest.approx([1.5, 0.5, 0])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="allowed are"):
        damage_score(None, torch.zeros(2), focal="maybe")


@pytest.mark.parametrize("gradient", ["none", "focal", "full"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradient_multipliers(gradient, temperature):
    n, classes = 6, 7
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(n, classes, dtype=torch.float64, generator=generator)).requires_grad_()
    labels = torch.randint(classes, (n,), generator=generator)
    logs = logits.log_softmax(1)
    entropy = -(logs.exp() * logs).sum(1)
    target = logs[torch.arange(n), labels]
    weight, variance, upper = (torch.tensor(x, dtype=torch.float64) for x in (0.6, 0.3, 2.0))
    h = posterior(entropy, weight, variance, upper)
    score = damage_score(
        h if gradient == "full" else h.detach(),
        target.detach() if gradient == "none" else target,
        temperature=temperature,
    )
    (found,) = torch.autograd.grad(-(score * target).mean(), logits)

    logs, e, h, log_t = (
        logs.detach(),
        entropy.detach()[:, None],
        h.detach()[:, None],
        target.detach()[:, None],
    )
    p, one_hot = logs.exp(), torch.eye(classes, dtype=torch.float64)[labels]
    hard, miss = (1 + h) ** temperature, 1 - log_t.exp()
    multiplier = hard * miss if gradient == "none" else hard * (miss - log_t.exp() * log_t)
    expected = multiplier * (p - one_hot) / n
    if gradient == "full":
        slope = temperature * (1 + h) ** (temperature - 1) * h * (1 - h) * e / variance
        expected = expected + miss * -log_t * slope * (-p * (logs + e)) / n
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_multiplier_of_the_specification():
    for p, expected in ((0.01, 1.036), (0.1, 1.130), (0.5, 0.847), (0.9, 0.195), (0.99, 0.0199)):
        target = torch.tensor([math.log(p)], dtype=torch.float64, requires_grad=True)
        (-damage_score(None, target) * target).sum().backward()
        assert -float(target.grad) == pytest.approx(expected, abs=6e-4)
