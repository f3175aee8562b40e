"""Whole planned steps against what is measured here, and what is said of them: memory, bytes sent, advice, mistakes."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed.footprint import peak_of_step
from tests.distributed.fork_server import forked
from tests.distributed.test_torchrun import recipe_file
from tests.unit.test_planning import setting
from topoface import cli
from topoface.errors import UserError
from topoface.planning import heads as formulas
from topoface.planning.backbone import backbone_cost
from topoface.planning.devices import DEVICES
from topoface.planning.heads import head_cost
from topoface.planning.plan import make_plan
from topoface.planning.setting import HeadName, Setting, read_setting
from topoface.planning.step import HeadPlan
from topoface.planning.watch import Watch, storage_of
from topoface.recipe.files import load_recipe


@pytest.fixture(autouse=True)
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topoface.planning.step.backbone_cost", _traced)


_traced = cache(backbone_cost)

# --- whole steps ----------------------------------------------------------------------------------------

WHOLE: dict[str, tuple[HeadName, dict[str, Any], dict[str, Any]]] = {
    "adamw, blocks run twice": ("chunked", {}, {"optimizer": "adamw", "recompute": True}),
    "adamw, micro-batches": ("chunked", {}, {"optimizer": "adamw", "accumulation": 2}),
    "micro-batches of sampled classes": ("partial_fc", {"rate": 0.1}, {"accumulation": 3}),
    "fused, blocks run twice": ("chunked_fused", {"fused": True}, {"recompute": True}),
}


def whole_step(
    folder: Path, head: HeadName, init_args: dict[str, Any], gpus: int = 1, **asked: Any
) -> tuple[str, HeadPlan]:
    """A recipe with 20,000 identities, and its plan."""
    planned = setting(
        identities=20_000,
        gpus=gpus,
        batch=16 * asked.get("accumulation", 1),
        dimension=128,
        backbone="iresnet_compact",
        precision="fp32",
        **asked,
    )
    recipe = recipe_file(
        folder,
        [],
        data={"train": "synthetic:?identities=20000&images=1&seed=0"},
        model={
            "name": planned.backbone,
            "dimension": planned.dimension,
            "recompute": planned.recompute,
        },
        head={"class_path": "CosFace", "init_args": init_args},
        training={"batch_size": planned.images, "accumulation": planned.accumulation},
        optimizer={"name": planned.optimizer},
    )
    return recipe, make_plan(planned).heads[head]


def passing_of(plan: HeadPlan) -> float:
    """Bytes at the peak beside what stays between steps."""
    return plan.peak - sum(plan.standing.values())


@pytest.mark.parametrize("name", WHOLE)
def test_the_memory_of_a_whole_step_is_as_computed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backbone, head and optimizer of a training step, tensors, to a tenth."""
    monkeypatch.setattr("topoface.models.batchnorm.loops_can_normalise", lambda x: False)
    head, init_args, asked = WHOLE[name]
    recipe, plan = whole_step(tmp_path, head, init_args, **asked)
    assert peak_of_step(load_recipe(recipe), tmp_path) == pytest.approx(passing_of(plan), rel=0.1)


@pytest.mark.dist
def test_the_memory_of_one_of_two_processes_is_as_computed(tmp_path: Path) -> None:
    """The table cut, both moments, micro-batches, blocks that run twice."""
    recipe, plan = whole_step(
        tmp_path, "chunked", {}, gpus=2, optimizer="adamw", accumulation=2, recompute=True
    )
    forked(2, "tests.distributed.footprint", recipe, str(tmp_path / "out"))
    assert int((tmp_path / "out").read_text()) == pytest.approx(passing_of(plan), rel=0.1)


@pytest.mark.parametrize(
    ("optimizer", "copies"), [(torch.optim.SGD, 1), (torch.optim.AdamW, 2)], ids=["sgd", "adamw"]
)
def test_the_optimizer_copies_a_table_that_is_cut_as_often_as_computed(
    optimizer: Callable[..., torch.optim.Optimizer], copies: int
) -> None:
    """Torch's fused loops, which copy nothing, do not know such tables."""
    table = torch.randn(1000, 64).requires_grad_()
    table.grad = torch.randn_like(table)
    settings = {"momentum": 0.9} if copies == 1 else {}
    moves = optimizer([table], lr=0.1, weight_decay=0.1, fused=False, **settings)
    moves.step()
    state = [t for t in moves.state[table].values() if isinstance(t, Tensor)]
    with Watch({storage_of(t) for t in (table, table.grad, *state)}) as watch:
        moves.step()
    assert watch.peak == pytest.approx(copies * table.nbytes, rel=0.01)
    name = "sgd" if copies == 1 else "adamw"
    asked = setting(identities=2000, gpus=2, dimension=64, optimizer=name)
    assert head_cost("chunked", asked).moving == copies * table.nbytes
    assert sum(t.nbytes for t in state) == pytest.approx(asked.moments * table.nbytes, rel=0.01)


# --- bytes sent -----------------------------------------------------------------------------------------


@pytest.mark.dist
@pytest.mark.parametrize("parts", [1, 2])
def test_two_processes_send_what_was_computed(parts: int, tmp_path: Path) -> None:
    """Every byte that torch sees handed to a collective in a step, DDP's own among them; ragged classes; micro-batches."""
    recipe = recipe_file(
        tmp_path,
        [],
        data={"train": "synthetic:?identities=7&images=4&seed=0"},
        model={"name": "iresnet_tiny", "dimension": 24, "sync_batchnorm": False},
        training={"accumulation": parts, "batch_size": 16},
    )
    forked(2, "tests.distributed.traffic", recipe, str(tmp_path / "out.json"))
    found = json.loads((tmp_path / "out.json").read_text())
    planned = make_plan(
        setting(
            identities=7,
            gpus=2,
            batch=8,
            accumulation=parts,
            dimension=24,
            backbone="iresnet_tiny",
            sync_batchnorm=False,
            precision="fp32",
            device="h100",
        )
    )
    sent = planned.heads["chunked"].sent
    for operation, name in (("all_gather", "allgather_"), ("broadcast", "broadcast_")):
        assert found["bytes"][name] == sum(s.bytes for s in sent if s.operation == operation)
    reduced = sum(s.bytes for s in sent if s.operation == "all_reduce")
    assert 0 <= found["bytes"]["allreduce_"] - reduced <= 64  # single numbers: is everything finite?
    assert planned.backbone.parameters == found["trained"]


# --- the plan -------------------------------------------------------------------------------------------


def test_the_exact_softmax_is_recommended_as_long_as_it_fits() -> None:
    """Five million centers of 512 numbers on each device: 9.5 GiB, four times with momentum, gradient and a copy that SGD makes."""
    asked = {"backbone": "iresnet_compact", "dimension": 512, "device": "h100", "batch": 64}
    found = [
        make_plan(setting(**asked, identities=10_000_000, gpus=2, memory_gib=room)).recommended
        for room in (80, 44, 24, 4, 0.1)
    ]
    assert found == ["chunked", "chunked", "chunked_fused", "codes", None]


def test_it_is_said_how_many_devices_would_do_and_where_sampling_stops_paying() -> None:
    found = make_plan(
        setting(identities=10**8, gpus=8, backbone="iresnet_compact", batch=128, device="h100", memory_gib=40)
    )
    text = " ".join(found.advice)
    assert found.recommended == "codes"
    assert "The exact softmax fits from 16 devices on" in text
    assert "Of our heads codes alone fit" in text
    assert "Below about" in text
    small = make_plan(setting(identities=500, backbone="iresnet50", device="h100"))
    assert "saves 0% of the work" in " ".join(small.advice)


@pytest.mark.parametrize(
    ("room", "way"),
    [(8, "with recompute=true (head=chunked_fused, "), (4, "with accumulation=4 (head=chunked, ")],
)
def test_it_is_said_what_would_make_room_for_the_exact_softmax(room: float, way: str) -> None:
    """And it is true: the plan with these settings fits."""
    asked = setting(identities=10**5, backbone="iresnet_compact", batch=8192, device="h100", memory_gib=room)
    found = make_plan(asked)
    assert not found.fits("chunked_fused")
    assert way in " ".join(found.advice)
    changes = read_setting([*way.split(" (")[0].split()[1:], "identities=2"])
    again = dataclasses.replace(asked, recompute=changes.recompute, accumulation=changes.accumulation)
    assert make_plan(again).fits("chunked" if changes.accumulation > 1 else "chunked_fused")


@pytest.mark.parametrize(
    ("changes", "without"),
    [({"optimizer": "adamw"}, {"chunked_fused", "partial_fc"}), ({"accumulation": 2}, {"chunked_fused"})],
)
def test_heads_that_training_would_refuse_are_refused(changes: dict[str, Any], without: set[str]) -> None:
    asked = setting(identities=10**6, backbone="iresnet_compact", device="h100", **changes)
    found = make_plan(asked)
    assert set(found.refused) == without == set(formulas.EXPLAINED) - set(found.heads)
    assert "No chunked_fused" in " ".join(found.advice)
    for name in without:
        with pytest.raises(UserError, match=r"^(optimizer.name: is adamw|training.accumulation: is 2), and"):
            make_plan(dataclasses.replace(asked, head=name))


def test_where_gradients_that_add_up_leave_no_room_sampling_is_taken() -> None:
    """Three tables and two gradients on two devices, where sampling keeps gradients of a tenth."""
    asked = setting(identities=10**7, gpus=2, backbone="iresnet_compact", accumulation=2, device="h100")
    found = make_plan(dataclasses.replace(asked, memory_gib=30))
    assert found.recommended == "partial_fc"
    assert "Take partial_fc: no exact softmax fits into 30 GiB." in found.advice


def test_micro_batches_send_the_gradients_of_the_backbone_once_and_embeddings_each_time() -> None:
    one, four = (
        make_plan(
            setting(identities=10**6, gpus=4, backbone="iresnet_compact", device="h100", accumulation=parts)
        ).heads["chunked"]
        for parts in (1, 4)
    )
    calls = {s.what: (s.calls, t.calls) for s, t in zip(one.sent, four.sent, strict=True)}
    assert calls["gradients of the backbone"] == (1, 1)
    assert calls["running statistics"] == (1, 1)
    assert calls["embeddings"] == (1, 4)
    assert calls["batch statistics"][1] == 4 * calls["batch statistics"][0]
    assert four.memory["activations"] == pytest.approx(one.memory["activations"] / 4, rel=0.05)
    # that of the centers is there twice while it is added to the one before
    assert four.memory["gradient of the centers"] == 2 * one.memory["gradient of the centers"]
    assert four.compute_s > one.compute_s  # the centers are read and written four times


def test_more_devices_mean_less_memory_for_centers_and_more_bytes_sent() -> None:
    plans = [
        make_plan(setting(identities=10**6, gpus=n, backbone="iresnet_compact", device="h100"))
        for n in (1, 4, 16)
    ]
    centers = [p.heads["chunked"].cost.kept["centers"] for p in plans]
    sent = [sum(s.on_the_wire(p.setting.gpus) for s in p.heads["chunked"].sent) for p in plans]
    assert centers == sorted(centers, reverse=True)
    assert sent == sorted(sent)
    assert sent[0] == 0


def test_a_code_is_as_long_as_it_takes() -> None:
    assert [setting(identities=n, alphabet=10).code_length for n in (2, 10, 11, 1000, 1001)] == [
        1,
        1,
        2,
        3,
        4,
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["identities"], "identities: is no key=value"),
        (["gpus=2"], "identities: is missing"),
        (["identities=2e6", "gpu=2"], "gpu: unknown key; did you mean gpus?"),
        (["identities=2.5"], "identities: found 2.5 where int is expected"),
        (["identities=2e6", "rate=0"], "rate: is 0"),
        (["identities=2e6", "accumulation=3"], "accumulation: is 3; give a divisor of batch 128"),
        (["identities=2e6", "batch=8", "accumulation=8"], "accumulation: is 8"),
        (["identities=2e6", "device=tpu"], "device: is 'tpu'; give one of: h100, a100, this"),
        (["identities=2e6", "head=partialfc"], "head: found"),
    ],
)
def test_mistakes_are_one_line(texts: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_setting(texts)
    assert message in str(error.value)


def test_whole_numbers_may_be_written_with_an_exponent() -> None:
    assert read_setting(["identities=2e6", "--rate=0.2"]) == Setting(identities=2_000_000, rate=0.2)


def test_the_command_prints_every_head_and_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "identities=1e5", "gpus=4", "backbone=iresnet_compact", "head=partial_fc"]) == 0
    text = capsys.readouterr().out
    for word in (*formulas.EXPLAINED, "activations", "all_gather", "computed, not run", "images/s"):
        assert word in text
    assert DEVICES["h100"].source.split(":")[0] in text
    assert cli.main(["plan", "identities=1e5", "backbone=iresnet5"]) == 2


def test_its_help_needs_no_torch() -> None:
    code = (
        "import sys; from topoface.cli import main\n"
        "try: main(['plan', '--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
