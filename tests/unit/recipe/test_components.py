"""Components: names become classes, arguments are checked against signatures, and every message names its path."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch

from tests.facts import run_facts
from topoface.errors import UserError
from topoface.heads import ArcFace
from topoface.methods import TopoFR
from topoface.methods.method import Method, RunFacts
from topoface.recipe import SHORT_NAMES, Component, DataConfig, Recipe, components
from topoface.recipe.components import build, check, check_recipe, describe

FACTS = run_facts(num_classes=5, embedding_dim=8, steps_per_epoch=3.0, trainable_embedding_scale=False)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A group."""

    weight: float = 0.1
    """Its weight."""
    form: Literal["on", "off"] = "on"

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise UserError(f"is {self.weight}", "weight", "give 0 or more")


class MyHead(ArcFace):
    """A head of one's own.

    Args:
        part: of it.
    """

    def __init__(
        self, embedding_dim: int, num_classes: int, *, part: Part = Part(weight=0.7), **kwargs: Any
    ) -> None:
        super().__init__(embedding_dim, num_classes, **kwargs)
        self.part = part


class MyMethod(Method):
    """A method of one's own."""

    PRESETS: ClassVar[dict[str, Any]] = {"strong": {"part": {"weight": 2.0}, "count": 3}}

    def __init__(self, facts: RunFacts, count: int, part: Part = Part(), cap: float | None = 1.0) -> None:
        super().__init__(facts)
        self.count, self.part, self.cap = count, part, cap
        if count > 100:
            raise UserError(f"is {count}", "count", "give less")


class NoHead(torch.nn.Module):
    """Does not take what a head is given."""

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()


HERE = __name__


def component(class_path: str, preset: str | None = None, /, **init_args: Any) -> Component:
    return Component(class_path=class_path, preset=preset, init_args=init_args)


def test_a_head_gets_the_trainers_arguments_and_the_recipes() -> None:
    head = build(component("ArcFace", margin=0.3), "head", 8, 5, seed=1)
    assert (type(head), head.num_classes, head.m) == (ArcFace, 5, 0.3)


def test_a_head_of_ones_own_takes_the_arguments_of_its_parent() -> None:
    head = build(component(f"{HERE}.MyHead", margin=1, part={"form": "off"}), "head", 8, 5, seed=1)
    assert head.m == 1.0
    assert isinstance(head.m, float)
    assert head.part == Part(weight=0.7, form="off")  # the signature's default, not the group's own


def test_a_method_gets_facts_preset_and_init_args_in_this_order() -> None:
    method = build(
        component(f"{HERE}.MyMethod", "strong", part={"form": "off"}, cap=None), "methods.0", FACTS
    )
    assert method.facts is FACTS
    assert (method.count, method.part, method.cap) == (3, Part(weight=2.0, form="off"), None)


def test_building_leaves_recipe_and_preset_as_they_were() -> None:
    given = component(f"{HERE}.MyMethod", "strong", part={"form": "off"})
    build(given, "methods.0", FACTS)
    assert given.init_args == {"part": {"form": "off"}}
    assert MyMethod.PRESETS == {"strong": {"part": {"weight": 2.0}, "count": 3}}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (component("ArcFase"), "methods.0.class_path: there is no class 'ArcFase'; did you mean ArcFace? known: "),
        (component("Unknown"), "there is no class 'Unknown'; known: ArcFace, CosFace, "),
        (component("no_such_package.Head"), "no_such_package cannot be imported (ModuleNotFoundError: No module named"),
        (component("topoface.heads.ArcFase"), "topoface.heads has no class 'ArcFase'; did you mean ArcFace?"),
        (component("json.dumps"), "json.dumps is not a class; give the path of a class"),
        (component(""), "there is no class ''"),
        (component("ArcFace", margn=0.3), "head.init_args.margn: unknown key; did you mean head.init_args.margin?"),
        (component("ArcFace", margin="wide"), 'head.init_args.margin: found "wide" where float is expected'),
        (component("ArcFace", margin=None), "head.init_args.margin: found null where float is expected"),
        (component("ArcFace", continuation="linar"), "linear | insightface | wrap is expected; did you mean linear?"),
        (component("ArcFace", seed=3), "head.init_args.seed: unknown key; "),
        (component("ArcFace", "ours"), "head.preset: ArcFace has no preset 'ours'; leave it out"),
        (component("TopoFR", "our"), "methods.0.preset: TopoFR has no preset 'our'; give one of: ours, mild, paper, release"),
        (component("TopoFR", isa={"alpa": 1}), "methods.0.init_args.isa.alpa: unknown key; did you mean methods.0.init_args.isa.alpha?"),
        (component("TopoFR", isa={"form": "sort"}), 'methods.0.init_args.isa.form: found "sort" where paired | sorted'),
        (component("TopoFR", sde={"focal": True}), "methods.0.init_args.sde.focal: found true where on | off | gate"),
        (component("TopoFR", isa=0.1), "methods.0.init_args.isa: found 0.1 where a group of keys is expected; keys here: "),
        (component("TopoFR", alpha=0.1), "methods.0.init_args.alpha: unknown key; did you mean methods.0.init_args.isa.alpha?"),
        (component("TopoFR", facts=1), "methods.0.init_args.facts: unknown key"),
        (component(f"{HERE}.MyMethod"), "methods.0.init_args.count: is missing; add it, as in methods.0.init_args.count=VALUE"),
        (component(f"{HERE}.MyMethod", count=1, part={"weight": -1}), "methods.0.init_args.part.weight: is -1"),
    ],
)  # fmt: skip
def test_a_component_that_cannot_be_built_is_refused_before_any_data_is_read(
    bad: Component, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        check(bad, "head" if bad.class_path == "ArcFace" else "methods.0")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("good", "message"),
    [
        (component("ArcFace", margin=9.0), "head.init_args.margin: is 9.0; "),
        (component(f"{HERE}.NoHead"), "head.class_path: cannot be built ("),
    ],
)
def test_what_the_class_itself_refuses_names_the_recipe_key(good: Component, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(good, "head", 8, 5, seed=0)
    assert message in str(caught.value)


def test_a_relative_complaint_of_a_class_becomes_a_full_path() -> None:
    with pytest.raises(UserError, match=r"^methods\.2\.init_args\.count: is 101; give less$"):
        build(component(f"{HERE}.MyMethod", count=101), "methods.2", FACTS)


def test_a_module_that_fails_to_import_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_head_module.py").write_text("x = 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"broken_head_module cannot be imported \(ZeroDivisionError: division by zero\)"
    ):
        check(component("broken_head_module.Head"), "head")


def test_third_parties_bring_short_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name, value = "Mine", f"{HERE}:MyHead"

    monkeypatch.setattr(
        components, "entry_points", lambda group: [Point] if group == "topoface.components" else []
    )
    assert components.resolve("Mine", "head") is sys.modules[HERE].MyHead
    assert components.resolve("ArcFace", "head") is ArcFace


def test_a_recipe_is_checked_as_a_whole() -> None:
    recipe = Recipe(data=DataConfig(train="x"), head=component("ArcFace"), methods=[component("TopoFR")])
    check_recipe(recipe)
    recipe.methods.append(component("TopoFR", "ours", isa={"aplha": 1}))
    with pytest.raises(UserError, match=r"^methods\.1\.init_args\.isa\.aplha: "):
        check_recipe(recipe)


def test_every_argument_of_a_class_is_described() -> None:
    options = {option.path: option for option in describe("TopoFR")}
    assert options["isa.alpha"].kind is float
    assert options["isa.alpha"].text
    assert "rsp.xi" in options
    assert "facts" not in options
    assert {option.path for option in describe("ArcFace")} >= {"scale", "margin"}
    assert not {"seed", "embedding_dim"} & {option.path for option in describe("ArcFace")}
    mine = {option.path: option.default for option in describe(f"{HERE}.MyHead")}
    assert mine["part.weight"] == 0.7
    assert mine["margin"] == 0.5


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_every_short_name_leads_to_a_documented_class(name: str) -> None:
    undocumented = [option.path for option in describe(name) if not option.text]
    assert undocumented == []


@pytest.mark.parametrize("preset", TopoFR.PRESETS)
def test_every_preset_passes_the_checks(preset: str) -> None:
    check(component("TopoFR", preset), "methods.0")


@pytest.mark.parametrize(
    ("class_path", "where", "message"),
    [
        ("ArcFace", "methods.0", "ArcFace is no method"),
        ("TopoFR", "head", "TopoFR is no head"),
        ("collections.OrderedDict", "head", "OrderedDict is no head"),
        ("torch.nn.Identity", "methods.0", "Identity is no method"),
    ],
)
def test_a_class_in_the_wrong_place_is_told_where_it_belongs(
    class_path: str, where: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(Component(class_path=class_path), where)
