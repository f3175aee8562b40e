"""YAML: numbers are numbers, words are words, and nothing is lost in silence."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from topoface.errors import UserError
from topoface.recipe.yaml_files import from_yaml, read_mapping, to_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1e3", 1000.0),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("12", 12),
        ("-3", -3),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("n", "n"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("e4", "e4"),
        ("[1, 2e-1, on]", [1, 0.2, "on"]),
    ],
)
def test_plain_words_mean_what_they_look_like(text: str, value: Any) -> None:
    read = from_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]))
    | st.sampled_from(
        ["on", "null", "1e-4", "5E3", "010", "1:30", "~", "=", "<<", "true", "0x1", ".5", "- a", "a: b"]
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "b", "on", "1e-4"]), inner),
    max_leaves=8,
)


@given(trees)
def test_what_is_written_is_read_back(tree: Any) -> None:
    assert from_yaml(to_yaml(tree), "here") == tree


@pytest.mark.parametrize("word", ["on", "yes", "null", "1e-4", "010", "1:30", "2024-01-01"])
def test_texts_that_look_like_something_else_are_quoted_for_every_reader(word: str) -> None:
    assert yaml.safe_load(to_yaml({"a": word})) == {"a": word}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "r.yaml, line 3: the key 'a' stands twice; "),
        ("a:\n  b: 1\n  b: 1\n", "r.yaml, line 3: the key 'b' stands twice; "),
        ("a: [1\nb: 2\n", "r.yaml, line 2: "),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("[" * 5000, "r.yaml: "),
        ("? [1]\n: 2\n", "r.yaml, line 1: found unhashable key"),
        ("a: \x00", "r.yaml: not readable as YAML"),
    ],
)
def test_bad_yaml_is_one_line_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_yaml(text, "r.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no recipe"),
        (b"- a\n", "holds no recipe"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_mapping(path, "recipe")
