"""From a class path and its init_args to a class with checked arguments: heads and methods, ours and yours."""

import difflib
import importlib
import inspect
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any

from topoface.errors import UserError
from topoface.recipe.fields import SHORT_NAMES, Component, Recipe
from topoface.recipe.files import merge
from topoface.recipe.schema import Option, absolute, arguments, flatten, options_of

_FROM_THE_RUN = frozenset({"seed"})
"""Keyword arguments that the program passes, so that no recipe can set them apart from the run."""


def names() -> dict[str, str]:
    """Import path by short name: ours, and those of packages with an entry point in ``topoface.recipe.components``."""
    theirs = {
        point.name: point.value.replace(":", ".") for point in entry_points(group="topoface.components")
    }
    return {**theirs, **SHORT_NAMES}


def resolve(class_path: str, where: str) -> type:
    """The class of that short name or import path.

    Raises:
        UserError: there is none, or its module fails to import; ``where`` names the recipe key.
    """
    known = names()
    full = known.get(class_path, class_path)
    module_name, _, name = full.rpartition(".")
    if not module_name:
        raise UserError(f"there is no class {class_path!r}", where, _meant(class_path, known))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a stranger's module may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{module_name} cannot be imported ({reason})", where, "mend or install it"
        ) from error
    found = getattr(module, name, None)
    if found is None:
        raise UserError(f"{module_name} has no class {name!r}", where, _meant(name, _classes_of(module)))
    if not inspect.isclass(found):
        raise UserError(f"{full} is not a class", where, "give the path of a class")
    return found


def check(component: Component, where: str) -> None:
    """Refuse a component that could not be built, before any data is read.

    Args:
        component: from the recipe.
        where: its dotted path, ``head`` or ``methods.0``.

    Raises:
        UserError: unknown class or preset; a head among the methods or the other way round; unknown,
            missing or ill-typed argument.
    """
    cls = resolve(component.class_path, f"{where}.class_path")
    _require_role(cls, where)
    _checked_arguments(component, cls, where, positional=_from_the_trainer(cls))


def check_recipe(recipe: Recipe) -> None:
    """:func:`check` for the head and every method."""
    check(recipe.head, "head")
    for index, method in enumerate(recipe.methods):
        check(method, f"methods.{index}")


def build(component: Component, where: str, *args: object, **runtime: object) -> Any:
    """An instance: ``Class(*args, **runtime, **init_args)``.

    Args:
        component: from the recipe.
        where: its dotted path, ``head`` or ``methods.0``.
        args: what the trainer passes first: ``embedding_dim, num_classes`` to a head, ``facts`` to a method.
        runtime: keywords that the trainer passes, e.g. ``seed``.

    Raises:
        UserError: like :func:`check`, and what the class itself refuses.
    """
    cls = resolve(component.class_path, f"{where}.class_path")
    _require_role(cls, where)
    values = _checked_arguments(component, cls, where, positional=len(args), skip=runtime)
    try:
        inspect.signature(cls).bind(*args, **runtime, **values)
    except TypeError as error:
        remedy = f"{cls.__name__} must take what the trainer passes: {len(args)} arguments, then {', '.join(runtime)}"
        raise UserError(
            f"cannot be built ({error})", f"{where}.class_path", remedy.removesuffix(", then ")
        ) from error
    try:
        return cls(*args, **runtime, **values)
    except UserError as error:
        raise UserError(error.what, absolute(error.where, f"{where}.init_args"), error.remedy) from error


def describe(class_path: str) -> list[Option]:
    """Every argument that a recipe can give a class, those of nested groups under dotted names.

    Raises:
        UserError: there is no such class.
    """
    cls = resolve(class_path, class_path)
    return list(flatten(options_of(cls, positional=_from_the_trainer(cls), skip=_FROM_THE_RUN).values()))


def presets_of(cls: type) -> dict[str, dict[str, Any]]:
    """The named sets of arguments that a class offers as ``PRESETS``."""
    return dict(getattr(cls, "PRESETS", {}))


def _checked_arguments(
    component: Component, cls: type, where: str, *, positional: int, skip: Iterable[str] = ()
) -> dict[str, Any]:
    options = options_of(cls, positional=positional, skip=_FROM_THE_RUN.union(skip))
    known = list(flatten(options.values(), f"{where}.init_args."))
    arguments(
        options, component.init_args, f"{where}.init_args", known, complete=False
    )  # blame the recipe first
    preset = _preset(component, cls, where)
    # merging an empty map would empty the preset: that is what an explicit {} in a recipe means
    given = merge(preset, component.init_args) if component.init_args else preset
    return arguments(options, given, f"{where}.init_args", known)


def _preset(component: Component, cls: type, where: str) -> dict[str, Any]:
    if component.preset is None:
        return {}
    presets = presets_of(cls)
    if component.preset not in presets:
        remedy = f"give one of: {', '.join(presets)}" if presets else "leave it out"
        raise UserError(f"{cls.__name__} has no preset {component.preset!r}", f"{where}.preset", remedy)
    return presets[component.preset]


def _require_role(cls: type, where: str) -> None:
    """What stands under ``methods`` must be a method, and the head a module that is none."""
    if where.startswith("methods") and not _derives(cls, "topoface.methods.method.Method"):
        remedy = "derive it from topoface.methods.Method; a head stands under head"
        raise UserError(f"{cls.__name__} is no method", f"{where}.class_path", remedy)
    is_head = _derives(cls, "torch.nn.modules.module.Module") and _from_the_trainer(cls) == 2
    if where == "head" and not is_head:
        remedy = "give a torch.nn.Module that returns ClassStatistics; a method stands under methods"
        raise UserError(f"{cls.__name__} is no head", f"{where}.class_path", remedy)


def _from_the_trainer(cls: type) -> int:
    """How many leading arguments the trainer passes: ``facts`` to a method, two sizes to a head."""
    return 1 if _derives(cls, "topoface.methods.method.Method") else 2


def _derives(cls: type, base: str) -> bool:
    """Whether a class of that name is among the bases: by name, so that this file needs neither torch nor methods."""
    return any(f"{parent.__module__}.{parent.__name__}" == base for parent in cls.__mro__)


def _classes_of(module: object) -> list[str]:
    return [name for name, value in vars(module).items() if inspect.isclass(value)]


def _meant(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}known: {', '.join(known)}; or give an import path such as my_package.MyHead"
