"""Recipe files: layers merge as promised, every mistake is one line, what is written is read back."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from topoface.errors import UserError
from topoface.recipe import Component, DataConfig, Recipe
from topoface.recipe.files import (
    dump_recipe,
    find_recipe,
    load_recipe,
    open_recipe,
    recipe_from_dict,
    shipped_recipes,
)
from topoface.recipe.yaml_files import from_yaml

MINIMAL = "data: {train: faces}\nhead: {class_path: ArcFace, init_args: {margin: 0.5, scale: 32}}\n"


def written(folder: Path, text: str, name: str = "bad.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer: {learning_rate: 1}", "optimizer.learning_rate: unknown key; did you mean optimizer.lr?"),
        ("optimizer: {Lr: 1}", "optimizer.Lr: unknown key; did you mean optimizer.lr?"),
        ("optimiser: {lr: 1}", "optimiser: unknown key; did you mean optimizer?"),
        ("lr: 0.1", "lr: unknown key; did you mean optimizer.lr?"),
        ("batch_size: 12", "batch_size: unknown key; did you mean training.batch_size?"),
        ("optimizer.lr: 0.1", "optimizer.lr: a key with dots in it; write it as nested groups"),
        ("optimizer: {lr: fast}", 'optimizer.lr: found "fast" where float is expected; the default is 0.1'),
        ("optimizer: {lr: '0.1'}", 'optimizer.lr: found "0.1" where float is expected'),
        ("optimizer: {lr: }", "optimizer.lr: found null where float is expected"),
        ("optimizer: 3", "optimizer: found 3 where a group of keys is expected; keys here: name, lr"),
        (
            "optimizer: {name: adam}",
            'optimizer.name: found "adam" where sgd | adamw is expected; did you mean adamw?',
        ),
        ("optimizer: {betas: [0.9]}", "optimizer.betas: found [0.9] where tuple[float, float] is expected"),
        ("training: {steps: 1.5}", "training.steps: found 1.5 where int | null is expected"),
        ("training: {steps: true}", "training.steps: found true where int | null is expected"),
        ("model: {compile: yes}", 'model.compile: found "yes" where bool is expected; give true or false'),
        ("model: {name: 18}", "model.name: found 18 where str is expected; put it in quotes"),
        ("methods: {class_path: TopoFR}", "where a list is expected; give a list, [] for none"),
        ("methods: [{class: TopoFR}]", "methods.0.class: unknown key; did you mean methods.0.class_path?"),
        ("methods: [{}]", "methods.0.class_path: is missing"),
        ("evaluation: {pairs: lfw.bin}", 'evaluation.pairs: found "lfw.bin" where list[str] is expected'),
        ("training: {batch_size: 0}", "training.batch_size: is 0; give 1 or more"),
        ("base: none.yaml", "base: none.yaml is not there"),
        ("base: [a]", 'base: is ["a"]; give one file'),
        ("base: bad.yaml", "leads back to"),
    ],
)
def test_a_bad_file_is_one_line_with_file_path_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, MINIMAL + text)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    line = str(caught.value)
    assert message in line
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert "usage" not in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {flip: true}\nhead: ArcFace", "data.train: is missing; add it, as in data.train=VALUE (str)"),
        ("head: ArcFace", "data.train: is missing"),
        ("data: {train: x}", "head.class_path: is missing"),
        (
            "data: {train: x}\nhead: 3",
            "head: found 3 where a group of keys is expected; keys here: class_path, preset, init_args",
        ),
        ("data: {train: x}\nhead: {class_path: 3}", "head.class_path: found 3 where str is expected"),
    ],
)
def test_what_is_required_is_asked_for(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(written(tmp_path, text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=1", "optimizer.learning_rate=1: unknown key; did you mean optimizer.lr?"),
        ("--optimizer.lr=fast", 'optimizer.lr=fast: found "fast" where float is expected'),
        ("training.batch_size=0", "training.batch_size=0: is 0; give 1 or more"),
        ("head={class_path: A, init_arg: {}}", "head.init_arg: unknown key; did you mean head.init_args?"),
        (
            "methods.0.class_path=A",
            "methods.0.class_path=A: there is no entry '0' in a list of 0; count from 0",
        ),
        ("methods.x=A", "there is no entry 'x' in a list of 0"),
        ("data.train.x=A", "data.train.x=A: there is no 'x' inside of \"faces\"; set the whole value"),
        ("optimizer.lr", "optimizer.lr: not an override; write key=value"),
        ("--optimizer.lr", "--optimizer.lr: not an override"),
        ("=3", "=3: not an override"),
        ("optimizer..lr=3", "not an override"),
        ("optimizer.lr=[1", "optimizer.lr=[1, line 1: "),
    ],
)
def test_a_bad_override_is_one_line_that_quotes_it(tmp_path: Path, override: str, message: str) -> None:
    path = written(tmp_path, MINIMAL + "methods: []", "good.yaml")
    with pytest.raises(UserError) as caught:
        load_recipe(path, [override])
    line = str(caught.value)
    assert message in line
    assert str(path) not in line
    assert "\n" not in line


def test_overrides_set_what_they_say(tmp_path: Path) -> None:
    text = (
        MINIMAL + "methods: [{class_path: TopoFR, init_args: {rsp: {xi: 0.2}, isa: {alpha: 1.0}}}, Other]\n"
    )
    recipe = load_recipe(
        written(tmp_path, text),
        [
            "data.train=other=faces",
            "--training.seed=3",
            "head.init_args.margin=0.4",
            "methods.0.init_args.rsp.xi=1e-1",
            "methods.1=Third",
            "optimizer={lr: 0.5}",
            "optimizer.clip_norm=null",
            "evaluation.pairs=[a.bin, b.bin]",
        ],
    )
    assert recipe.data.train == "other=faces"
    assert recipe.training.seed == 3
    assert recipe.head.init_args == {"margin": 0.4, "scale": 32}
    assert recipe.methods[0].init_args == {"rsp": {"xi": 0.1}, "isa": {"alpha": 1.0}}
    assert recipe.methods[1] == Component(class_path="Third")
    assert (recipe.optimizer.lr, recipe.optimizer.clip_norm) == (0.5, None)
    assert recipe.evaluation.pairs == ["a.bin", "b.bin"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("faces #2", "faces #2"),
        (" faces ", "faces"),
        ("'a: #b'", "a: #b"),
        ('"1"', "1"),
        ("synthetic:?identities=3&images=2", "synthetic:?identities=3&images=2"),
        ("a=b", "a=b"),
    ],
)
def test_a_text_in_an_override_is_taken_whole(tmp_path: Path, text: str, value: str) -> None:
    assert load_recipe(written(tmp_path, MINIMAL), [f"data.train={text}"]).data.train == value


def test_lists_and_empty_maps_replace(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "methods: [TopoFR]\nevaluation: {pairs: [a, b]}")
    recipe = load_recipe(path, ["methods=[]", "evaluation.pairs=[c]", "head.init_args={}"])
    assert recipe.methods == []
    assert recipe.evaluation.pairs == ["c"]
    assert recipe.head == Component(class_path="ArcFace")
    assert load_recipe(path, ["methods=[A, {class_path: B}]"]).methods == [
        Component(class_path="A"),
        Component(class_path="B"),
    ]


def test_the_later_of_equal_overrides_wins(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, MINIMAL), ["training.seed=1", "training.seed=2"]).training.seed == 2


@pytest.mark.parametrize(
    "override", ["head.class_path=CosFace", "head=CosFace", "head={class_path: CosFace}"]
)
def test_arguments_of_another_class_are_not_carried_over_from_the_file(tmp_path: Path, override: str) -> None:
    assert load_recipe(written(tmp_path, MINIMAL), [override]).head == Component(class_path="CosFace")


def test_arguments_of_another_class_are_not_carried_over_from_file_to_file(tmp_path: Path) -> None:
    written(tmp_path, MINIMAL, "first.yaml")
    for head in ("CosFace", "{class_path: CosFace}"):
        second = written(tmp_path, f"base: first.yaml\nhead: {head}", "second.yaml")
        assert load_recipe(second).head == Component(class_path="CosFace")


def test_arguments_of_another_method_are_not_carried_over(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "methods: [{class_path: TopoFR, init_args: {alpha: 1}}]")
    assert load_recipe(path, ["methods.0.class_path=UNPG"]).methods == [Component(class_path="UNPG")]


def test_arguments_given_with_the_new_class_are_kept_in_any_order(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL)
    expected = Component(class_path="CosFace", init_args={"margin": 0.3})
    for overrides in (
        ["head.class_path=CosFace", "head.init_args.margin=0.3"],
        ["head.init_args.margin=0.3", "head.class_path=CosFace"],
        ["head.init_args={margin: 0.3}", "head.class_path=CosFace"],
    ):
        assert load_recipe(path, overrides).head == expected


def test_the_same_class_under_its_long_name_keeps_its_arguments(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, MINIMAL), ["head.class_path=topoface.heads.ArcFace"])
    assert recipe.head.init_args == {"margin": 0.5, "scale": 32}


def test_a_recipe_stands_on_its_base(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    written(
        tmp_path, MINIMAL + "optimizer: {lr: 0.3, momentum: 0.5}\nevaluation: {pairs: [a, b]}", "first.yaml"
    )
    written(
        tmp_path, "base: ../first.yaml\noptimizer: {lr: 0.2}\nevaluation: {pairs: [c]}", "deep/second.yaml"
    )
    third = written(tmp_path, "base: deep/second.yaml\nhead: {init_args: {margin: 0.1}}", "third.yaml")
    recipe = load_recipe(third)
    assert (recipe.optimizer.lr, recipe.optimizer.momentum) == (0.2, 0.5)
    assert recipe.evaluation.pairs == ["c"]
    assert recipe.head.init_args == {"margin": 0.1, "scale": 32}


def test_a_mistake_in_the_base_names_the_base(tmp_path: Path) -> None:
    written(tmp_path, MINIMAL + "optimizer: {lr: fast}", "first.yaml")
    second = written(tmp_path, "base: first.yaml\noptimizer: {momentum: 0.5}", "second.yaml")
    with pytest.raises(UserError, match=r"first\.yaml: optimizer\.lr: "):
        load_recipe(second)


def test_bases_that_go_in_circles_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "base: b.yaml", "a.yaml")
    written(tmp_path, "base: a.yaml", "b.yaml")
    with pytest.raises(UserError, match="leads back to"):
        load_recipe(tmp_path / "a.yaml")


def test_a_mistake_found_after_loading_still_names_its_file(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL)
    loaded = open_recipe(path, ["training.device=cuda"])
    assert loaded.name == "bad"
    late = loaded.blame(UserError("is wrong", "head.init_args.margin", "mend it"))
    assert str(late) == f"{path}: head.init_args.margin: is wrong; mend it"
    by_override = loaded.blame(UserError("no GPU", "training.device", "use cpu"))
    assert str(by_override) == "training.device=cuda: no GPU; use cpu"
    elsewhere = UserError("is missing", "some/folder", "copy it")
    assert loaded.blame(elsewhere) is elsewhere


def test_unknown_recipes_are_refused_with_the_likely_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = written(tmp_path, MINIMAL, "topofr_small.yaml")
    monkeypatch.setattr("topoface.recipe.files.shipped_recipes", lambda: {"topofr_small": good})
    assert find_recipe("topofr_small") == good
    with pytest.raises(
        UserError, match=r"^topofr_smal: there is no such recipe; did you mean topofr_small\?$"
    ):
        find_recipe("topofr_smal")
    with pytest.raises(
        UserError, match=r"^runs/topofr_smal\.yaml: there is no such recipe; did you mean topofr_small"
    ):
        find_recipe("runs/topofr_smal.yaml")
    with pytest.raises(UserError, match="give a file or one of: topofr_small"):
        find_recipe("zzz")
    mine = written(tmp_path, "base: topofr_small\ntraining: {seed: 5}", "mine.yaml")
    assert load_recipe(mine).training.seed == 5


def test_writing_and_reading_gives_an_equal_recipe(tmp_path: Path) -> None:
    tricky: dict[str, Any] = {
        "a": 5e-4,
        "b": "1e-4",
        "c": "on",
        "d": None,
        "e": [1, "null", True],
        "f": {"g": "3"},
    }
    recipe = Recipe(
        data=DataConfig(train="synthetic:?identities=3&images=2 # no comment: ü"),
        head=Component(class_path="ArcFace", init_args=tricky),
        methods=[Component(class_path="TopoFR", init_args={"sde": {"focal": "on"}})],
        run_dir="null",
    )
    text = dump_recipe(recipe)
    assert recipe_from_dict(from_yaml(text, "text"), "text") == recipe
    assert load_recipe(written(tmp_path, text)) == recipe
    assert yaml.safe_load(text)["head"]["init_args"] == tricky  # any other reader agrees


def test_a_dict_is_checked_under_the_name_given() -> None:
    with pytest.raises(
        UserError, match=r"^request 7: optimizer\.lrr: unknown key; did you mean optimizer\.lr\?"
    ):
        recipe_from_dict({"data": {"train": "x"}, "head": "ArcFace", "optimizer": {"lrr": 1}}, "request 7")
    with pytest.raises(UserError, match=r"^request 7: found "):
        recipe_from_dict([], "request 7")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_and_survives_a_round_trip(name: str) -> None:
    recipe = load_recipe(name, ["data.train=faces"])
    assert recipe_from_dict(from_yaml(dump_recipe(recipe), name), name) == recipe


def test_reading_recipes_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, topoface.recipe, topoface.recipe.files as f\n"
        "f.recipe_from_dict({'data': {'train': 'x'}, 'head': 'ArcFace'}, 'here')\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_with_nothing_but_its_base_is_the_base(tmp_path: Path) -> None:
    only = tmp_path / "only.yaml"
    only.write_text("base: arcface_small\n")
    assert load_recipe(only) == load_recipe("arcface_small")
