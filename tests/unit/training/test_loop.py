"""The loop: what a run leaves, what stops it, and that accumulation and schedules are exact."""

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.training.tiny import tiny_recipe
from topoface.errors import UserError
from topoface.methods import Method, RunFacts, StepState
from topoface.models import load
from topoface.recipe import ScheduleConfig
from topoface.recipe.files import load_recipe
from topoface.training import loop, train
from topoface.training.checkpoint import checkpoints, load_newest
from topoface.training.run import build_run
from topoface.training.schedule import learning_rate
from topoface.training.step import forward_step

PAIRS = "synthetic:?identities=20&images=4&seed=3&first=1000&pairs=60"


def test_a_run_leaves_everything_that_is_promised(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        evaluation={"pairs": [PAIRS], "bootstrap": 20, "every_epochs": 1.0}, training={"tensorboard": True}
    )
    result = train(recipe, run_dir=tmp_path / "run", quiet=True)
    folder = tmp_path / "run"
    assert load_recipe(folder / "recipe.yaml") == recipe
    assert (folder / "report.html").stat().st_size < 2_000_000
    assert list((folder / "tensorboard").iterdir())
    assert list((folder / "scores").glob("*.npz"))
    summary = json.loads((folder / "evaluation.json").read_text())
    assert summary["steps"] == 8
    (verification,) = result.evaluations
    assert summary["protocols"][0]["accuracy"]["value"] == pytest.approx(verification.accuracy.value)
    model = load(folder / "model")
    faces = torch.zeros(2, 112, 112, 3, dtype=torch.uint8)
    assert model.embed(faces).shape == (2, 16)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(8))
    assert steps[0].keys() >= {"lr", "images_per_s", "loss/class", "loss/TopoFR/alignment", "epoch"}
    assert any("evaluation" in line for line in lines)


def test_the_divergence_guard_stops_before_the_state_is_poisoned(tmp_path: Path) -> None:
    recipe = tiny_recipe(methods=[])
    train(recipe, run_dir=tmp_path / "run", quiet=True)
    broken = tiny_recipe(methods=[{"class_path": f"{__name__}.Exploding"}])
    with pytest.raises(
        UserError,
        match=r"step 4: not finite: Exploding/boom.*gradient norms.*learning rate.*topoface replay",
    ):
        train(broken, run_dir=tmp_path / "broken", quiet=True)
    state = load_newest(tmp_path / "broken" / "checkpoints", print)
    assert state is not None
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["model"].values())
    facts = json.loads((tmp_path / "broken" / "divergence.json").read_text())
    assert facts["step"] == 4
    assert len(facts["indices"]) == 8


def test_the_guard_watches_the_parameters_of_methods_too(tmp_path: Path) -> None:
    recipe = tiny_recipe(methods=[{"class_path": f"{__name__}.Steep"}], training={"checkpoint_every": 1})
    with pytest.raises(UserError, match="step 2: not finite: gradient of the methods"):
        train(recipe, run_dir=tmp_path / "run", quiet=True)
    state = load_newest(tmp_path / "run" / "checkpoints", print)
    assert state is not None
    assert state["step"] == 2
    assert state["methods"]["0.weight"].isfinite()


def test_one_method_twice_and_one_image_a_micro_batch_are_refused() -> None:
    twice = tiny_recipe(methods=[{"class_path": "TopoFR"}, {"class_path": "TopoFR"}])
    with pytest.raises(UserError, match="TopoFR stands there twice"):
        build_run(twice, torch.device("cpu"))
    with pytest.raises(UserError, match="batch normalisation needs two"):
        build_run(tiny_recipe(methods=[], training={"accumulation": 8}), torch.device("cpu"))


def test_ctrl_c_saves_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.optimizer_step

    def interrupted(run: Any, *rest: Any) -> Any:
        if run.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(run, *rest)

    recipe = tiny_recipe(methods=[])
    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", interrupted)
        result = train(recipe, run_dir=tmp_path / "run", quiet=True)
    assert result.interrupted
    assert result.steps_done == 5
    assert checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step_000000005"
    assert not train(recipe, run_dir=tmp_path / "run", resume=True, quiet=True).interrupted


def test_accumulated_micro_batches_give_the_gradient_of_the_large_batch() -> None:
    """For everything but batch statistics, which are those of the micro-batch: hence evaluation mode here."""
    gradients = []
    for accumulation in (1, 4):
        run = build_run(tiny_recipe(methods=[], training={"accumulation": accumulation}), torch.device("cpu"))
        run.model.double().eval()
        run.head.double()
        for batch in run.loader.batches(0, 1):
            output = forward_step(run.model, run.head, run.hooks, batch)
            (output.total / accumulation).backward()
        gradients.append(
            [p.grad for p in (*run.model.parameters(), *run.head.parameters()) if p.grad is not None]
        )
    for one, four in zip(*gradients, strict=True):
        torch.testing.assert_close(one, four, rtol=1e-9, atol=1e-12)


def test_a_method_that_is_absent_and_one_that_is_off_train_the_same_weights(tmp_path: Path) -> None:
    off = {
        "class_path": "TopoFR",
        "init_args": {
            "rsp": {"xi": 0.0},
            "isa": {"ratio": 0.0},
            "sde": {"uncertainty": False, "focal": "off"},
        },
    }
    states = []
    for name, methods in (("absent", []), ("off", [off])):
        train(tiny_recipe(methods=methods, training={"steps": 20}), run_dir=tmp_path / name, quiet=True)
        state = load_newest(tmp_path / name / "checkpoints", print)
        assert state is not None
        states.append(state)
    for part in ("model", "head"):
        for key, value in states[0][part].items():
            assert torch.equal(value, states[1][part][key]), key


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_precision_and_layout_change_the_first_loss_within_rounding(
    precision: str, channels_last: bool
) -> None:
    def first_loss(**model: Any) -> float:
        run = build_run(tiny_recipe(methods=[], model=model), torch.device("cpu"))
        kernel = next(p for p in run.model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1)
        wanted = model.get("channels_last", True)
        assert kernel.is_contiguous(memory_format=torch.channels_last) == wanted
        assert run.model.precision == model.get("precision", "fp32")
        batch = next(iter(run.loader.batches(0, 1)))
        return forward_step(run.model, run.head, run.hooks, batch).total.item()

    reference = first_loss()
    assert first_loss(precision=precision, channels_last=channels_last) == pytest.approx(
        reference, abs=1e-4 if precision == "fp32" else 0.3
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"device": "cuda"}}, "training.device: is 'cuda' but no GPU"),
        ({"training": {"device": "toaster"}}, "training.device: is toaster"),
        ({"training": {"batch_size": 9, "accumulation": 3}}, None),
        ({"data": {"train": "no/such/folder"}}, "no/such/folder: does not exist"),
        ({"evaluation": {"pairs": ["no/such.bin"]}}, "no/such.bin"),
        ({"model": {"name": "iresnet_tinny"}}, "iresnet_tiny"),
        ({"data": {"sampling": "identity_balanced", "images_per_identity": 3}}, "images_per_identity"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_before_the_first_step(
    changes: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    if torch.cuda.is_available() and message and "no GPU" in message:
        pytest.skip("this machine has a GPU")
    if message is None:
        train(tiny_recipe(**changes), run_dir=tmp_path / "run", quiet=True)
        return
    with pytest.raises(UserError, match=message) as caught:
        train(tiny_recipe(**changes), run_dir=tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    for name in ("polynomial", "cosine"):
        schedule = ScheduleConfig(name=name, warmup_epochs=2.0)  # type: ignore[arg-type]
        rates = [
            learning_rate(schedule, peak=0.4, step=s, total_steps=100, steps_per_epoch=5.0)
            for s in range(101)
        ]
        assert rates[0] == pytest.approx(0.04)
        assert max(rates) == rates[9] == rates[10] == pytest.approx(0.4)
        assert rates[100] == pytest.approx(0)
        assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert learning_rate(
        ScheduleConfig(name="polynomial", warmup_epochs=0),
        peak=1.0,
        step=50,
        total_steps=100,
        steps_per_epoch=5,
    ) == pytest.approx(0.25)


class Exploding(Method):
    """A method whose penalty becomes infinite at step 4."""

    def penalties(self, state: StepState) -> dict[str, torch.Tensor]:
        value = float("inf") if state.step == 4 else 0.0
        return {"boom": state.embeddings.sum() * 0 + value}


def test_compile_in_the_recipe_compiles_the_backbone_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    run = build_run(tiny_recipe(methods=[], model={"compile": True}), torch.device("cpu"))
    assert compiled == [run.model.backbone]


def test_a_disk_that_fills_while_the_log_is_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop.JsonLines, "write", full)
    with pytest.raises(UserError, match=r"disk is full.*--resume"):
        train(tiny_recipe(methods=[]), run_dir=tmp_path / "run", quiet=True)


@pytest.mark.parametrize("blocked", ["", "checkpoints", "metrics.jsonl", "recipe.yaml"])
def test_a_run_folder_that_cannot_be_used_is_one_line(blocked: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    obstacle = run_dir / blocked if blocked else run_dir
    obstacle.parent.mkdir(exist_ok=True)
    if blocked in ("", "checkpoints"):
        obstacle.touch()  # a file where a folder has to be
    else:
        obstacle.mkdir()
        (obstacle / "something").touch()
    with pytest.raises(UserError, match="cannot be") as caught:
        train(tiny_recipe(methods=[]), run_dir=run_dir, quiet=True)
    assert "\n" not in str(caught.value)


def test_two_protocols_of_one_name_are_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe(evaluation={"pairs": [PAIRS, PAIRS]})
    with pytest.raises(UserError, match="two protocols are called"):
        train(recipe, run_dir=tmp_path / "run", quiet=True)


class Steep(Method):
    """A method whose penalty stays finite while the gradient of its parameter becomes infinite at step 2."""

    def __init__(self, facts: RunFacts) -> None:
        super().__init__(facts)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def penalties(self, state: StepState) -> dict[str, torch.Tensor]:
        return {"steep": self.weight.sqrt() if state.step == 2 else self.weight * 0}
