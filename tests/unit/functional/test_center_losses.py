"""Hard levels, margins by level, contrast and aligning (oracles 7-11 and 17 of jlcc.md)."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import centers as oracle
from tests.unit.functional.test_center_memory import LABELS, F, after_f, close, empty
from topoface.functional.center_look import look
from topoface.functional.center_losses import (
    alignment_loss,
    batch_cosines,
    center_level,
    contrast_loss,
    first_of_each,
    level_statistics,
    normalised_level,
    posterior_level,
    sampled_log_mass,
    silhouette_level,
    zscore_level,
)
from topoface.functional.center_memory import CenterMemory, update_memory
from topoface.functional.directions import unit_rows
from topoface.heads import ArcFace

W = torch.tensor(oracle.class_weights(5, 4))
EASY = [0.528721774, 0.484391706, 0.554876255, 0.425139262, 0.45199475, 0.554876255]


def contrast(memory: CenterMemory, rows: Tensor, labels: Tensor, tau: float) -> Tensor:
    found = look(rows, labels, memory, tau)
    assert found.log_mass is not None
    return contrast_loss(found.own, found.log_mass, tau)


def align(weights: Tensor, labels: Tensor, form: str) -> Tensor:
    memory, once = after_f(), first_of_each(labels)
    rows = unit_rows(weights[labels])
    if form == "cosine":
        counted = once & memory.seen[labels]
        return alignment_loss(rows, memory.directions[labels], counted, counted.sum())
    found = look(rows, labels, memory, 0.1)
    assert found.log_mass is not None
    return contrast_loss(found.own, found.log_mass, 0.1, chosen=once)


def test_hard_levels() -> None:
    memory = after_f()
    near = look(F, LABELS, memory, 0.1)
    assert near.log_mass is not None
    close(
        silhouette_level(near.stated, near.other),
        [0.031585643, 0.085121161, 0, 0.156677792, 0.124245573, 0],
        1e-8,
    )
    close(center_level(near.stated), [0.035118946, 0.035118946, 0, 0.052414955, 0.052414955, 0], 1e-8)
    close(
        posterior_level(near.stated, near.log_mass, 0.1),
        [3.6321e-05, 0.031572966, 0.001276287, 0.091369671, 0.040316727, 0.000220994],
        1e-8,
    )


def test_silhouette_is_a_half_exactly_between_two_centers() -> None:
    a = torch.linspace(-1, 1, 41).double()
    own, other = torch.meshgrid(a, a, indexing="ij")
    level = silhouette_level(own, other)
    assert ((level >= 0) & (level <= 1)).all()
    assert torch.equal(level > 0.5, other > own)
    assert float(level[-1, -1]) == 0.5
    for i, j in ((0, 40), (3, 7), (40, 2), (20, 20)):
        expected = oracle.silhouette(float(a[i]), float(a[j]))
        assert float(level[i, j]) == pytest.approx(expected, abs=1e-12)
    over = torch.tensor([1 + 1e-7])
    assert float(silhouette_level(over, over)) == 0.5
    assert float(silhouette_level(over, torch.tensor([0.2]))) == 0.0


def test_zscore_level_is_the_normal_share_and_its_deviation_has_a_floor() -> None:
    own = torch.tensor([0.7, 0.6, 0.7, 0.7], dtype=torch.float64)
    mean = torch.tensor([0.7, 0.7, 0.72, torch.nan], dtype=torch.float64)
    deviation = torch.tensor([0.1, 0.1, 0.0, 0.1], dtype=torch.float64)
    level = zscore_level(own, mean, mean**2 + deviation**2)
    close(level[:3], [0.5, 0.841344746068543, 0.841344746068543])
    assert level[3].isnan()


def test_levels_of_an_unseen_identity_are_undefined_and_shift_nothing() -> None:
    nan = torch.full((1,), torch.nan)
    one = torch.ones(1)
    for level in (
        silhouette_level(nan, one),
        center_level(nan),
        zscore_level(nan, one, one),
        posterior_level(nan, one, 0.1),
    ):
        assert level.isnan().all()
        assert normalised_level(level, torch.tensor([0.5, 0.1])).tolist() == [0.0]
    assert normalised_level(one, torch.full((2,), torch.nan)).tolist() == [0.0]
    assert level_statistics(nan).isnan().all()


@pytest.mark.parametrize(
    ("sign", "expected"),
    [(1, [0.471278226, 0.515608294, 0.445123745, 0.574860738, 0.54800525, 0.445123745]), (-1, EASY)],
)
def test_margins(sign: int, expected: list[float]) -> None:
    near = look(F, LABELS, after_f())
    level = silhouette_level(near.stated, near.other)
    margins = 0.5 + 0.1 * sign * normalised_level(level, level_statistics(level))
    close(margins, expected, 1e-8)
    assert float(margins.mean()) == pytest.approx(0.5, abs=1e-9)


def test_a_constant_level_leaves_the_margin() -> None:
    level = torch.full((6,), 0.3).double()
    close(normalised_level(level, level_statistics(level)), [0.0] * 6, 1e-8)


@pytest.mark.parametrize(
    ("tau", "value", "gradient"),
    [
        (0.05, 0.002147374810, 0.041187014013),
        (0.1, 0.028430916551, 0.213204709829),
        (1 / 16, 0.005909965173, 0.083473993554),
    ],
)
def test_contrast(tau: float, value: float, gradient: float) -> None:
    rows = F.clone().requires_grad_()
    loss = contrast(after_f(), rows, LABELS, tau)
    (got,) = torch.autograd.grad(loss, rows)
    assert float(loss.detach()) == pytest.approx(value, abs=1e-10)
    assert float(got.norm()) == pytest.approx(gradient, abs=1e-10)


def test_contrast_against_class_centers_is_the_plain_softmax() -> None:
    memory = empty(5, 4)
    update_memory(memory, unit_rows(W), torch.arange(5), beta=0.9, step=0)
    got = contrast(memory, F, LABELS, 1 / 16)
    assert float(got) == pytest.approx(3.784764909758, abs=1e-10)
    plain = torch.nn.functional.cross_entropy(16 * F @ unit_rows(W).T, LABELS)
    torch.testing.assert_close(got, plain, rtol=0, atol=1e-13)


def test_contrast_passes_over_unseen_identities() -> None:
    rng = np.random.default_rng(0)
    naive = oracle.Memory()
    naive.update(F.numpy(), LABELS.tolist(), 0.9)
    rows, labels = oracle.unit(rng.normal(size=(15, 4))), rng.integers(0, 5, 15)
    assert 3 in labels
    leaf = torch.from_numpy(rows).requires_grad_()
    loss = contrast(after_f(), leaf, torch.from_numpy(labels), 0.1)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert float(loss.detach()) == pytest.approx(naive.contrast(rows, labels.tolist(), 0.1), abs=1e-12)
    assert gradient[torch.from_numpy(labels == 3)].abs().sum() == 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("seen", [[], [2]])
def test_contrast_with_no_center_or_one_is_zero_and_finite(seen: list[int]) -> None:
    memory = empty(5, 4)
    if seen:
        update_memory(memory, F[:1], torch.tensor(seen), beta=0.9, step=0)
    rows = F.clone().requires_grad_()
    loss = contrast(memory, rows, LABELS, 0.1)
    (gradient,) = torch.autograd.grad(loss, rows)
    assert float(loss.detach()) == 0
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize(
    ("form", "value", "gradient"),
    [("cosine", 0.568715323021, 0.335552930813), ("nce", 1.459600264685, 2.470676030177)],
)
def test_aligning(form: str, value: float, gradient: float) -> None:
    weights = W.clone().requires_grad_()
    loss = align(weights, LABELS, form)
    (got,) = torch.autograd.grad(loss, weights)
    assert float(loss.detach()) == pytest.approx(value, abs=1e-10)
    assert float(got.norm()) == pytest.approx(gradient, abs=1e-10)
    assert got[3].abs().sum() == 0
    with_unseen = align(weights, torch.cat([LABELS, torch.tensor([3])]), form)
    torch.testing.assert_close(with_unseen, loss)


@pytest.mark.parametrize(
    ("sign", "class_loss", "total", "rows_norm", "weights_norm"),
    [
        (-1, 10.109522946330, 10.402409882805, 5.569870248676, 6.901486511459),
        (1, 10.156685632738, 10.449572569213, 5.417893878656, 6.677627023625),
    ],
)
def test_total(sign: int, class_loss: float, total: float, rows_norm: float, weights_norm: float) -> None:
    head = ArcFace(4, 5, scale=16.0).double()
    head.weight.data.copy_(W)
    raw = torch.tensor(oracle.fixture(6, 4)).requires_grad_()
    near = look(F, LABELS, after_f())
    level = silhouette_level(near.stated, near.other)
    shift = 0.1 * sign * normalised_level(level, level_statistics(level))
    stats = head(raw, LABELS, shift)
    assert stats.class_centers is not None
    loss = stats.loss.mean()
    assert float(loss.detach()) == pytest.approx(class_loss, abs=1e-9)
    loss = loss + 0.3 * contrast(after_f(), unit_rows(raw), LABELS, 0.1)
    loss = loss + 0.5 * align(stats.class_centers, LABELS, "cosine")
    assert float(loss.detach()) == pytest.approx(total, abs=1e-9)
    by_rows, by_weights = torch.autograd.grad(loss, [raw, head.weight])
    assert float(by_rows.norm()) == pytest.approx(rows_norm, abs=1e-9)
    assert float(by_weights.norm()) == pytest.approx(weights_norm, abs=1e-9)


def test_sampled_contrast_is_unbiased_in_its_sum_and_too_small_without_correction() -> None:
    classes, drawn, tau, draws = 400, 60, 0.1, 2000
    rng = np.random.default_rng(7)
    rows = torch.from_numpy(oracle.unit(rng.normal(size=(40, 8))))
    labels = torch.from_numpy(rng.integers(0, classes, 40))
    memory = empty(classes, 8)
    centers = torch.from_numpy(oracle.unit(rng.normal(size=(classes, 8))))
    update_memory(memory, centers[:390], torch.arange(390), beta=0.9, step=0)  # ten are unseen
    full = look(rows, labels, memory, tau).log_mass
    assert full is not None
    masses = []
    for _ in range(draws):
        keys = torch.from_numpy(rng.random(classes))
        mass = sampled_log_mass(rows, labels, memory, keys, count=drawn, temperature=tau)
        masses.append((mass - full).exp())
    ratio = torch.stack(masses)
    error = ratio.std(0) / draws**0.5
    assert (((ratio.mean(0) - 1) / error).abs() < 4).all()

    everything = sampled_log_mass(
        rows, labels, memory, torch.from_numpy(rng.random(classes)), count=classes, temperature=tau
    )
    torch.testing.assert_close(everything, full, rtol=0, atol=1e-12)

    # one draw term by term; without its correction it is a part of the sum
    keys = torch.from_numpy(rng.random(classes))
    got = sampled_log_mass(rows, labels, memory, keys, count=drawn, temperature=tau)
    in_batch = {k for k in labels.tolist() if k < 390}
    others = [k for k in keys.argsort().tolist() if k < 390 and k not in in_batch]
    for i in range(40):
        logits = {k: float(rows[i] @ memory.directions[k]) / tau for k in [*in_batch, *others[:drawn]]}
        logits.pop(int(labels[i]), None)
        weight = {k: 1.0 if k in in_batch else len(others) / drawn for k in logits}
        assert np.exp(list(logits.values())).sum() < full[i].exp()
        expected = sum(weight[k] * np.exp(logit) for k, logit in logits.items())
        assert float(got[i]) == pytest.approx(np.log(expected), abs=1e-12)


def test_the_first_of_each_label() -> None:
    got = first_of_each(torch.tensor([3, 1, 3, 0, 1, 1, 7]))
    assert got.tolist() == [True, True, False, True, False, False, True]


def test_cosines_within_the_batch_are_to_the_mean_of_the_others() -> None:
    labels = torch.tensor([3, 1, 3, 0, 1, 3])
    rows = F.clone().requires_grad_()
    otherwise = torch.linspace(0, 1, 6).double()
    got = batch_cosines(rows, labels, otherwise)
    for i in range(6):
        others = [j for j in range(6) if j != i and labels[j] == labels[i]]
        mean = F[others].mean(0)
        expected = float(F[i] @ mean / mean.norm()) if others else float(otherwise[i])
        assert float(got[i].detach()) == pytest.approx(expected, abs=1e-13)
    (gradient,) = torch.autograd.grad(got[1], rows)
    assert (gradient.abs().sum(1) > 0).tolist() == [False, True, False, False, True, False]
    torch.autograd.gradcheck(lambda r: batch_cosines(r, labels, otherwise), rows)


def test_statistics_of_levels_are_those_of_the_defined_ones() -> None:
    level = torch.tensor([0.1, torch.nan, 0.4, 0.7], dtype=torch.float64)
    close(level_statistics(level), [0.4, 0.06**0.5])
    close(level_statistics(level, over_ranks=True), [0.4, 0.06**0.5])
