"""MagFace and AdaFace: the fixture's numbers, the balance of a norm, the released formula, running statistics."""

import math
from typing import Any

import pytest
import torch

from tests.oracles import negatives as oracle
from topoface.errors import UserError
from topoface.functional.negatives import virtual_logit
from topoface.heads import AdaFace, MagFace

X, W, Y = oracle.fixture()
NORMS = torch.tensor([3.0, 20, 40, 60, 80, 200], dtype=torch.float64)


def with_norms(points: torch.Tensor) -> torch.Tensor:
    return points / points.norm(dim=1, keepdim=True) * NORMS[:, None]


def make(cls: type, **settings: Any) -> Any:
    head = cls(4, 5, **settings).double()
    head.weight.data = W.clone()
    return head


@pytest.mark.parametrize(
    ("scale", "plain", "unified"),
    [(16.0, 11.674536322669, 14.233482052578), (64.0, 46.649876225153, 54.960117686452)],
)
def test_magface_of_the_fixture(scale: float, plain: float, unified: float) -> None:
    head = make(MagFace, scale=scale)
    x = with_norms(X).requires_grad_()
    units = torch.nn.functional.normalize(x)
    u = virtual_logit(units @ units.T, Y[:, None] == Y, scale)
    for extra, expected in ((None, plain), (u, unified)):
        stats = head(x, Y, extra=extra)
        assert stats.regulariser.item() == pytest.approx(1.398272497704, abs=1e-10)
        assert stats.loss.mean().item() == pytest.approx(expected, abs=1e-9)


def test_magface_norms_move_inside_their_range_only() -> None:
    head = make(MagFace, scale=16.0)
    x = with_norms(X).requires_grad_()
    units = torch.nn.functional.normalize(x)
    stats = head(x, Y, extra=virtual_logit(units @ units.T, Y[:, None] == Y, 16.0))
    (stats.loss.mean() + stats.regulariser).backward()
    assert x.grad.norm().item() == pytest.approx(0.952392482785, abs=1e-9)
    radial = (x.grad * units.detach()).sum(1)
    expected = [0, -0.00478096286, 0.005594859562, 0.007860795623, 0.00767462408, 0]
    assert radial.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("pull", "norm"),
    [(1, 12.4201), (0.5, 17.4537), (0.1, 37.1995), (0.05, 49.8355), (0.01, 82.5785), (0.001, 105.9732)],
)
def test_the_norm_at_which_margin_and_regulariser_balance(pull: float, norm: float) -> None:
    """(s K x / lambda + 1 / u^2)^(-1/2), as a zero of the derivative of the two terms."""
    head = make(MagFace, scale=64.0)
    a = torch.tensor([norm], dtype=torch.float64, requires_grad=True)
    slope = (head.greatest_margin - head.least_margin) / (head.greatest_norm - head.least_norm)
    total = 64 * pull * slope * a + head.strength * (1 / a + a / head.greatest_norm**2)
    total.backward()
    assert abs(float(a.grad)) < 1e-4


def test_easy_margin_is_named_and_leaves_far_samples_without_margin() -> None:
    cosine = torch.tensor([-0.5, 0.5], dtype=torch.float64)
    embeddings = torch.full((2, 4), 20.0, dtype=torch.float64)
    for easy, far in ((True, -0.5), (False, math.cos(math.acos(-0.5) + 0.555))):
        target, _ = make(MagFace, easy_margin=easy).target_logit(cosine, None, embeddings)
        assert target[0].item() == pytest.approx(far, abs=1e-12)
        assert target[1] < 0.5


def adaface_oracle(cosine: float, z: float, m: float) -> float:
    """The released formula: turn by -m z, stop at 0 and pi, subtract m z + m."""
    theta = min(max(math.acos(cosine) - m * z, 0.0), math.pi)
    return math.cos(theta) - (m + m * z)


@pytest.mark.parametrize("z", [-1.0, -0.3, 0.0, 0.4, 1.0])
def test_adaface_is_the_released_formula(z: float) -> None:
    head = make(AdaFace).eval()
    head.norm_statistics.copy_(torch.tensor([20.0, 3.0]))
    length = 20 + z * (3 + 1e-3) / head.concentration
    for cosine in (-0.8, -0.2, 0.0, 0.5, 0.9, 0.999):
        target, regulariser = head.target_logit(
            torch.tensor([cosine], dtype=torch.float64),
            None,
            torch.tensor([[length, 0, 0, 0]], dtype=torch.float64),
        )
        assert regulariser is None
        if math.acos(cosine) - head.m * z <= math.pi:
            assert target.item() == pytest.approx(adaface_oracle(cosine, z, head.m), abs=1e-9)
        else:
            assert target.item() < -1 - (head.m + head.m * z), "past pi it goes on falling"


def test_adaface_statistics_start_with_the_first_batch_and_then_move_slowly() -> None:
    head = make(AdaFace, memory=0.9)
    for scale in (1.0, 3.0):
        head(scale * with_norms(X).clamp(-30, 30), Y)
    first, second = (
        scale * with_norms(X).clamp(-30, 30).norm(dim=1).clamp(max=100 / scale) for scale in (1.0, 3.0)
    )
    expected = [0.9 * f + 0.1 * s for f, s in ((first.mean(), second.mean()), (first.std(), second.std()))]
    assert head.norm_statistics.tolist() == pytest.approx([float(e) for e in expected])
    before = head.norm_statistics.clone()
    head.eval()(X, Y)
    assert torch.equal(head.norm_statistics, before), "judging changes nothing"


def test_adaface_gives_lengths_no_gradient() -> None:
    head = make(AdaFace)
    x = with_norms(X).requires_grad_()
    head(x, Y).loss.sum().backward()
    radial = (x.grad * torch.nn.functional.normalize(x.detach())).sum(1)
    torch.testing.assert_close(radial, torch.zeros_like(radial), atol=1e-12, rtol=0)


@pytest.mark.parametrize("cls", [MagFace, AdaFace])
def test_shifts_make_it_harder_and_gradients_stay_finite_at_the_ends(cls: type) -> None:
    head = make(cls)
    x = torch.cat([W[:1], -W[:1], W[:1] + 1e-9]).requires_grad_()
    labels = torch.zeros(3, dtype=torch.int64)
    losses = [head.eval()(x, labels, shift=torch.full((3,), s, dtype=torch.float64)).loss for s in (0.0, 0.1)]
    assert (losses[1] >= losses[0]).all()
    losses[1].sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (MagFace, {"least_norm": 0.0}),
        (MagFace, {"least_norm": 200.0}),
        (MagFace, {"greatest_norm": math.inf}),
        (MagFace, {"least_margin": 0.9}),
        (MagFace, {"strength": -35.0}),
        (MagFace, {"strength": math.nan}),
        (MagFace, {"strength": math.inf}),
        (AdaFace, {"margin": -0.1}),
        (AdaFace, {"memory": 1.0}),
        (AdaFace, {"concentration": 0.0}),
        (AdaFace, {"concentration": math.nan}),
        (AdaFace, {"concentration": math.inf}),
    ],
)
def test_settings_out_of_range_are_refused(cls: type, settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"head\.init_args"):
        make(cls, **settings)
