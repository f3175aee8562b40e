"""What every head promises; each registered head is walked through all of it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.oracles.heads import angular_logit, class_statistics
from topoface.errors import UserError
from topoface.heads import ArcFace, CombinedMargin, CosFace, Softmax, StatisticsRequest

# head, its arguments, and the target logit as a function of the cosine
HEADS: list[tuple[type[Softmax], dict[str, Any], Callable[[float], float]]] = [
    (Softmax, {}, lambda c: c),
    (ArcFace, {"margin": 0.5}, lambda c: angular_logit(c, 0.5)),
    (CosFace, {"margin": 0.35}, lambda c: c - 0.35),
    (CombinedMargin, {"angular": 0.3, "additive": 0.2}, lambda c: angular_logit(c, 0.3) - 0.2),
    (
        CombinedMargin,
        {"multiplier": 1.2, "angular": 0.1, "additive": 0.0},
        lambda c: math.cos(1.2 * math.acos(c) + 0.1),
    ),
]
n, D, C = 6, 8, 5


def embeddings(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, D, dtype=dtype, generator=torch.Generator().manual_seed(3))


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize(("kind", "arguments", "logit_of"), HEADS)
@pytest.mark.parametrize("with_extra", [False, True])
def test_statistics_equal_the_sample_by_sample_oracle(
    kind: type[Softmax], arguments: dict[str, Any], logit_of: Callable[[float], float], with_extra: bool
) -> None:
    head = kind(D, C, scale=16.0, **arguments).double()
    extra = torch.linspace(-1, 12, n, dtype=torch.float64) if with_extra else None
    stats = head(embeddings(), LABELS, extra=extra)
    losses, log_probabilities, entropies = class_statistics(
        embeddings(), head.weight.detach(), LABELS, 16.0, logit_of, None if extra is None else extra.tolist()
    )
    np.testing.assert_allclose(stats.loss.detach(), losses, atol=1e-12)
    np.testing.assert_allclose(stats.target_log_probability, log_probabilities, atol=1e-12)
    np.testing.assert_allclose(stats.entropy, entropies, atol=1e-12)


@pytest.mark.parametrize(("kind", "arguments", "logit_of"), HEADS)
def test_statistics_without_margin_are_those_of_the_plain_cosines(
    kind: type[Softmax], arguments: dict[str, Any], logit_of: Callable[[float], float]
) -> None:
    head = kind(D, C, scale=16.0, **arguments).double()
    stats = head(embeddings(), LABELS, request=StatisticsRequest(margin=False))
    _, log_probabilities, entropies = class_statistics(
        embeddings(), head.weight.detach(), LABELS, 16.0, lambda c: c
    )
    np.testing.assert_allclose(stats.target_log_probability, log_probabilities, atol=1e-12)
    np.testing.assert_allclose(stats.entropy, entropies, atol=1e-12)


@pytest.mark.parametrize(("kind", "arguments", "logit_of"), HEADS)
def test_gradient_equals_finite_differences(
    kind: type[Softmax], arguments: dict[str, Any], logit_of: Callable[[float], float]
) -> None:
    head = kind(D, C, scale=4.0, **arguments).double()
    points = embeddings().requires_grad_()

    def loss(z: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(head, {"weight": w}, (z, LABELS)).loss

    weight = head.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (points, weight))


@pytest.mark.parametrize(("kind", "arguments", "logit_of"), HEADS)
def test_statistics_are_detached_unless_asked_for(
    kind: type[Softmax], arguments: dict[str, Any], logit_of: Callable[[float], float]
) -> None:
    head = kind(D, C, **arguments)
    points = embeddings(torch.float32).requires_grad_()
    stats = head(points, LABELS)
    assert stats.loss.requires_grad
    assert not stats.entropy.requires_grad
    assert not stats.target_log_probability.requires_grad
    assert not stats.target_cosine.requires_grad
    wanted = head(points, LABELS, request=StatisticsRequest(differentiable=True))
    assert wanted.entropy.requires_grad
    assert wanted.target_log_probability.requires_grad
    assert torch.equal(wanted.entropy, stats.entropy)


@pytest.mark.parametrize(("kind", "arguments", "logit_of"), HEADS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_embeddings_give_the_float32_loss_of_the_same_numbers(
    kind: type[Softmax], arguments: dict[str, Any], logit_of: Callable[[float], float], dtype: torch.dtype
) -> None:
    head = kind(D, C, **arguments)
    half = embeddings().to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        stats = head(half, LABELS)
    assert stats.loss.dtype == torch.float32
    assert torch.equal(stats.loss, head(half.float(), LABELS).loss)


@pytest.mark.parametrize(("kind", "arguments", "logit_of"), HEADS)
def test_an_embedding_on_its_center_or_opposite_has_a_finite_gradient(
    kind: type[Softmax], arguments: dict[str, Any], logit_of: Callable[[float], float]
) -> None:
    head = kind(D, C, **arguments)
    center = head.weight.detach()[0]
    points = torch.stack([center, -center, 3 * center]).requires_grad_()
    head(points, torch.zeros(3, dtype=torch.int64)).loss.sum().backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()
    assert head.weight.grad is not None
    assert head.weight.grad.isfinite().all()


@pytest.mark.parametrize("kind", [ArcFace, CosFace])
def test_a_zero_margin_is_softmax(kind: type[Softmax]) -> None:
    plain, margined = Softmax(D, C).double(), kind(D, C, margin=0.0).double()
    torch.testing.assert_close(
        margined(embeddings(), LABELS).loss, plain(embeddings(), LABELS).loss, rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("kind", [ArcFace, CosFace, CombinedMargin, Softmax])
def test_a_shift_is_a_margin_of_each_sample(kind: type[Softmax]) -> None:
    head = kind(D, C).double()
    shift = torch.linspace(0, 0.2, n, dtype=torch.float64)
    losses = head(embeddings(), LABELS, shift=shift).loss
    if kind is ArcFace:
        each = [
            ArcFace(D, C, margin=0.5 + float(s)).double()(embeddings(), LABELS).loss[i]
            for i, s in enumerate(shift)
        ]
        torch.testing.assert_close(losses, torch.stack(each))
    assert (losses[1:] > head(embeddings(), LABELS).loss[1:]).all()


def test_straight_margin_gradient_ignores_the_derivative_of_the_margin() -> None:
    exact, straight = (ArcFace(D, C, margin_gradient=g).double() for g in ("exact", "straight"))
    points = embeddings().requires_grad_()
    losses = [head(points, LABELS).loss for head in (exact, straight)]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss.sum(), points)[0] for loss in losses]
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert 0.01 < difference < 1


def test_centers_are_a_function_of_the_seed_and_touch_no_global_generator() -> None:
    before = torch.random.get_rng_state()
    assert torch.equal(ArcFace(D, C, seed=1).weight, ArcFace(D, C, seed=1).weight)
    assert not torch.equal(ArcFace(D, C, seed=1).weight, ArcFace(D, C, seed=2).weight)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (ArcFace, {"margin": -0.1}),
        *((ArcFace, {"scale": scale}) for scale in (0.0, math.inf, math.nan)),
        *((CosFace, {"margin": margin}) for margin in (-0.4, 2.1, math.inf, math.nan)),
        *((CombinedMargin, {"multiplier": multiplier}) for multiplier in (0.5, math.inf, math.nan)),
        *((CombinedMargin, {"angular": angular}) for angular in (-0.1, 9.0, math.nan)),
        *((CombinedMargin, {"additive": additive}) for additive in (-3.0, 2.1, math.nan)),
    ],
)
def test_impossible_settings_are_refused(kind: type[Softmax], arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        kind(D, C, **arguments)


def test_methods_that_want_different_entropies_are_refused() -> None:
    with pytest.raises(UserError, match="entropy"):
        StatisticsRequest.merge([StatisticsRequest(), StatisticsRequest(margin=False)])
    assert StatisticsRequest.merge(
        [StatisticsRequest(), StatisticsRequest(differentiable=True)]
    ).differentiable
