"""A run stopped anywhere and continued is the run that was never stopped."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.training.tiny import tiny_recipe
from topoface.errors import UserError
from topoface.recipe import Recipe
from topoface.training import loop, train
from topoface.training.checkpoint import checkpoints, load_newest, save_checkpoint


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


def test_a_damaged_checkpoint_is_passed_over_with_a_message(tmp_path: Path) -> None:
    recipe = tiny_recipe(methods=[])
    train(recipe, run_dir=tmp_path / "run", quiet=True)
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(bytes(content))
    said: list[str] = []
    state = load_newest(tmp_path / "run" / "checkpoints", said.append)
    assert state is not None
    assert state["step"] == 6
    assert "damaged" in said[0]
    assert newest.name in said[0]
    before = final_state(tmp_path / "run")
    train(recipe, run_dir=tmp_path / "run", resume=True, quiet=True)
    assert final_state(tmp_path / "run")["step"] == 8 != before["step"]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    train(tiny_recipe(methods=[], training={"keep_last": 2}), run_dir=tmp_path / "run", quiet=True)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [
        "step_000000006.pt",
        "step_000000006.sha256",
        "step_000000008.pt",
        "step_000000008.sha256",
    ]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"optimizer": {"lr": 0.01}}, "recipe.optimizer.lr = 0.05, this run has 0.01"),
        (
            {"data": {"train": "synthetic:?identities=7&images=4&seed=0"}},
            "data.identities = 6, this run has 7",
        ),
        ({"data": {"train": "synthetic:?identities=6&images=4&seed=1"}}, "data.fingerprint"),
        ({"methods": []}, "recipe.methods"),
    ],
)
def test_another_recipe_or_data_is_refused_with_the_difference(
    change: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    train(tiny_recipe(), run_dir=tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match=difference):
        train(tiny_recipe(**change), run_dir=tmp_path / "run", resume=True, quiet=True)


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    recipe = tiny_recipe(methods=[])
    train(recipe, run_dir=tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="--resume"):
        train(recipe, run_dir=tmp_path / "run", quiet=True)


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe: Recipe = tiny_recipe(methods=[])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"disk is full.*make room"):
        train(recipe, run_dir=tmp_path / "run", quiet=True)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("part", ["optimizer", "methods"])
def test_a_checkpoint_of_another_layout_is_refused_in_one_line(part: str, tmp_path: Path) -> None:
    """As versions save it that group parameters, or name what a method keeps, in another way."""
    recipe = tiny_recipe(methods=[{"class_path": "UNPG"}])
    train(recipe, run_dir=tmp_path / "run", quiet=True)
    state = final_state(tmp_path / "run")
    if part == "methods":
        state["methods"]["0.fence"] = state["methods"].pop("0.genuine_fence")
    else:
        groups = state["optimizer"]["param_groups"]
        groups[0]["params"] += groups.pop()["params"]
    save_checkpoint(tmp_path / "run" / "checkpoints", 9, state, keep_last=1)
    with pytest.raises(
        UserError, match=r"does not fit this version.*go on with the version that saved it"
    ) as caught:
        train(recipe, run_dir=tmp_path / "run", resume=True, quiet=True)
    assert "\n" not in str(caught.value)
