"""A TopoFR step on an accelerator never waits for it.

Tensors of the device ``meta`` have no values: reading one raises, as does mixing in a tensor of the host. What goes up to the
device is watched: a copy that blocks would make the host wait for everything before it.
"""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.facts import run_facts
from topoface import heads
from topoface.data.batch import Batch
from topoface.functional import distances as distances_room
from topoface.functional.draws import SampleDraws
from topoface.methods import UNPG, topofr
from topoface.methods.topofr import TopoFR
from topoface.methods.topofr_settings import Alignment, Damage, Perturbation
from topoface.training.step import Hooks, forward_step

n = 32
META = torch.device("meta")
SETTINGS: dict[str, dict[str, Any]] = {
    "ours": {},
    "every image perturbed": {"rsp": Perturbation(xi=1.0)},
    "paper": {
        "isa": Alignment(alpha_mode="fixed", norm="pixel_range", latent="raw", reduction="sum"),
        "sde": Damage(fit="eq7", gradient="focal"),
    },
    "sorted, max": {"isa": Alignment(form="sorted", norm="max")},
    "bottleneck": {"isa": Alignment(form="bottleneck")},
    "random edges": {"isa": Alignment(form="random")},
    "short edges": {"isa": Alignment(shortest_share=0.5)},
    "perturbed view": {"isa": Alignment(view="perturbed")},
    "learned scale": {"isa": Alignment(latent="learned", norm="pixel_range")},
    "teacher": {"isa": Alignment(source="teacher", scope="global")},
    "online mixture": {"sde": Damage(fit="online")},
    "lag, moments, full gradient": {
        "sde": Damage(fit="moments", lag=1, gradient="full", normalise="mean", cap=1.5)
    },
}


class Uploads(TorchDispatchMode):
    """Counts copies from the host to the device; ``blocking`` names those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.blocking: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        up = (
            func is torch.ops.aten._to_copy.default
            and kwargs.get("device") == META
            and args[0].device.type == "cpu"
        )
        if up:
            self.count += 1
            if not kwargs.get("non_blocking"):
                self.blocking.append(str(tuple(args[0].shape)))
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one probe of the integer product has been made before the first step; meta tensors know no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(distances_room, "int8_product_is_exact", lambda _: True)


def take_step(method: Any, step: int) -> Uploads:
    """Forward, backward and update of one step on the device."""
    draws = SampleDraws(seed=0, step=step, global_size=n, start=0, stop=n)
    head = heads.ArcFace(8, 7, seed=0).to(META)
    method = method.to(META)
    with Uploads() as uploads:
        batch = Batch(
            images=torch.empty(n, 3, 112, 112, dtype=torch.uint8, device=META),
            labels=torch.empty(n, dtype=torch.int64, device=META),
            indices=torch.empty(n, dtype=torch.int64, device=META),
            draws=draws,
        )
        weight = torch.empty(3, 8, requires_grad=True, device=META)
        output = forward_step(
            lambda view: view.float().mean((2, 3)) @ weight,
            head,
            Hooks.of(torch.nn.ModuleList([method])),
            batch,
        )
        output.total.backward()
        with torch.no_grad():
            method.update([output.state])
    assert output.total.shape == ()
    return uploads


def facts() -> Any:
    made = run_facts(num_classes=7)
    made.model.to(META)
    return made


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("step", [0, 51], ids=["measuring gradients", "usual"])
def test_a_step_of_topofr_waits_for_nothing(settings: dict[str, Any], step: int) -> None:
    assert take_step(TopoFR(facts(), **settings), step).blocking == []


@pytest.mark.parametrize("scope", ["batch", "row"])
@pytest.mark.parametrize("filter", ["whisker", "positive", "none"])
def test_a_step_of_unpg_waits_for_nothing(scope: Any, filter: Any) -> None:  # noqa: A002
    assert take_step(UNPG(facts(), scope=scope, filter=filter), 51).blocking == []


def test_what_goes_up_is_the_parameters_of_the_perturbations() -> None:
    off = take_step(TopoFR(facts(), rsp=Perturbation(xi=0.0)), 51).count
    assert off == 0
    assert 0 < take_step(TopoFR(facts(), rsp=Perturbation(xi=1.0)), 51).count < 20


def test_a_value_that_is_read_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = topofr.damage_score

    def reading(hardness: Tensor, log_p: Tensor, **settings: Any) -> Tensor:
        return plain(hardness, log_p, **settings) * float(log_p.detach().sum())

    monkeypatch.setattr(topofr, "damage_score", reading)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        take_step(TopoFR(facts()), 51)


def test_a_copy_that_blocks_would_be_noticed() -> None:
    with Uploads() as uploads:
        torch.from_numpy(np.zeros(3)).to(META)
    assert uploads.blocking == ["(3,)"]
