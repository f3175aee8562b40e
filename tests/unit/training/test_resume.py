"""A run stopped anywhere and continued is the run that was never stopped."""

import json
import os
import random
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from tests.unit.training.tiny import tiny_recipe
from topoface.codes.build import BuildSettings, build
from topoface.data import open_source
from topoface.errors import UserError
from topoface.methods import Method
from topoface.recipe import Recipe
from topoface.training import checkpoint, loop, saving, train
from topoface.training.checkpoint import (
    Checkpoint,
    checkpoints,
    finish,
    load_newest,
    step_folder,
    write_part,
)
from topoface.training.judging import Judge
from topoface.training.logs import JsonLines


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing report.html takes longer than these runs; `test_loop.py` sees to it."""
    monkeypatch.setattr("topoface.training.judging.report_is_possible", lambda: False)


def final_state(folder: Path) -> dict[str, Any]:
    state = load_newest(folder / "checkpoints", print)
    assert state is not None
    return state


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the run from inside, like a power cut: nothing is saved on the way out."""
    original = loop.optimizer_step

    def dying(run: Any, *rest: Any) -> Any:
        if run.step == step:
            raise RuntimeError("power cut")
        return original(run, *rest)

    monkeypatch.setattr(loop, "optimizer_step", dying)


def assert_equal_states(a: Any, b: Any, path: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_equal_states(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal_states(x, y, f"{path}.{i}")
    else:
        assert a == b, path


RECIPES = {
    "arcface": tiny_recipe(methods=[]),
    "topofr": tiny_recipe(),
    "topofr with state": tiny_recipe(
        methods=[
            {
                "class_path": "TopoFR",
                "init_args": {
                    "sde": {"lag": 1},
                    "isa": {"latent": "learned", "norm": "pixel_range", "warmup_epochs": 0.0},
                },
            }
        ],
        model={"dropout": 0.3},
        training={"accumulation": 2},
        optimizer={"name": "adamw", "lr": 0.01},
    ),
    "taught by its own average": tiny_recipe(
        methods=[{"class_path": "TopoFR", "init_args": {"isa": {"source": "teacher", "warmup_epochs": 0.0}}}]
    ),
    "balanced": tiny_recipe(data={"sampling": "identity_balanced", "images_per_identity": 2}),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("stop", [4, None])
def test_a_killed_run_continues_bit_for_bit(
    name: str, stop: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = stop or random.SystemRandom().randint(
        1, 7
    )  # before, on and after the checkpoints of steps 3 and 6
    print(f"stopped at step {stop}")  # shown if the test fails
    recipe = RECIPES[name]
    train(recipe, run_dir=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stop_after(stop, patch)
        with pytest.raises(RuntimeError, match="power cut"):
            train(recipe, run_dir=tmp_path / "cut", quiet=True)
    result = train(recipe, run_dir=tmp_path / "cut", resume=True, quiet=True)
    assert result.steps_done == 8
    assert_equal_states(final_state(tmp_path / "whole"), final_state(tmp_path / "cut"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


def of_codes(table: str) -> Recipe:
    return tiny_recipe(
        head={"class_path": "IdentityCode", "init_args": {"table": table, "prefix_conditioned": True}},
        methods=[{"class_path": "GIF", "init_args": {"table": table, "softmax": {"weight": 1.0}}}],
        training=SHORT,
    )


SHORT = {"steps": 6, "checkpoint_every": 4}  # JLCC begins at step 3
PARTIAL_FC = {"class_path": "PartialFC", "init_args": {"scale": 16.0, "rate": 0.5}}
JLCC = {"class_path": "JLCC", "init_args": {"start_epochs": 1.0, "ramp_epochs": 0.0}}
WITH_STATE = {
    "drawn classes": tiny_recipe(head=PARTIAL_FC, methods=[], training=SHORT),
    "drawn classes, accumulated": tiny_recipe(
        head=PARTIAL_FC, methods=[], training={**SHORT, "accumulation": 2}
    ),
    "fused": tiny_recipe(
        head={"class_path": "ArcFace", "init_args": {"scale": 16.0, "fused": True}},
        methods=[],
        training=SHORT,
    ),
    "drawn classes with methods": tiny_recipe(
        head={"class_path": "AdaFace", "init_args": {"scale": 16.0, "rate": 0.5}},
        methods=[{"class_path": "TopoFR"}, {"class_path": "UNPG"}, JLCC],
        training=SHORT,
    ),
    "codes": None,
}


@pytest.mark.parametrize("name", WITH_STATE)
def test_heads_and_methods_that_keep_more_than_weights_continue_bit_for_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = WITH_STATE[name]
    if recipe is None:
        settings = BuildSettings(encoder="random", dimension=16, shape="4x2")
        build(open_source("synthetic:?identities=6&images=4&seed=0"), tmp_path / "codes", settings)
        recipe = of_codes(str(tmp_path / "codes"))
    train(recipe, run_dir=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        with pytest.raises(RuntimeError, match="power cut"):
            train(recipe, run_dir=tmp_path / "cut", quiet=True)
    train(recipe, run_dir=tmp_path / "cut", resume=True, quiet=True)
    assert_equal_states(final_state(tmp_path / "whole"), final_state(tmp_path / "cut"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


@pytest.mark.parametrize("what", ["bit of a part", "bit of the manifest", "cut short", "part gone"])
def test_a_damaged_checkpoint_is_passed_over_with_a_message(what: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(methods=[])
    train(recipe, run_dir=tmp_path / "run", quiet=True)
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    (part,) = newest.glob("part_*")
    file = newest / "manifest.json" if "manifest" in what else part
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content[:-100] if what == "cut short" else content)
    if what == "part gone":
        part.unlink()
    said: list[str] = []
    state = load_newest(tmp_path / "run" / "checkpoints", said.append)
    assert state is not None
    assert state["step"] == 6
    assert "damaged" in said[0]
    assert newest.name in said[0]
    before = final_state(tmp_path / "run")
    train(recipe, run_dir=tmp_path / "run", resume=True, quiet=True)
    assert final_state(tmp_path / "run")["step"] == 8 != before["step"]
    assert len(list(newest.glob("part_*"))) == 1  # the damaged one is not needed any more


def test_checkpoints_of_an_earlier_version_are_named_and_never_trained_over(tmp_path: Path) -> None:
    former = tmp_path / "run" / "checkpoints" / "step_000000003.pt"
    former.parent.mkdir(parents=True)
    former.write_bytes(b"as torch.save wrote them")
    for resume in (True, False):
        with pytest.raises(UserError):
            train(tiny_recipe(), run_dir=tmp_path / "run", resume=resume, quiet=True)
    with pytest.raises(UserError, match=r"step_000000003\.pt.*earlier topoface"):
        load_newest(former.parent, print)
    assert former.read_bytes() == b"as torch.save wrote them"


def test_only_the_newest_checkpoints_are_kept_and_what_a_kill_left_goes(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step_000000005").mkdir(parents=True)
    (folder / "step_000000005" / "part_00000_0a1b2c3d.safetensors").write_bytes(b"half")
    assert checkpoints(folder) == []
    train(
        tiny_recipe(methods=[], training={"keep_last": 2}), run_dir=tmp_path / "run", resume=True, quiet=True
    )
    assert sorted(path.name for path in folder.iterdir()) == ["step_000000006", "step_000000008"]


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"optimizer": {"lr": 0.01}}, "recipe.optimizer.lr = 0.05, this run has 0.01"),
    ({"data": {"train": "synthetic:?identities=7&images=4&seed=0"}}, "data.identities = 6, this run has 7"),
    ({"data": {"train": "synthetic:?identities=6&images=4&seed=1"}}, "data.fingerprint"),
    ({"methods": []}, "recipe.methods"),
]


def test_another_recipe_or_data_is_refused_with_the_difference_or_accepted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny_recipe(), run_dir=tmp_path / "run", quiet=True)
    for change, difference in CHANGES:
        with pytest.raises(UserError, match=f"{difference}.*--accept-changes"):
            train(tiny_recipe(**change), run_dir=tmp_path / "run", resume=True, quiet=True)
    capfd.readouterr()
    trained = final_state(tmp_path / "run")
    more = tiny_recipe(**CHANGES[1][0], training={"steps": 10})
    result = train(more, run_dir=tmp_path / "run", resume=True, accept_changes=True, quiet=True)
    assert result.steps_done == 10
    said = capfd.readouterr().err
    assert "not restored: head.weight (was 6 x 16, is 7 x 16)" in said
    assert "changed: " in said
    assert "data.identities = 6, this run has 7" in said
    drift = (
        final_state(tmp_path / "run")["model"]["backbone.features.bias"]
        - trained["model"]["backbone.features.bias"]
    )
    assert drift.abs().max() < trained["model"]["backbone.features.bias"].abs().max()


def test_a_kill_while_a_resumed_run_drops_lines_of_its_log_loses_none_before_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(methods=[], training={"steps": 4, "checkpoint_every": 2})
    train(recipe, run_dir=tmp_path / "run", quiet=True)
    log = tmp_path / "run" / "metrics.jsonl"
    whole = log.read_text()

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> Any:
        raise Killed

    for place in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(*place, killed)
            with pytest.raises(Killed):
                JsonLines(log, resumed_at=2)
        assert log.read_text() == whole
    JsonLines(log, resumed_at=2).close()
    assert log.read_text() == "".join(whole.splitlines(keepends=True)[:2])


@pytest.mark.parametrize("stop", ["before the figures", "after the figures"])
def test_a_run_killed_after_its_checkpoint_logs_the_figures_of_that_step_once(
    stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = "synthetic:?identities=20&images=2&seed=3&first=1000&pairs=20"
    recipe = tiny_recipe(
        methods=[], training={"steps": 5}, evaluation={"pairs": [pairs], "bootstrap": 0, "every_epochs": 1.0}
    )
    train(recipe, run_dir=tmp_path / "whole", quiet=True)
    assert [line["step"] for line in losses(tmp_path / "whole") if "evaluation" in line] == [2]

    def killed(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        if stop == "before the figures":
            patch.setattr(Judge, "interim", killed)
        else:
            stop_after(3, patch)
        with pytest.raises(RuntimeError, match="power cut"):
            train(recipe, run_dir=tmp_path / "cut", quiet=True)
    assert [path.name for path in checkpoints(tmp_path / "cut" / "checkpoints")] == ["step_000000003"]
    train(recipe, run_dir=tmp_path / "cut", resume=True, quiet=True)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


def test_damaged_lines_of_the_log_are_dropped_by_a_resumed_run(tmp_path: Path) -> None:
    recipe = tiny_recipe(methods=[], training={"steps": 4, "checkpoint_every": 2})
    train(recipe, run_dir=tmp_path / "run", quiet=True)
    log = tmp_path / "run" / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    damage = b'\xff\xfe\n[1]\n7\nnull\n{"loss": 1}\n{"step": "2"}\n' + b"[" * 100_000 + b'\n{"step": 1'
    log.write_bytes(lines[0] + damage[:9] + lines[1] + damage)
    JsonLines(log, resumed_at=2).close()
    assert log.read_bytes() == b"".join(lines[:2])


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    recipe = tiny_recipe(methods=[])
    train(recipe, run_dir=tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="--resume"):
        train(recipe, run_dir=tmp_path / "run", quiet=True)


def test_one_line_says_what_was_restored(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(methods=[])
    train(recipe, run_dir=tmp_path / "run", resume=True, quiet=True)
    assert "starting at step 0" in capfd.readouterr().err
    train(recipe, run_dir=tmp_path / "run", resume=True, quiet=True)
    expected = "restored step 8: model, head, methods, optimizer; the order of images continues there; not restored: nothing"
    assert expected in capfd.readouterr().err


def test_training_goes_on_while_a_checkpoint_is_written_and_what_is_written_is_the_state_of_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(training={"keep_last": 9})
    train(recipe, run_dir=tmp_path / "at once", quiet=True)
    two_steps_later = threading.Event()
    write_part, optimizer_step = saving.write_part, loop.optimizer_step

    def slow(path: Path, *rest: Any) -> Any:
        if path.name.endswith("3"):
            assert two_steps_later.wait(60)
        return write_part(path, *rest)

    def watched(run: Any, *rest: Any) -> Any:
        if run.step == 5:
            two_steps_later.set()
        return optimizer_step(run, *rest)

    monkeypatch.setattr(saving, "write_part", slow)
    monkeypatch.setattr(loop, "optimizer_step", watched)
    train(recipe, run_dir=tmp_path / "slow", quiet=True)
    found = [checkpoints(tmp_path / name / "checkpoints") for name in ("at once", "slow")]
    assert [path.name for path in found[0]] == [path.name for path in found[1]]
    for one, other in zip(*found, strict=True):
        one_opened, other_opened = Checkpoint(one), Checkpoint(other)
        assert_equal_states(one_opened.facts, other_opened.facts)
        for name in one_opened.shapes:
            assert_equal_states(one_opened.tensor(name), other_opened.tensor(name), name)


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """As the system says it: no file may grow over a limit, which the first checkpoint stays below."""
    recipe = tiny_recipe(methods=[])
    train(tiny_recipe(methods=[], training={"steps": 3}), run_dir=tmp_path / "run", quiet=True)
    (whole,) = checkpoints(tmp_path / "run" / "checkpoints")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written.*make room") as caught:
            train(recipe, run_dir=tmp_path / "run", resume=True, accept_changes=True, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert checkpoints(tmp_path / "run" / "checkpoints") == [whole]
    assert not list(tmp_path.glob("run/checkpoints/step_000000006/part_*"))
    assert (
        train(recipe, run_dir=tmp_path / "run", resume=True, accept_changes=True, quiet=True).steps_done == 8
    )


def test_a_disk_that_is_full_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"the disk is full; make room.*intact"):
        train(tiny_recipe(methods=[]), run_dir=tmp_path / "run", quiet=True)


@pytest.mark.parametrize("part", ["optimizer", "methods"])
def test_a_checkpoint_of_another_layout_is_refused_in_one_line(part: str, tmp_path: Path) -> None:
    """As a version saves it that names what a method or an optimizer keeps in another way."""
    recipe = tiny_recipe(methods=[{"class_path": "UNPG"}])
    train(recipe, run_dir=tmp_path / "run", quiet=True)
    folder = tmp_path / "run" / "checkpoints"
    opened = Checkpoint(checkpoints(folder)[-1])
    renamed = {
        "optimizer": ("optimizer.head.weight.momentum_buffer", "optimizer.centers.momentum_buffer"),
        "methods": ("methods.0.genuine_fence", "methods.0.fence"),
    }[part]
    tensors = {renamed[1] if name == renamed[0] else name: opened.tensor(name) for name in opened.shapes}
    path = step_folder(folder, 9)
    finish(path, opened.facts, [write_part(path, tensors, {})], keep_last=1)
    with pytest.raises(
        UserError, match=r"does not fit this version.*go on with the version that saved it"
    ) as caught:
        train(recipe, run_dir=tmp_path / "run", resume=True, quiet=True)
    assert "\n" not in str(caught.value)


def test_a_state_that_is_no_tensor_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    recipe = tiny_recipe(methods=[{"class_path": f"{__name__}.Wordy"}])
    with pytest.raises(UserError, match=r"methods\.0\._extra_state: keeps a str.*register it as a buffer"):
        train(recipe, run_dir=tmp_path / "run", quiet=True)


class Wordy(Method):
    """A method that keeps a word."""

    def get_extra_state(self) -> str:
        return "word"
