"""UNPG as a method: the loss of the literal concatenation inside a step, filters, warm-up, logs, refusals."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.facts import run_facts
from tests.oracles import negatives as oracle
from topoface import heads
from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional.draws import SampleDraws
from topoface.methods import UNPG
from topoface.training.step import Hooks, StepOutput, forward_step

X, W, Y = oracle.fixture()
FACTS = run_facts(num_classes=5, embedding_dim=4, steps_per_epoch=10.0)


def make_head(cls: type = heads.ArcFace, **settings: Any) -> Any:
    head = cls(4, 5, scale=16.0, **settings).double()
    head.weight.data = W.clone()
    return head


def take_step(
    method: UNPG | None, head: Any, labels: Tensor = Y, number: int = 3
) -> tuple[StepOutput, Tensor, Tensor]:
    """A step of the fixture's embeddings; its output and the gradients to embeddings and class weights."""
    n = len(labels)
    batch = Batch(
        images=torch.zeros(n, 3, 112, 112, dtype=torch.uint8),
        labels=labels,
        indices=torch.arange(n),
        draws=SampleDraws(seed=0, step=number, global_size=n, start=0, stop=n),
    )
    points = X[:n].clone().requires_grad_()
    hooks = Hooks.of(torch.nn.ModuleList([method] if method else []))
    output = forward_step(lambda _: points, head, hooks, batch)
    output.total.backward()
    with torch.no_grad():
        for hooked in hooks.update:
            hooked.update([output.state])
    assert points.grad is not None
    return output, points.grad, head.weight.grad


@pytest.mark.parametrize("whisker", [0.5, 1.5, None])
@pytest.mark.parametrize("scope", ["batch", "row"])
@pytest.mark.parametrize("name", ["ArcFace", "CosFace", "CombinedMargin", "Softmax"])
def test_a_step_is_the_literal_concatenation(whisker: float | None, scope: str, name: str) -> None:
    head = make_head(getattr(heads, name))
    settings: dict[str, Any] = {"filter": "none"} if whisker is None else {"whisker": whisker}
    output, to_x, to_w = take_step(UNPG(FACTS, scope=scope, **settings), head)  # type: ignore[arg-type]
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    literal = oracle.literal_loss(x, w, Y, 16, lambda cosine: head.margin(cosine, None), whisker, scope)
    literal.backward()
    assert output.total.item() == pytest.approx(literal.item(), abs=1e-12)
    torch.testing.assert_close(to_x, x.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(to_w, w.grad, rtol=0, atol=1e-12)


def test_row_decomposition_of_the_fixture() -> None:
    output, _, _ = take_step(UNPG(FACTS), make_head())
    q = output.state.stats.extra_probability
    assert q is not None
    expected = [0.883272513, 0.592205734, 0.994799577, 0.498724974, 0.107567287, 0.997792304]
    assert q.tolist() == pytest.approx(expected, abs=1e-8)
    p = output.state.stats.target_probability
    assert p[0].item() == pytest.approx(0.008438800584, abs=1e-10), "of the class logits only"
    torch.testing.assert_close((-output.state.stats.loss.detach()).exp(), p * (1 - q), rtol=1e-12, atol=0)


def test_the_statistics_of_other_methods_know_nothing_of_the_virtual_class() -> None:
    with_it, without = (take_step(method, make_head())[0].state.stats for method in (UNPG(FACTS), None))
    assert torch.equal(with_it.entropy, without.entropy)
    assert torch.equal(with_it.target_log_probability, without.target_log_probability)
    assert without.extra_probability is None


def test_one_identity_in_the_batch_is_the_plain_step_bit_for_bit() -> None:
    labels = torch.full((6,), 2)
    (one, x1, w1), (two, x2, w2) = (take_step(m, make_head(), labels) for m in (UNPG(FACTS), None))
    assert torch.equal(one.total, two.total)
    assert torch.equal(x1, x2)
    assert torch.equal(w1, w2)


def test_before_the_warm_up_ends_the_step_is_plain() -> None:
    method = UNPG(FACTS, warmup_epochs=0.5)
    plain = take_step(None, make_head())[0].total
    assert torch.equal(take_step(method, make_head(), number=4)[0].total, plain)
    assert method.log_values() == {}
    assert take_step(method, make_head(), number=5)[0].total > plain


def test_the_fence_of_genuine_pairs_remembers() -> None:
    method = UNPG(FACTS, filter="positive", quantile=0.0)
    take_step(method, make_head())
    assert method.genuine_fence.item() == pytest.approx(0.602658982784, abs=1e-10)
    assert method.log_values()["dropped_above"].item() == pytest.approx(1 / 13)  # 0.665 is above
    take_step(method, make_head(), torch.arange(5)[[0, 1, 2, 3, 4]])
    assert method.genuine_fence.item() == pytest.approx(0.602658982784, abs=1e-10), (
        "no genuine pair, no change"
    )
    method.genuine_fence.fill_(0.2)
    take_step(method, make_head())
    assert method.genuine_fence.item() == pytest.approx(0.9 * 0.2 + 0.1 * 0.602658982784, abs=1e-10)


def test_without_a_genuine_pair_the_cosine_to_the_center_stands_in() -> None:
    method = UNPG(FACTS, filter="positive")
    output, _, _ = take_step(method, make_head(), torch.arange(5))
    expected = output.state.stats.target_cosine.clamp(min=0).square().quantile(0.5)
    assert method.genuine_fence.item() == pytest.approx(expected.item(), abs=1e-12)


def test_the_log_names_what_the_filter_did() -> None:
    method = UNPG(FACTS)
    take_step(method, make_head())
    values = {name: float(value) for name, value in method.log_values().items()}
    assert values["virtual_logit"] == pytest.approx(11.075374842465, abs=1e-9)
    assert values["virtual_probability"] == pytest.approx(0.679060398161, abs=1e-9)
    assert values["hardest"] == values["hardest_kept"] == pytest.approx(0.6654602172, abs=1e-9)
    assert values["dropped_above"] == values["dropped_below"] == 0
    assert values["fence_high"] == pytest.approx(
        -0.111864221807 + 1.5 * (-0.111864221807 + 0.793828717343), abs=1e-9
    )


def test_a_reference_size_shifts_the_logit_by_the_ratio_of_pairs() -> None:
    methods = UNPG(FACTS, reference_pairs=1300), UNPG(FACTS)
    logits = []
    for method in methods:
        take_step(method, make_head())
        logits.append(float(method.log_values()["virtual_logit"]))
    assert logits[0] - logits[1] == pytest.approx(math.log(100), abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"whisker": -1.0}, "filter=none drops nothing"),
        ({"whisker": math.inf}, "filter=none drops nothing"),
        ({"quantile": 1.5}, "a share in"),
        ({"reference_pairs": 0}, "1 or more"),
        ({"warmup_epochs": -1.0}, "0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        UNPG(FACTS, **settings)
