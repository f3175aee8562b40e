"""YAML as recipes are written: safe, and without the surprises of YAML 1.1. Imports no torch.

PyYAML reads ``5e-4`` as text, ``on`` as true, ``010`` as 8 and ``1:30`` as 90, and of two equal keys
silently keeps the last. Here ``5e-4`` is a number, only ``true`` and ``false`` are truth values, and a
key that stands twice is refused. What :func:`to_yaml` writes reads the same here and in any PyYAML.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from topoface.errors import UserError

_INTEGER = r"[-+]?(?:0|[1-9][0-9]*)"
_MEND = "mend the YAML; a text with special signs needs quotes"
_FLOAT = re.compile(
    rf"^(?:{_INTEGER}(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$"
)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in [
    ("null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""]),
    ("bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF")),
    ("int", re.compile(rf"^{_INTEGER}$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
]:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
# The writer keeps PyYAML's patterns too, so that texts such as "on" and "1e-4" are both put in quotes.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def from_yaml(text: str, where: str) -> Any:
    """The tree that ``text`` spells.

    Raises:
        UserError: it is not YAML; ``where`` and the line are named.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(error.problem or "not YAML", f"{where}{line}", _MEND) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"not readable as YAML ({error})", where, _MEND) from error


def to_yaml(tree: Any) -> str:
    """``tree`` as text, keys in the order given."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=4096)


def read_mapping(path: Path, kind: str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        path: the file.
        kind: what it is called in messages, e.g. ``recipe``.

    Raises:
        UserError: it cannot be read, is not YAML, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot be read ({reason})", str(path), f"give a {kind} file") from error
    tree = from_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"holds no {kind}: key: value lines are expected", str(path), f"give a {kind} file")
    return tree
