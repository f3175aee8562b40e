"""The command line, thin: it parses, calls and prints. ``topoface --help`` imports nothing heavy."""

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import topoface
from topoface.errors import UserError, missing_extra
from topoface.files import write_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from topoface.evaluation import Verification

_OVERRIDES = """
Overrides are key=value, the value in YAML; a leading -- is allowed:
  data.train=faces/  optimizer.lr=0.05  evaluation.pairs=[lfw.bin, cfp.bin]  methods=[]
  head.class_path=CosFace  head.init_args.margin=0.4  methods.0.init_args.rsp.xi=0.1
A new class_path drops the init_args of the class before. Arguments of a class: topoface recipes help CLASS.

Fields of a recipe:
"""


class _Parser(argparse.ArgumentParser):
    """Argparse whose mistakes are one line like all others, and whose help may have a part made on demand."""

    more_help: Callable[[], str] = staticmethod(lambda: "")

    def error(self, message: str) -> NoReturn:
        raise UserError(message, self.prog, f"see {self.prog} --help")

    def format_help(self) -> str:
        return super().format_help() + self.more_help()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0, 1 (some run of a study failed), 2 (a mistake that the user can mend), 130 (CTRL-C).
    """
    # Threads of torch's OpenMP spin 300,000 rounds for work, and whoever shares the cores waits for them: beside one
    # busy process a training step took three to eight times as long. A short spin costs a tenth on idle cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        arguments = _parsed(argv)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f"topoface: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("topoface: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, head or less, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    arguments, unknown = _parser().parse_known_args(argv)
    if arguments.command == "train":  # argparse knows neither overrides with -- nor those behind an option
        arguments.overrides += unknown
    elif unknown:
        where = f"topoface {arguments.command}"
        raise UserError(f"unknown argument {unknown[0]}", where, f"see {where} --help")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="topoface", description=topoface.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"topoface {topoface.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> _Parser:
        made: _Parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(run=run)
        return made

    train = command("train", _train, "Train a model as a recipe says, judge it, write model and report.")
    train.add_argument(
        "recipe", metavar="RECIPE", help="a YAML file, or a name that 'topoface recipes' lists"
    )
    train.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="over the recipe: optimizer.lr=0.05")
    train.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="where to write, instead of the recipe's run_dir"
    )
    train.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of the run")
    train.add_argument("--quiet", action="store_true", help="no progress line")
    train.more_help = _recipe_help

    evaluate = command("evaluate", _evaluate, "Judge a model on verification pairs.")
    evaluate.add_argument(
        "model", metavar="MODEL", help="a model directory, or a state dict of arcface_torch (.pt)"
    )
    evaluate.add_argument(
        "protocols",
        metavar="PROTOCOL",
        nargs="+",
        help="what evaluation.pairs takes: a .bin, a manifest, IMAGES::PAIRS",
    )
    evaluate.add_argument("--report", type=Path, metavar="FILE", help="also write an HTML report")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write every figure as JSON")
    evaluate.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="replicates (default 1000; 0: none)"
    )
    evaluate.add_argument("--no-flip", action="store_true", help="do not average with the mirrored image")

    demo = command("demo", _demo, "Train TopoFR and ArcFace on drawn faces and compare them; no download.")
    demo.add_argument(
        "--folder", type=Path, default=Path("runs/demo"), metavar="DIR", help="default runs/demo"
    )

    recipes = command(
        "recipes", _recipes, "List the shipped recipes, show one in full, or the arguments of a class."
    )
    recipes.add_argument("action", choices=["list", "show", "help"], nargs="?", default="list")
    recipes.add_argument(
        "name", metavar="NAME", nargs="?", default="", help="recipe to show, class to help with"
    )

    data = command("data", _data, "Look into a source of faces.")
    data.add_argument("action", choices=["info"], help="count images and identities")
    data.add_argument("uri", metavar="URI", help="what data.train takes")

    study = command("study", _study, "Run a grid of recipes and seeds and table the results.")
    study.add_argument("file", metavar="STUDY.yaml", type=Path)
    study.add_argument("--dry-run", action="store_true", help="say what would run")
    return parser


def _recipe_help() -> str:
    from topoface.recipe import Recipe
    from topoface.recipe.schema import described, flatten, options_of

    return _OVERRIDES + described(flatten(options_of(Recipe).values()))


def _train(arguments: argparse.Namespace) -> int:
    from topoface.recipe.files import open_recipe

    _import_from_here()
    loaded = open_recipe(arguments.recipe, arguments.overrides)
    run_dir = arguments.run_dir or Path(loaded.recipe.run_dir.replace("{name}", loaded.name))
    from topoface.recipe.components import check_recipe
    from topoface.training import train  # brings torch, so after the cheap checks

    try:
        check_recipe(loaded.recipe)
        result = train(loaded.recipe, run_dir=run_dir, resume=arguments.resume, quiet=arguments.quiet)
    except UserError as error:
        raise loaded.blame(error) from error
    if result.interrupted:
        print(f"continue with the same command and --resume (run directory {run_dir})", file=sys.stderr)
        return 130
    if result.judged is not None:  # the first of several processes
        if result.evaluations:
            _print_figures(result.evaluations)
        else:
            print("not judged: name verification pairs with evaluation.pairs=[...]")
        _print_places(run_dir)
    return 0


def _print_places(run_dir: Path) -> None:
    for what, path in (("model", run_dir / "model"), ("report", run_dir / "report.html")):
        if path.exists():
            print(f"{what}: {path}")


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.bootstrap < 0:
        raise UserError(f"is {arguments.bootstrap}", "--bootstrap", "give 0 for none, or more")
    for out in (arguments.json, arguments.report):
        if out and not out.resolve().parent.is_dir():
            raise UserError("is in no folder that exists", str(out), "make the folder first")
    if arguments.report and not (find_spec("jinja2") and find_spec("matplotlib")):
        raise missing_extra("matplotlib", "report", "--report")
    from topoface.evaluation import open_protocol, verify
    from topoface.models import load
    from topoface.training.distributed import choose_device

    protocols = [open_protocol(uri) for uri in arguments.protocols]
    device = choose_device("auto")
    print(f"judging on {device}", file=sys.stderr)
    model = load(arguments.model, device=device)
    results = []
    with _progress() as bar:
        for protocol in protocols:
            show = partial(_show, bar, bar.add_task(protocol.name, total=None))
            flip = not arguments.no_flip
            results.append(
                verify(model.embed, protocol, flip=flip, bootstrap=arguments.bootstrap, progress=show)
            )
    _print_figures(results)
    if arguments.json:
        write_text(arguments.json, json.dumps([result.to_json() for result in results], indent=1))
    if arguments.report:
        from topoface.evaluation.report import ModelEntry, ReportInput, write_report

        write_report(
            arguments.report,
            ReportInput(
                title=f"{Path(arguments.model).name} on {', '.join(result.name for result in results)}",
                models=[ModelEntry(name=Path(arguments.model).name, verifications=results)],
                command=shlex.join(["topoface", "evaluate", arguments.model, *arguments.protocols]),
            ),
        )
    return 0


def _show(bar: "Progress", task: "TaskID", done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _progress() -> "Progress":
    """Bar with count, rate and time left on the terminal's error stream."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("images"))
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)


def _demo(arguments: argparse.Namespace) -> int:
    from topoface.demo import run_demo

    return 0 if run_demo(arguments.folder) else 130


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

        _import_from_here()
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


def _study(arguments: argparse.Namespace) -> int:
    from topoface.study import run_study

    _import_from_here()
    return run_study(arguments.file, dry_run=arguments.dry_run)


def _import_from_here() -> None:
    """Let recipes name classes in modules of the working folder, as ``python -m topoface`` does anyway."""
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))


def _print_figures(results: "Sequence[Verification]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="verification, with 95 % intervals over identities", title_justify="left")
    table.add_column("protocol")
    table.add_column("figure")
    table.add_column("%", justify="right")
    table.add_column("95 %", justify="right")
    console = Console()
    for result in results:
        figures = (result.accuracy, result.auc, result.eer, *(point.tar for point in result.tar))
        for row, (name, figure) in enumerate(zip(result.summary(), figures, strict=True)):
            interval = "" if math.isnan(figure.low) else f"{100 * figure.low:.2f} to {100 * figure.high:.2f}"
            table.add_row("" if row else result.name, name, f"{100 * figure.value:.2f}", interval)
        table.add_section()
    console.print(table)
    for result in results:
        for warning in result.warnings:
            console.print(f"{result.name}: {warning}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
