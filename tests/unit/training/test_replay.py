"""topoface replay: the step comes out as it was, and what is not finite in it is named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.training.tiny import tiny_recipe
from topoface import cli
from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.methods import Method, StepState
from topoface.training import train, update
from topoface.training.replay import replay


class Bursting(Method):
    """A method whose penalty is infinite at step 4, where it sees the sample that every batch of it has."""

    def penalties(self, state: StepState) -> dict[str, Tensor]:
        value = float("inf") if state.step == 4 else 0.0
        return {"boom": state.embeddings.sum() * 0 + value}


class Spoiling(Method):
    """A method that turns one embedding of step 4 into NaN for the head."""

    def margin_shift(self, embeddings: Tensor, batch: Batch) -> Tensor | None:
        shift = torch.zeros(len(embeddings))
        if batch.draws.step == 4:
            shift[3] = torch.nan
        return shift


def said(run_dir: Path, step: int | None = None) -> str:
    lines: list[str] = []
    replay(run_dir, step=step, say=lines.append)
    return "\n".join(lines)


def test_any_step_comes_out_bit_for_bit_and_nothing_is_written(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(
        tiny_recipe(model={"dropout": 0.3}, training={"accumulation": 2, "keep_last": 9}),
        run_dir=run_dir,
        quiet=True,
    )
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for step in (2, 3, 7):  # before the first checkpoint, on one, behind one
        text = said(run_dir, step)
        for name, figure in (
            ("loss", "loss"),
            ("class", "loss/class"),
            ("gradient of the model", "norm/model"),
        ):
            assert re.search(rf"^{name} +{lines[step][figure]:.9g}$", text, re.MULTILINE), (step, text)
        assert "8 samples: loss" in text
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_the_step_that_stopped_the_run_is_named_term_by_term(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="topoface replay"):
        train(tiny_recipe(methods=[{"class_path": f"{__name__}.Bursting"}]), run_dir=tmp_path, quiet=True)
    assert cli.main(["replay", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"step 4 of {tmp_path}, from step 3 on" in text
    assert re.search(
        r"^Bursting/boom +inf  \(when the run stopped: inf\)  <- not finite$", text, re.MULTILINE
    )
    assert re.search(r"^class +(\S+)  \(when the run stopped: \1\)$", text, re.MULTILINE)


def test_sample_and_parameters_that_are_not_finite_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite: class"):
        train(tiny_recipe(methods=[{"class_path": f"{__name__}.Spoiling"}]), run_dir=tmp_path, quiet=True)
    text = said(tmp_path)
    index = json.loads((tmp_path / "divergence.json").read_text())["indices"][3]
    assert f"sample {index} (" in text
    assert "loss nan" in text
    assert re.search(r"gradients not finite: model\..* and \d+ more$", text, re.MULTILINE)
    assert "output not finite" not in text


def test_the_first_layer_that_is_not_finite_is_named_and_what_does_not_come_back_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As memory does it that flips a bit once."""
    recipe = tiny_recipe(methods=[])
    forward_step = update.forward_step

    def broken(model: Any, head: Any, hooks: Any, batch: Batch) -> Any:
        if batch.draws.step != 4:
            return forward_step(model, head, hooks, batch)
        first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
        handle = first.register_forward_hook(lambda *seen: seen[2] * torch.inf, prepend=True)
        try:
            return forward_step(model, head, hooks, batch)
        finally:
            handle.remove()

    with monkeypatch.context() as patch:
        patch.setattr(update, "forward_step", broken)
        with pytest.raises(UserError, match="not finite: class"):
            train(recipe, run_dir=tmp_path, quiet=True)
        text = said(tmp_path)
        assert re.search(r"output not finite: first at model\.backbone\.\S+$", text, re.MULTILINE)
    assert "all is finite now: the run stopped at something that does not come back" in said(tmp_path)


def test_a_step_before_it_that_is_not_finite_is_said_and_the_record_of_the_run_stays(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="topoface replay"):
        train(tiny_recipe(methods=[{"class_path": f"{__name__}.Bursting"}]), run_dir=tmp_path, quiet=True)
    record = tmp_path / "divergence.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "note": "mine"}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        UserError, match=r"step 4: not finite: Bursting/boom.*; look at this step instead: --step 4$"
    ):
        replay(tmp_path, step=6)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"step": 4, "proc',
        "{}",
        "[]",
        "4",
        '{"step": Infinity}',
        '{"step": 4, "processes": 1, "values": 5}',
    ],
)
@pytest.mark.parametrize("step", [None, 1])
def test_a_damaged_record_of_the_run_is_one_line(content: str, step: int | None, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / "divergence.json").write_text(content)
    with pytest.raises(
        UserError, match=r"divergence\.json: is damaged.*; remove it and say which step"
    ) as caught:
        replay(tmp_path, step=step)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_replayed_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        replay(tmp_path)
    train(tiny_recipe(methods=[]), run_dir=tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match=r"no divergence\.json; say which step with --step"):
        replay(tmp_path / "run")
    with pytest.raises(UserError, match="--step: is 8; the run has steps 0 to 7"):
        replay(tmp_path / "run", step=8)
