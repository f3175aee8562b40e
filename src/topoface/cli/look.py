"""``topoface recipes`` and ``data``: look at what there is before a run."""

import argparse

from topoface.cli.output import import_from_here
from topoface.cli.parsing import Commands
from topoface.errors import UserError


def add(commands: Commands) -> None:
    """Add the commands."""
    recipes = commands.command(
        "recipes", _recipes, "List the shipped recipes, show one in full, or the arguments of a class."
    )
    recipes.add_argument("action", choices=["list", "show", "help"], nargs="?", default="list")
    recipes.add_argument(
        "name", metavar="NAME", nargs="?", default="", help="recipe to show, class to help with"
    )

    data = commands.command("data", _data, "Look into a source of faces.")
    data.add_argument("action", choices=["info"], help="count images and identities")
    data.add_argument("uri", metavar="URI", help="what data.train takes")


def _recipes(arguments: argparse.Namespace) -> int:
    from topoface.recipe.files import find_recipe, merged_tree, shipped_recipes

    if arguments.action != "list" and not arguments.name:
        raise UserError("NAME is missing", f"topoface recipes {arguments.action}", "name a recipe or class")
    if arguments.action == "list":
        shipped = shipped_recipes()
        width = max(map(len, shipped), default=0)
        for name, path in shipped.items():
            about = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            print(f"{name:{width}}  {about}")
    elif arguments.action == "show":
        from topoface.recipe.yaml_files import to_yaml

        print(to_yaml(merged_tree(find_recipe(arguments.name))[0]), end="")
    else:
        from topoface.recipe.components import describe, presets_of, resolve
        from topoface.recipe.schema import described

        import_from_here()
        print(described(describe(arguments.name)), end="")
        presets = presets_of(resolve(arguments.name, arguments.name))
        if presets:
            print(f"presets: {', '.join(presets)}")
    return 0


def _data(arguments: argparse.Namespace) -> int:
    from topoface.data import open_source
    from topoface.data.info import describe_source

    print("\n".join(describe_source(open_source(arguments.uri)).lines()))
    return 0
