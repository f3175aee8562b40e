"""``topoface train``, ``demo`` and ``study``: what makes runs."""

import argparse
import os
import sys
from pathlib import Path

from topoface.cli.output import import_from_here, print_figures
from topoface.cli.parsing import Commands
from topoface.errors import UserError

_OVERRIDES = """
Overrides are key=value, the value in YAML; a leading -- is allowed:
  data.train=faces/  optimizer.lr=0.05  evaluation.pairs=[lfw.bin, cfp.bin]  methods=[]
  head.class_path=CosFace  head.init_args.margin=0.4  methods.0.init_args.rsp.xi=0.1
A new class_path drops the init_args of the class before. Arguments of a class: topoface recipes help CLASS.

Fields of a recipe:
"""


def add(commands: Commands) -> None:
    """Add the commands."""
    train = commands.command(
        "train", _train, "Train a model as a recipe says, judge it, write model and report."
    )
    train.add_argument(
        "recipe", metavar="RECIPE", help="a YAML file, or a name that 'topoface recipes' lists"
    )
    train.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="over the recipe: optimizer.lr=0.05")
    train.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="where to write, instead of the recipe's run_dir"
    )
    train.add_argument(
        "--resume", action="store_true", help="continue from the newest checkpoint of the run, if it has one"
    )
    train.add_argument(
        "--accept-changes", action="store_true", help="resume with another recipe or other data, too"
    )
    train.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="several processes: end the run if a step takes longer, and say which one hangs (default 600)",
    )
    train.add_argument("--quiet", action="store_true", help="no progress line")
    train.more_help = _recipe_help

    replay = commands.command(
        "replay", _replay, "Run a step of a run again and print every term: what to look at after a NaN."
    )
    replay.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    replay.add_argument(
        "--step", type=int, metavar="N", help="which, from 0; otherwise the one that stopped the run"
    )

    demo = commands.command(
        "demo", _demo, "Train TopoFR and ArcFace on drawn faces and compare them; no download."
    )
    demo.add_argument(
        "--folder", type=Path, default=Path("runs/demo"), metavar="DIR", help="default runs/demo"
    )

    study = commands.command("study", _study, "Run a grid of recipes and seeds and table the results.")
    study.add_argument("file", metavar="STUDY.yaml", type=Path)
    study.add_argument("--dry-run", action="store_true", help="say what would run")


def _recipe_help() -> str:
    from topoface.recipe import Recipe
    from topoface.recipe.schema import described, flatten, options_of

    return _OVERRIDES + described(flatten(options_of(Recipe).values()))


def _train(arguments: argparse.Namespace) -> int:
    from topoface.recipe.files import open_recipe

    import_from_here()
    loaded = open_recipe(arguments.recipe, arguments.overrides)
    run_dir = arguments.run_dir or Path(loaded.recipe.run_dir.replace("{name}", loaded.name))
    from topoface.functional.allocation import keep_freed_memory
    from topoface.recipe.components import check_recipe
    from topoface.training import train  # brings torch, so after the cheap checks
    from topoface.training.distributed import leave

    try:
        check_recipe(loaded.recipe)
        keep_freed_memory()
        result = train(
            loaded.recipe,
            run_dir=run_dir,
            resume=arguments.resume,
            accept_changes=arguments.accept_changes,
            quiet=arguments.quiet,
            timeout_s=arguments.timeout,
        )
    except UserError as error:
        raise loaded.blame(error) from error
    if result.interrupted:
        print(f"continue with the same command and --resume (run directory {run_dir})", file=sys.stderr)
    if result.judged is not None:  # the first of several processes
        if result.evaluations:
            print_figures(result.evaluations)
        else:
            print("not judged: name verification pairs with evaluation.pairs=[...]")
        _print_places(run_dir)
    code = 130 if result.interrupted else 0
    if "RANK" in os.environ:
        leave(code)
    return code


def _replay(arguments: argparse.Namespace) -> int:
    from topoface.training.replay import replay

    import_from_here()
    replay(arguments.run_dir, step=arguments.step)
    return 0


def _print_places(run_dir: Path) -> None:
    for what, path in (("model", run_dir / "model"), ("report", run_dir / "report.html")):
        if path.exists():
            print(f"{what}: {path}")


def _demo(arguments: argparse.Namespace) -> int:
    from topoface.demo import run_demo

    return 0 if run_demo(arguments.folder) else 130


def _study(arguments: argparse.Namespace) -> int:
    from topoface.study import run_study

    import_from_here()
    return run_study(arguments.file, dry_run=arguments.dry_run)
