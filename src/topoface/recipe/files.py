"""Recipes from files, names and the command line: merge the layers, check the tree, build the dataclasses.

Layers, the later over the earlier: the file that ``base:`` names, the file, the overrides. Maps merge, an
empty map empties, lists replace. Where a layer changes a ``class_path``, the ``init_args`` of the earlier
class are dropped, since an equal name need not mean an equal thing (a margin of ArcFace is an angle, of
CosFace a cosine). Imports no torch.
"""

import copy
import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topoface.errors import UserError
from topoface.recipe.fields import SHORT_NAMES, Recipe
from topoface.recipe.schema import construct, flatten, options_of, shown
from topoface.recipe.yaml_files import from_yaml, read_mapping, to_yaml


@dataclass(frozen=True, kw_only=True)
class LoadedRecipe:
    """A recipe that remembers where each value was said.

    Attributes:
        recipe: the recipe.
        name: the file's name without suffix.
        origins: the file or override that set a dotted path.
    """

    recipe: Recipe
    name: str
    origins: Mapping[str, str]

    def blame(self, error: UserError) -> UserError:
        """The error with the file or override that its dotted path comes from, if it is about the recipe."""
        if error.where.partition(".")[0] not in vars(self.recipe):
            return error
        return UserError(error.what, _origin(self.origins, error.where), error.remedy)


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a file or by the name of a shipped one.

    Args:
        path_or_name: a YAML file, or a name that ``topoface recipes`` lists.
        overrides: ``key=value`` texts such as ``optimizer.lr=0.05``, ``methods=[]``, ``methods.0.init_args.xi=0.1``;
            values are YAML, a leading ``--`` is ignored. The more specific one wins, else the later one.

    Raises:
        UserError: naming the file or override, the dotted path and the remedy.
    """
    return open_recipe(path_or_name, overrides).recipe


def open_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Like :func:`load_recipe`, and tells where each value comes from."""
    path = find_recipe(path_or_name)
    tree, origins = merged_tree(path, overrides)
    return LoadedRecipe(recipe=_build(tree, origins), name=path.stem, origins=origins)


def recipe_from_dict(tree: object, where: str) -> Recipe:
    """A recipe from a plain tree; ``where`` names it in messages."""
    return _build(_spelled_out(tree), {"": where})


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every field written; loading it gives an equal recipe."""
    return to_yaml(dataclasses.asdict(recipe))


def find_recipe(path_or_name: str | Path) -> Path:
    """The file that is meant.

    Raises:
        UserError: there is neither such a file nor such a shipped recipe.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(path_or_name) in shipped:
        return shipped[str(path_or_name)]
    close = difflib.get_close_matches(path.stem, shipped, 1)
    remedy = (
        f"did you mean {close[0]}?"
        if close
        else f"give a file or one of: {', '.join(shipped) or 'none shipped'}"
    )
    raise UserError("there is no such recipe", str(path_or_name), remedy)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name; files that begin with _ are bases of others."""
    package = Path(__file__).parents[1]
    folder = package / "_recipes"  # of an installed wheel; a checkout has them at its root
    if not folder.is_dir():
        folder = package.parents[1] / "recipes"
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("[!_]*.yaml"))
    }


def merged_tree(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """The plain tree of a recipe file with its bases and overrides, unchecked, and who set which path."""
    tree: Any = {}
    origins = {"": str(path)}
    for file, layer in _files(path):
        if not layer:  # a file with nothing but base:, which an empty map would empty
            continue
        layer = _spelled_out(layer)
        tree = merge(tree, layer)
        origins.update(dict.fromkeys(_paths(layer), str(file)))
    for text, keys, value in sorted(map(_parsed, overrides), key=_specificity):
        tree = _spelled_out(_override(tree, keys, value, text))
        key = ".".join(keys)
        if not isinstance(value, Mapping):  # what stood there is replaced whole
            origins = {path: said for path, said in origins.items() if not path.startswith(f"{key}.")}
        origins |= dict.fromkeys([key, *_paths(value, key)], text)
    return tree, origins


def _build(tree: object, origins: Mapping[str, str]) -> Recipe:
    try:
        return construct(Recipe, tree, "", list(flatten(options_of(Recipe).values())))
    except UserError as error:
        raise UserError(error.what, _origin(origins, error.where), error.remedy) from None


def _files(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The file and its bases, the deepest first."""
    layers: list[tuple[Path, dict[str, Any]]] = []
    following: Path | None = path
    while following is not None:
        if any(following.resolve() == seen.resolve() for seen, _ in layers):
            raise UserError(f"base: leads back to {following}", str(path), "let one of the files stand alone")
        layer = read_mapping(following, "recipe")
        layers.append((following, layer))
        base = layer.pop("base", None)
        if base is not None and not isinstance(base, str):
            raise UserError(f"base: is {shown(base)}", str(following), "give one file, relative to this one")
        following = None if base is None else _base_file(following, base)
    return layers[::-1]


def _base_file(path: Path, base: str) -> Path:
    beside = path.parent / base
    if beside.is_file():
        return beside
    try:
        return find_recipe(base)
    except UserError as error:
        raise UserError(
            f"base: {base} is not there", str(path), f"{error.remedy} (files: relative to this one)"
        ) from None


def merge(earlier: Any, later: Any) -> Any:
    """``later`` over ``earlier``; maps merge, an empty map empties, a new class starts afresh."""
    if not (isinstance(earlier, Mapping) and isinstance(later, Mapping) and later):
        return copy.deepcopy(later)
    if "class_path" in later and _full_name(later["class_path"]) != _full_name(earlier.get("class_path")):
        earlier = {}
    return {**earlier, **{key: merge(earlier.get(key), value) for key, value in later.items()}}


def _full_name(class_path: Any) -> Any:
    return SHORT_NAMES.get(class_path, class_path) if isinstance(class_path, str) else class_path


def _spelled_out(tree: Any) -> Any:
    """``head: CosFace`` as ``head: {class_path: CosFace}``, and the same in ``methods``."""
    if not isinstance(tree, Mapping):
        return tree

    def component(value: Any) -> Any:
        return {"class_path": value} if isinstance(value, str) else value

    result = dict(tree)
    if "head" in result:
        result["head"] = component(result["head"])
    if isinstance(result.get("methods"), list):
        result["methods"] = [component(method) for method in result["methods"]]
    return result


def _parsed(text: str) -> tuple[str, list[str], Any]:
    """An override as (its text, the parts of its key, its value)."""
    key, equals, value = text.removeprefix("--").partition("=")
    if not equals or not all(key.split(".")):
        raise UserError("not an override", text, "write key=value, e.g. optimizer.lr=0.05")
    text = text.removeprefix("--")
    tree = from_yaml(value, text)
    plain = isinstance(tree, str) and value.strip()[0] not in "'\"|>!&"
    return (
        text,
        key.split("."),
        value.strip() if plain else tree,
    )  # a # in a plain text begins no comment here


def _specificity(override: tuple[str, list[str], Any]) -> tuple[int, bool]:
    """Groups before what is in them, a class before its arguments: the order given does not matter there."""
    _, keys, _ = override
    return len(keys), keys[-1] != "class_path"


def _override(tree: Any, keys: Sequence[str], value: Any, text: str) -> Any:
    if not keys:
        return merge(tree, value)
    key, rest = keys[0], keys[1:]
    if isinstance(tree, list):
        if not (key.isdecimal() and int(key) < len(tree)):
            raise UserError(f"there is no entry {key!r} in a list of {len(tree)}", text, "count from 0")
        changed = list(tree)
        changed[int(key)] = _override(tree[int(key)], rest, value, text)
        return changed
    if not isinstance(tree, Mapping | None):
        raise UserError(f"there is no {key!r} inside of {shown(tree)}", text, "set the whole value")
    group = tree or {}
    return merge(group, {key: _override(group.get(key), rest, value, text)})


def _paths(tree: Any, prefix: str = "") -> Iterator[str]:
    """The dotted path of everything in a tree."""
    entries = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        path = f"{prefix}.{key}" if prefix else str(key)
        yield path
        yield from _paths(value, path)


def _origin(origins: Mapping[str, str], path: str) -> str:
    """Who said what stands at ``path``, and the path unless that one's text begins with it."""
    nearest = path
    while nearest not in origins:
        nearest = nearest.rpartition(".")[0]
    source = origins[nearest]
    return source if not path or source.startswith(f"{path}=") else f"{source}: {path}"
