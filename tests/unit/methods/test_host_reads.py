"""A TopoFR step on an accelerator never waits for it: with fake tensors, which have no values, reading one would raise."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.facts import run_facts
from topoface import heads
from topoface.data.batch import Batch
from topoface.functional import alignment, mixture
from topoface.functional.distances import int8_product_is_exact
from topoface.functional.draws import SampleDraws
from topoface.functional.spanning_tree import boruvka
from topoface.methods import topofr
from topoface.methods.topofr import TopoFR
from topoface.methods.topofr_settings import Alignment, Damage
from topoface.training.step import Hooks, forward_step

n = 32
SETTINGS: dict[str, dict[str, Any]] = {
    "ours": {},
    "paper": {
        "isa": Alignment(alpha_mode="fixed", norm="pixel_range", latent="raw", reduction="sum"),
        "sde": Damage(fit="eq7", gradient="focal"),
    },
    "sorted, max": {"isa": Alignment(form="sorted", norm="max")},
    "bottleneck": {"isa": Alignment(form="bottleneck")},
    "short edges": {"isa": Alignment(shortest_share=0.5)},
    "perturbed view": {"isa": Alignment(view="perturbed")},
    "learned scale": {"isa": Alignment(latent="learned", norm="pixel_range")},
    "teacher": {"isa": Alignment(source="teacher")},
    "online mixture": {"sde": Damage(fit="online")},
    "lag, moments, full gradient": {
        "sde": Damage(fit="moments", lag=1, gradient="full", normalise="mean", cap=1.5)
    },
}


@pytest.fixture(autouse=True)
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the algorithms of an accelerator; its one probe of the integer product is done before the first step."""
    int8_product_is_exact("cpu")
    for module in (alignment, topofr):
        monkeypatch.setattr(module, "h0_edges", lambda distances: boruvka(distances.detach()))
    monkeypatch.setattr(mixture, "_compiled_em", lambda: None)


def take_step(method: TopoFR, step: int) -> Tensor:
    """Forward, backward and update of one step on fake tensors; returns the loss."""
    draws = SampleDraws(seed=0, step=step, global_size=n, start=0, stop=n)
    head = heads.ArcFace(8, 7, seed=0)
    batch = Batch(
        images=torch.empty(n, 3, 112, 112, dtype=torch.uint8),
        labels=torch.empty(n, dtype=torch.int64),
        indices=torch.empty(n, dtype=torch.int64),
        draws=draws,
    )
    weight = torch.empty(3, 8, requires_grad=True)
    output = forward_step(
        lambda view: view.float().mean((2, 3)) @ weight, head, Hooks.of(torch.nn.ModuleList([method])), batch
    )
    output.total.backward()
    with torch.no_grad():
        method.update([output.state])
    return output.total


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("step", [0, 51], ids=["measuring gradients", "usual"])
def test_a_step_reads_no_value(settings: dict[str, Any], step: int) -> None:
    method = TopoFR(run_facts(num_classes=7), **settings)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert take_step(method, step).shape == ()


def test_a_value_that_is_read_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = topofr.damage_score
    monkeypatch.setattr(topofr, "damage_score", lambda *a, **k: plain(*a, **k) * float(torch.ones(1).sum()))
    method = TopoFR(run_facts(num_classes=7))
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(DataDependentOutputException):
        take_step(method, 51)
