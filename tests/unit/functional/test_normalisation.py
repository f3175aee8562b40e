"""Compiled batch normalisation with its activation, against torch's own two nodes."""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from topoface.functional import normalisation
from topoface.functional.normalisation import loops_can_normalise, normalise

EPS = 1e-5
SHAPES = [(4, 16, 6, 10), (3, 24, 7, 7), (2, 130, 5, 3), (5, 3, 1, 1), (1, 4, 2, 2)]


def images(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Far from zero mean, so that a variance by E[x^2] - E[x]^2 would show."""
    random = torch.Generator().manual_seed(seed)
    x = 200 + torch.randn(shape, generator=random, dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def parameters(channels: int, activation: str, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
    """Weight, bias, slope; some weights negative, one zero."""
    random = torch.Generator().manual_seed(1)
    weight, bias, slope = torch.randn((3, channels), generator=random, dtype=torch.float64).to(dtype)
    weight[0] = 0
    slopes = {"none": None, "relu": torch.zeros(channels, dtype=dtype), "prelu": slope}
    return [weight, bias, slopes[activation]]


def by_torch(x: Tensor, weight: Tensor | None, bias: Tensor | None, slope: Tensor | None) -> Tensor:
    out = functional.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)
    return out if slope is None else functional.prelu(out, slope)


def outcome(function, x: Tensor, given: list[Tensor | None]) -> list[Tensor]:
    """The result, and the gradient of a product with a fixed pattern for each input that can have one."""
    inputs = [None if value is None else value.clone().requires_grad_() for value in (x, *given)]
    out = function(*inputs)
    pattern = torch.arange(out.numel(), dtype=out.dtype).view_as(out).cos()
    out.backward(pattern)
    return [out.detach(), *(value.grad for value in inputs if value is not None)]


def loops(x: Tensor, weight: Tensor | None, bias: Tensor | None, slope: Tensor | None) -> Tensor:
    return normalise(x, weight, bias, slope, eps=EPS).out


needs_loops = pytest.mark.skipif(
    not loops_can_normalise(images((1, 2, 2, 2))), reason="numba is not installed"
)


@needs_loops
@pytest.mark.parametrize(("shape", "activation"), list(product(SHAPES, ("none", "relu", "prelu"))))
def test_result_and_gradients_are_torchs(shape: tuple[int, ...], activation: str) -> None:
    given = parameters(shape[1], activation)
    for ours, expected in zip(
        outcome(loops, images(shape), given), outcome(by_torch, images(shape), given), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@needs_loops
def test_without_scale_and_shift_too() -> None:
    given = [None, None, None]
    for ours, expected in zip(
        outcome(loops, images(SHAPES[0]), given), outcome(by_torch, images(SHAPES[0]), given), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@needs_loops
def test_in_float32_it_is_as_near_to_float64_as_torch_is() -> None:
    shape = (8, 16, 28, 28)
    exact = outcome(by_torch, images(shape, torch.float32).double(), parameters(16, "prelu"))
    single = images(shape, torch.float32), parameters(16, "prelu", torch.float32)
    for ours, torchs, right in zip(outcome(loops, *single), outcome(by_torch, *single), exact, strict=True):
        error = float((ours.double() - right).abs().max())
        assert error <= 3 * float((torchs.double() - right).abs().max()) + 1e-5 * float(right.abs().max())


@needs_loops
def test_statistics_are_the_batchs_and_carry_no_gradient() -> None:
    x = images((4, 16, 6, 10)).requires_grad_()
    result = normalise(x, None, None, None, eps=EPS)
    torch.testing.assert_close(result.mean, x.detach().mean((0, 2, 3)), rtol=1e-12, atol=0)
    torch.testing.assert_close(result.variance, x.detach().var((0, 2, 3), correction=0), rtol=1e-10, atol=0)
    assert result.values == 4 * 6 * 10
    assert not result.mean.requires_grad


@needs_loops
def test_more_threads_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalisation, "_WORTH_A_THREAD", 1)
    given = parameters(16, "prelu", torch.float32)
    x = images((7, 16, 14, 14), torch.float32)
    alone = outcome(loops, x, given)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert all(torch.equal(a, b) for a, b in zip(alone, outcome(loops, x, given), strict=True))


@needs_loops
def test_not_a_number_is_not_hidden() -> None:
    x = images((2, 16, 4, 4))
    x[1, 3, 2, 2] = torch.nan
    out = normalise(x, *parameters(16, "relu"), eps=EPS).out
    assert out[:, 3].isnan().all()
    assert out[:, 4:].isfinite().all()


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(4, 16),
        torch.zeros(2, 16, 4, 4),
        images((2, 16, 4, 4)).bfloat16(),
        images((2, 16, 4, 4)).to("meta"),
        images((2, 16, 4, 4)).int(),
    ],
    ids=["two dimensions", "channels first", "bf16", "without storage", "whole numbers"],
)
def test_other_inputs_are_left_to_torch(x: Tensor) -> None:
    assert not loops_can_normalise(x)
