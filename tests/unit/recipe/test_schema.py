"""Trees against types: what jsonargparse reads leniently is refused, and every message names its path."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from topoface.errors import UserError
from topoface.recipe.schema import REQUIRED, checked, construct, flatten, options_of, type_name


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "kind", "result"),
    [
        (3, int, 3),
        (1, float, 1.0),
        ("null", str, "null"),
        ("null", str | None, "null"),
        ("3", float | str, "3"),
        (None, int | None, None),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        ([1, 2], list[float], [1.0, 2.0]),
        ("on", Literal["on", "off"], "on"),
        ({"a": "1"}, dict[str, Any], {"a": "1"}),
        (["3"], list[Any], ["3"]),
        ("5e-4", Any, "5e-4"),
        ({"class_path": "os.system"}, dict[str, Any], {"class_path": "os.system"}),
        ("RED", Colour, Colour.RED),
        ("auto", float | Literal["auto"], "auto"),
    ],
)
def test_values_of_the_right_type_pass_unchanged(value: Any, kind: Any, result: Any) -> None:
    assert checked(value, kind) == result
    assert type(checked(value, kind)) is type(result)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("3", int),  # strings are not read as YAML once more
        ("5e-4", float),
        ("true", bool),
        ("null", int | None),
        ("[1, 2]", list[int]),
        (["1"], list[int]),
        ({"a": "1"}, dict[str, float]),
        (None, float),  # jsonargparse takes None for "not given"
        (None, str),
        (None, list[int]),
        (True, int),
        (True, Literal[1, 2]),  # since True == 1
        (1, bool),
        (3.0, int),
        (3, str),
        (True, Literal["on", "off"]),
        ([1.0], tuple[float, float]),
        ([None], list[float]),
        ("x", list[str]),
        ([1], dict[str, Any]),
        pytest.param(10**400, float, id="too large for a float"),
    ],
)
def test_what_jsonargparse_would_bend_is_refused(value: Any, kind: Any) -> None:
    with pytest.raises(ValueError):
        checked(value, kind)


def test_a_file_name_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "3.yaml").write_text("3")
    with pytest.raises(ValueError):
        checked("3.yaml", int)


@dataclass(kw_only=True)
class Inner:
    """Inner."""

    size: int = 1
    """How large."""
    factor: float = 0.5


@dataclass(kw_only=True)
class Outer:
    """Outer."""

    name: str
    inner: Inner = field(default_factory=lambda: Inner(size=7))
    maybe: Inner | None = None
    many: list[Inner] = field(default_factory=list)
    pair: tuple[float, float] = (0.0, 1.0)
    free: dict[str, Any] = field(default_factory=dict)


OUTER = list(flatten(options_of(Outer).values()))


def test_a_group_given_in_part_keeps_the_defaults_of_its_owner() -> None:
    built = construct(Outer, {"name": "n", "inner": {"factor": 2}}, "", OUTER)
    assert built.inner == Inner(size=7, factor=2.0)


def test_optional_groups_and_lists_of_groups_are_built() -> None:
    assert construct(Outer, {"name": "n", "maybe": None}, "", OUTER).maybe is None
    assert construct(Outer, {"name": "n", "maybe": {"size": 2}}, "", OUTER).maybe == Inner(size=2)
    assert construct(Outer, {"name": "n", "many": [{}, {"size": 3}]}, "", OUTER).many == [
        Inner(),
        Inner(size=3),
    ]


def test_ready_instances_pass() -> None:
    inner = Inner(size=4)
    assert construct(Outer, {"name": "n", "inner": inner}, "", OUTER).inner is inner


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"name": "n", "many": [{}, {"sise": 3}]}, "many.1.sise: unknown key; did you mean many.1.size?"),
        ({"name": "n", "size": 3}, "size: unknown key; did you mean inner.size?"),
        ({"name": "n", "zzz": 3}, "zzz: unknown key; keys here: name, inner, maybe, many, pair, free"),
        ({"name": "n", 3: 3}, "3: unknown key; keys here: name, inner, maybe, many, pair, free"),
        ({"name": "n", "inner.size": 3}, "inner.size: a key with dots in it; write it as nested groups"),
        (
            {"name": "n", "inner": 3},
            "inner: found 3 where a group of keys is expected; keys here: size, factor",
        ),
        ({"name": "n", "inner": None}, "inner: found null where a group of keys is expected"),
        ({"name": "n", "many": {}}, "many: found {} where a list is expected"),
        ({}, "name: is missing; add it, as in name=VALUE (str)"),
    ],
)
def test_messages_name_the_path_and_the_remedy(tree: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        construct(Outer, tree, "", OUTER)
    assert message in str(caught.value)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(number: float) -> None:
    places = [
        ({"inner": {"factor": number}}, "inner.factor"),
        ({"many": [{}, {"factor": number}]}, "many.1.factor"),
        ({"pair": [0.5, number]}, "pair.1"),
        ({"free": {"scale": number}}, "free.scale"),
        ({"free": {"deep": [{"margin": number}]}}, "free.deep.0.margin"),
    ]
    for tree, path in places:
        with pytest.raises(UserError) as caught:
            construct(Outer, {"name": "n", **tree}, "", OUTER)
        assert str(caught.value) == f"{path}: is {number}; give a finite number"


def test_nested_defaults_are_listed_as_they_will_be() -> None:
    defaults = {option.path: option.default for option in OUTER}
    assert defaults["inner.size"] == 7
    assert defaults["name"] is REQUIRED
    assert next(option.text for option in OUTER if option.path == "inner.size") == "How large."


class Parent:
    """Parent.

    Args:
        first: passed by the program.
        depth: of the parent.
        width: of the parent.
    """

    def __init__(self, first: int, *, depth: int = 1, width: int = 2) -> None: ...


class Child(Parent):
    """Child.

    Args:
        width: of the child.
    """

    def __init__(self, *args: int, width: int = 3, steep: float, **kwargs: int) -> None: ...


def test_forwarded_arguments_are_those_of_the_parent_unless_named_again() -> None:
    options = options_of(Child, positional=1)
    assert {name: option.default for name, option in options.items()} == {
        "width": 3,
        "steep": REQUIRED,
        "depth": 1,
    }
    assert options["width"].text == "of the child."
    assert options["depth"].text == "of the parent."


def test_names_that_the_program_sets_are_no_options() -> None:
    assert set(options_of(Parent, positional=1, skip=["width"])) == {"depth"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (float | None, "float | null"),
        (Literal["a", 1], "a | 1"),
        (list[str], "list[str]"),
        (tuple[float, ...], "tuple[float, ...]"),
        (Sequence[int], "Sequence[int]"),
        (Any, "Any"),
    ],
)
def test_types_are_called_what_a_reader_calls_them(kind: Any, name: str) -> None:
    assert type_name(kind) == name
