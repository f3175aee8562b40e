"""Row statistics of the softmax: oracles 18 and 19 of topofr.md, and trained samples."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from topoface.functional.softmax import negative_log_likelihood, rest_of, row_entropy


def entropy(logits: list[list[float]], dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.tensor(logits, dtype=dtype)
    labels = torch.zeros(len(values), dtype=torch.int64)
    rest = rest_of(values, labels)
    return row_entropy(values, rest, rest.logsumexp(1), values[:, 0])


def test_entropy_of_known_rows() -> None:
    assert entropy([[0, 0, 0, 0]]).item() == pytest.approx(math.log(4), abs=1e-15)
    assert entropy([[50, 50, -1e4, -1e4]]).item() == pytest.approx(math.log(2), abs=1e-15)
    assert entropy([[-1e4, 50, 50, -1e4]]).item() == pytest.approx(math.log(2), abs=1e-15)
    assert entropy([[100, 0, 0, 0]]).item() == pytest.approx(1.1e-41, rel=0.05)
    assert 0 <= entropy([[100, 0, 0, 0]], torch.float32).item() < 1e-37


@given(st.lists(st.floats(-200, 200), min_size=2, max_size=8))
def test_entropy_is_the_plain_sum_and_stays_between_zero_and_log_c(row: list[float]) -> None:
    log_p = torch.tensor(row, dtype=torch.float64).log_softmax(0)
    expected = -(log_p.exp() * log_p).sum().item()
    got = entropy([row]).item()
    assert got == pytest.approx(expected, abs=1e-11)
    assert 0 <= got <= math.log(len(row))
    assert 0 <= entropy([row], torch.float32).item() <= np.float32(math.log(len(row)))


def test_probability_of_error_survives_where_one_minus_p_is_zero_in_float32() -> None:
    log_p = torch.tensor(-1e-9)
    assert 1 - log_p.exp() == 0
    assert -torch.expm1(log_p) == pytest.approx(1e-9)


def test_a_trained_sample_keeps_six_digits_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    rest = torch.randn(64, 1000, generator=generator)
    target = rest.double().logsumexp(1) + 13.8  # loss about 1e-6
    exact = torch.nn.functional.softplus(rest.double().logsumexp(1) - target)
    ours = negative_log_likelihood(target.float(), rest.logsumexp(1))
    plain = torch.nn.functional.cross_entropy(
        torch.cat([target.float()[:, None], rest], 1), torch.zeros(64, dtype=torch.int64), reduction="none"
    )
    assert ((ours - exact).abs() / exact).max() < 1e-5
    assert ((plain - exact).abs() / exact).max() > 1e-2


def test_extra_mass_is_one_more_class() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 3, 6, 2, 2])
    extra = torch.linspace(-2, 3, 5, dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(
        torch.cat([logits, extra[:, None]], 1), labels, reduction="none"
    )
    target = logits.gather(1, labels[:, None])[:, 0]
    got = negative_log_likelihood(target, rest_of(logits, labels).logsumexp(1), extra)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)


def test_a_sample_that_is_all_wrong_keeps_float64_precision() -> None:
    gaps = torch.linspace(15, 40, 101, dtype=torch.float64)
    got = negative_log_likelihood(torch.zeros_like(gaps), gaps)
    torch.testing.assert_close(got, gaps + torch.log1p((-gaps).exp()), rtol=1e-15, atol=0)
