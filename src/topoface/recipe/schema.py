"""Plain trees (what YAML gives) checked against dataclasses and signatures. Imports no torch.

The tree is walked here, so that every message names its dotted path; jsonargparse judges the single
values. It is lenient in ways that would change a recipe in silence (it reads strings as YAML once
more, lets null pass for a number and true for 1, and changes the list it is given), so it gets a copy,
and a value that comes out different is refused.
"""

import copy
import dataclasses
import difflib
import functools
import inspect
import json
import math
import re
import textwrap
import types
import typing
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import docstring_parser
from jsonargparse import ArgumentParser

from topoface.errors import UserError

T = TypeVar("T")
REQUIRED = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One thing that can be set.

    Attributes:
        path: dotted name.
        kind: its type.
        default: its default, or ``REQUIRED``.
        text: what it means, in a sentence.
    """

    path: str
    kind: Any
    default: Any
    text: str


def options_of(cls: type, *, positional: int = 0, skip: Iterable[str] = ()) -> dict[str, Option]:
    """What a dataclass or class can be given, by argument name.

    Args:
        cls: a class. ``**kwargs`` means what the next parent takes, as in ``super().__init__(**kwargs)``.
        positional: how many leading arguments are not options, because the program passes them.
        skip: names that are not options for the same reason.
    """
    options: dict[str, Option] = {}
    fields = {f.name: f for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    texts = _texts(cls)
    for owner in cls.__mro__:
        if "__init__" not in vars(owner):
            continue
        init = vars(owner)["__init__"]
        hints = typing.get_type_hints(owner if fields else init)
        signature = list(inspect.signature(init).parameters.values())[1:]
        passed = [parameter for parameter in signature if parameter.kind in _POSITIONAL][:positional]
        for parameter in signature:
            if parameter in passed or parameter.name in skip or parameter.kind in _VARIADIC:
                continue
            default = parameter.default
            if parameter.name in fields and default is not REQUIRED:
                default = _field_default(fields[parameter.name])
            option = Option(
                path=parameter.name,
                kind=hints.get(parameter.name, Any),
                default=default,
                text=texts.get(parameter.name, ""),
            )
            options.setdefault(parameter.name, option)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature):
            break
    return options


def flatten(options: Iterable[Option], prefix: str = "") -> Iterator[Option]:
    """The options with those of nested dataclasses in their place, each under its full dotted path."""
    for option in options:
        path = f"{prefix}{option.path}"
        nested = nested_dataclass(option.kind)
        if nested is None:
            yield dataclasses.replace(option, path=path)
            continue
        inner = list(options_of(nested).values())
        if isinstance(option.default, nested):
            inner = [dataclasses.replace(o, default=getattr(option.default, o.path)) for o in inner]
        yield from flatten(inner, f"{path}.")


def construct(cls: type[T], tree: object, path: str, known: Iterable[Option], default: T | None = None) -> T:
    """A dataclass from a mapping.

    Args:
        cls: the dataclass.
        tree: the mapping, or a ready instance.
        path: dotted path of ``tree``, for messages.
        known: all options of the document, for suggestions.
        default: the instance whose values stand where ``tree`` has none.

    Raises:
        UserError: with the dotted path as ``where``: unknown or missing key, wrong type, refused value.
    """
    if isinstance(tree, cls):
        return tree
    values = arguments(options_of(cls), tree, path, known, complete=default is None)
    try:
        return cls(**values) if default is None else dataclasses.replace(default, **values)  # type: ignore[type-var]
    except UserError as error:
        raise UserError(error.what, absolute(error.where, path), error.remedy) from error


def arguments(
    options: Mapping[str, Option], tree: object, path: str, known: Iterable[Option], *, complete: bool = True
) -> dict[str, Any]:
    """The values of ``tree``, each checked against its option; see :func:`construct`."""
    if not isinstance(tree, Mapping):
        raise UserError(f"found {shown(tree)} where a group of keys is expected", path, _keys(options))
    prefix = f"{path}." if path else ""
    for key in tree:
        if key not in options:
            raise unknown_key(prefix, str(key), options, known)
    missing = [o for o in options.values() if o.default is REQUIRED and o.path not in tree]
    if missing and complete:
        key = f"{prefix}{missing[0].path}"
        if nested_dataclass(missing[0].kind) is None:
            raise UserError("is missing", key, f"add it, as in {key}=VALUE ({type_name(missing[0].kind)})")
        return arguments(options, {**tree, missing[0].path: {}}, path, known)
    return {key: _convert(options[key], value, f"{prefix}{key}", known) for key, value in tree.items()}


def _convert(option: Option, value: object, path: str, known: Iterable[Option]) -> Any:
    nested = nested_dataclass(option.kind)
    if nested is not None and not (value is None and type(None) in typing.get_args(option.kind)):
        default = option.default if isinstance(option.default, nested) else None
        return construct(nested, value, path, known, default)
    item = typing.get_args(option.kind)[0] if typing.get_origin(option.kind) is list else None
    if item is not None and nested_dataclass(item) is not None:
        if not isinstance(value, list):
            raise UserError(
                f"found {shown(value)} where a list is expected", path, "give a list, [] for none"
            )
        return [construct(item, entry, f"{path}.{index}", known) for index, entry in enumerate(value)]
    for where, number in _not_finite(value, path):
        raise UserError(f"is {number}", where, "give a finite number")
    try:
        return checked(value, option.kind)
    except ValueError:
        found = f"found {shown(value)} where {type_name(option.kind)} is expected"
        raise UserError(found, path, _remedy(option, value)) from None


def checked(value: object, kind: Any) -> Any:
    """``value`` as ``kind``: 1 becomes 1.0 for a float, a list a tuple; nothing else changes.

    Raises:
        ValueError: it is of another type.
    """
    choices = typing.get_args(kind) if _is_union(kind) else (kind,)
    if kind is Any or (value is None and type(None) in choices):
        return value
    if value is None:
        raise ValueError  # jsonargparse takes None for "not given"
    if typing.get_origin(kind) is typing.Literal and type(value) not in map(type, typing.get_args(kind)):
        raise ValueError  # else true passes for 1
    if isinstance(value, str) and str in choices:
        return value  # else "null" becomes None for str | None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        result = parser.parse_object({"value": copy.deepcopy(value)}).value  # it writes into what it is given
    except (ArgumentError, OverflowError, TypeError, ValueError) as error:
        raise ValueError from error
    if _mentions_any(kind):
        return value  # the shape is right; what is inside is nobody's business
    if not _same(value, result):
        raise ValueError
    return result


def _not_finite(value: object, path: str) -> Iterator[tuple[str, float]]:
    """The numbers in a value that are infinite or NaN, each with its path: no setting means them, and no JSON holds them."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    elif isinstance(value, Mapping | list | tuple):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _not_finite(inner, f"{path}.{key}")


def _same(value: Any, result: Any) -> bool:
    """Whether jsonargparse left a value what it was."""
    if isinstance(value, Mapping):
        return isinstance(result, Mapping) and all(_same(value[key], result.get(key)) for key in value)
    if isinstance(value, list | tuple):
        return isinstance(result, list | tuple) and all(map(_same, value, result))
    if isinstance(value, str):  # may become an Enum or a Path, but not what YAML would make of it
        return result is not None and not isinstance(result, bool | int | float | list | tuple | Mapping)
    return isinstance(value, bool) == isinstance(result, bool)


def unknown_key(prefix: str, key: str, siblings: Iterable[str], known: Iterable[Option]) -> UserError:
    """The error for a key that nobody knows, with the one that was probably meant."""
    if "." in key:
        return UserError("a key with dots in it", f"{prefix}{key}", "write it as nested groups")
    close = difflib.get_close_matches(key.lower(), siblings, 1)
    meant = f"{prefix}{close[0]}" if close else next(_elsewhere(key, list(known)), "")
    return UserError("unknown key", f"{prefix}{key}", f"did you mean {meant}?" if meant else _keys(siblings))


def _elsewhere(key: str, known: list[Option]) -> Iterator[str]:
    """Options in other groups whose name is like ``key``, then those whose text speaks of it."""
    names = {option.path.rpartition(".")[2]: option.path for option in reversed(known)}
    yield from (names[name] for name in difflib.get_close_matches(key, names, 1, 0.75))
    phrase = key.replace("_", " ").lower()
    yield from (option.path for option in known if len(phrase) > 3 and phrase in option.text.lower())


def absolute(where: str, path: str) -> str:
    """``where`` as an object at ``path`` reported it, made a full path unless it is one already."""
    first_word = re.split(r"[. ]", where)[0]
    return where if not path or first_word == path.partition(".")[0] else f"{path}.{where}"


def nested_dataclass(kind: Any) -> type | None:
    """The dataclass that ``kind`` is or has among its alternatives."""
    choices = typing.get_args(kind) if _is_union(kind) else (kind,)
    return next((c for c in choices if isinstance(c, type) and dataclasses.is_dataclass(c)), None)


def type_name(kind: Any) -> str:
    """How a type is called in messages and tables: ``float | null``, ``sgd | adamw``, ``list[str]``."""
    if _is_union(kind):
        return " | ".join(type_name(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(str, typing.get_args(kind)))
    if kind in (None, type(None)):
        return "null"
    if typing.get_origin(kind) is not None:
        inner = ", ".join("..." if a is ... else type_name(a) for a in typing.get_args(kind))
        return f"{typing.get_origin(kind).__name__}[{inner}]"
    return getattr(kind, "__name__", str(kind))


def described(options: Iterable[Option]) -> str:
    """The options as text: a line with path, type and default, then what it means."""
    lines = []
    for option in options:
        default = "" if option.default is REQUIRED else f" = {shown(option.default)}"
        required = " (required)" if option.default is REQUIRED else ""
        lines.append(f"  {option.path}: {type_name(option.kind)}{default}{required}")
        lines += textwrap.wrap(option.text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join([*lines, ""])


def shown(value: object, width: int = 60) -> str:
    """A value in messages, as YAML would have it, cut to ``width``."""
    text = json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _mentions_any(kind: Any) -> bool:
    return kind is Any or any(map(_mentions_any, typing.get_args(kind)))


def _keys(names: Iterable[str]) -> str:
    return f"keys here: {', '.join(names) or 'none'}"


def _remedy(option: Option, value: object) -> str:
    if typing.get_origin(option.kind) is typing.Literal:
        close = difflib.get_close_matches(str(value), [str(c) for c in typing.get_args(option.kind)], 1)
        return f"did you mean {close[0]}?" if close else "give one of these"
    if option.kind is bool:
        return "give true or false"
    if option.kind is str:
        return "put it in quotes if it is a text"
    if option.default is REQUIRED or option.default is None or option.default in ([], {}):
        return "give a value of that type"
    return f"the default is {shown(option.default)}"


def _field_default(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


@functools.cache
def _texts(cls: type) -> dict[str, str]:
    """What the docstrings of a class and its parents say about each argument."""
    texts: dict[str, str] = {}
    for owner in cls.__mro__[:-1]:
        for documented in (owner, vars(owner).get("__init__")):
            if documented is None or not hasattr(documented, "__doc__"):
                continue
            for entry in docstring_parser.parse_from_object(documented).params:
                texts.setdefault(entry.arg_name, " ".join((entry.description or "").split()))
    return texts
