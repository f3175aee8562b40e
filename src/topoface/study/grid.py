"""``topoface study``: a resumable grid of recipes, overrides and seeds, each run a process of its own."""

import itertools
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from topoface.errors import UserError
from topoface.recipe import Recipe
from topoface.recipe.files import find_recipe, load_recipe
from topoface.recipe.schema import construct, flatten, options_of
from topoface.recipe.yaml_files import read_mapping
from topoface.study.results import RunFiles
from topoface.study.runs import PlannedRun, ends_like_ctrl_c, only_one, run_all
from topoface.study.table import write_tables

TRAIN = (sys.executable, "-m", "topoface", "train")


@dataclass(kw_only=True)
class Variant:
    """One line of the table."""

    recipe: str
    """A file (relative to the study or the working folder) or the name of a shipped recipe."""
    overrides: list[str] = field(default_factory=list)
    """Over the recipe, after the overrides for all."""


@dataclass(kw_only=True)
class Study:
    """A grid of runs."""

    name: str
    """Title of the table."""
    folder: str
    """Gets VARIANT/seed_K for each run, table.md and table.csv."""
    baseline: str
    """The variant that all others are compared with."""
    variants: dict[str, Any]
    """Recipe and overrides of each variant by its name."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Of training.seed; each variant runs once with each."""
    overrides: list[str] = field(default_factory=list)
    """For all variants."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Values by recipe key; each variant but the baseline runs with every combination."""
    workers: int = 1
    """Runs at a time."""
    threads: int = 1
    """Threads, and where the system allows it cores, of each run."""

    def __post_init__(self) -> None:
        if self.baseline not in self.variants:
            remedy = f"name one of: {', '.join(map(str, self.variants))}"
            raise UserError(f"is {self.baseline!r}, which is no variant", "baseline", remedy)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"is {self.seeds}", "seeds", "give at least one, each once")
        for key in ("workers", "threads"):
            if getattr(self, key) < 1:
                raise UserError(f"is {getattr(self, key)}", key, "give 1 or more")


def run_study(path: Path, *, dry_run: bool = False, train: Sequence[str] = TRAIN) -> int:
    """Run what is not yet finished and write the tables.

    Args:
        path: the study file.
        dry_run: only say what is finished and what would run.
        train: the command that trains.

    Returns:
        0, or 1 when a run failed; the others go on, and their results are in the tables.

    Raises:
        UserError: the study or one of its recipes cannot work, or a folder holds a run of another recipe.
        KeyboardInterrupt: after CTRL-C, once every running run has saved and the tables are written.
    """
    study = load_study(path)
    runs = plan(study, path)
    for run in runs:
        _refuse_other_recipe(run)
    if dry_run:
        print("\n".join(f"{'finished' if run.files.finished else 'to run':9} {run.name}" for run in runs))
        return 0
    folder = Path(study.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_one(folder), ends_like_ctrl_c("SIGTERM", "SIGHUP"):
            failed = _run_and_tabulate(study, runs, folder, train)
    except OSError as error:
        what = f"cannot be used ({error.strerror})"
        raise UserError(what, str(error.filename or folder), "mend it and run the study again") from error
    print(f"tables: {folder / 'table.md'}, {folder / 'table.csv'}")
    return 1 if failed else 0


def _run_and_tabulate(
    study: Study, runs: Sequence[PlannedRun], folder: Path, train: Sequence[str]
) -> list[str]:
    """Run what is left with one progress line; the tables are renewed after each run. Returns the failed ones."""
    failed: list[str] = []
    waiting = [run for run in runs if not run.files.finished]
    console = Console(stderr=True)
    columns = (TextColumn("study"), BarColumn(), MofNCompleteColumn(), TextColumn("runs"))
    with Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=console) as bar:
        task = bar.add_task(study.name, total=len(runs), completed=len(runs) - len(waiting))

        def tabulate() -> None:
            files = [run.files for run in runs]
            baseline = _file_name(study.baseline)
            write_tables(files, title=study.name, baseline=baseline, failed=failed, folder=folder)

        def ended(run: PlannedRun, reason: str) -> None:
            failed.extend([run.name] if reason else [])
            console.print(
                f"{run.name}: {reason or 'finished'}", markup=False, highlight=False, soft_wrap=True
            )
            bar.advance(task)
            tabulate()

        try:
            run_all(waiting, workers=study.workers, threads=study.threads, train=train, ended=ended)
        finally:
            tabulate()
    return failed


def load_study(path: Path) -> Study:
    """Read and check a study file.

    Raises:
        UserError: like a recipe's, with file and dotted path.
    """
    tree = read_mapping(path, "study")
    try:
        study = construct(Study, tree, "", list(flatten(options_of(Study).values())))
        known = list(flatten(options_of(Variant).values()))
        for name, variant in study.variants.items():
            study.variants[name] = construct(Variant, variant, f"variants.{name}", known)
    except UserError as error:
        raise UserError(error.what, f"{path}: {error.where}", error.remedy) from None
    return study


def plan(study: Study, path: Path) -> list[PlannedRun]:
    """All runs, every variant with the first seed before any with the second, so that partial results are balanced.

    Raises:
        UserError: a recipe or override is wrong, or two variants would share a folder.
    """
    runs = []
    for seed in study.seeds:
        for name, variant in study.variants.items():
            beside = path.parent / variant.recipe
            recipe_file = beside if beside.is_file() else find_recipe(variant.recipe)
            combinations = [()] if name == study.baseline else _combinations(study.grid)
            for combination in combinations:
                settings = [(key, json.dumps(value)) for key, value in combination]
                label = "-".join([name, *(f"{key.rpartition('.')[2]}={text}" for key, text in settings)])
                from_grid = (f"{key}={text}" for key, text in settings)
                overrides = (*study.overrides, *variant.overrides, *from_grid, f"training.seed={seed}")
                folder = Path(study.folder) / _file_name(label) / f"seed_{seed}"
                runs.append(
                    PlannedRun(
                        files=RunFiles(variant=_file_name(label), seed=seed, folder=folder),
                        recipe_file=recipe_file,
                        overrides=overrides,
                        recipe=load_recipe(recipe_file, overrides),
                    )
                )
    folders = [run.files.folder for run in runs]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise UserError(f"two variants would both write {twice}", str(path), "name them apart")
    return runs


def _combinations(grid: dict[str, list[Any]]) -> list[tuple[tuple[str, Any], ...]]:
    return list(itertools.product(*([(key, value) for value in values] for key, values in grid.items())))


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.,=+-]+", "_", label)


def _refuse_other_recipe(run: PlannedRun) -> None:
    """A folder may go on only with the recipe it began with; where it lies does not matter."""
    path = run.files.folder / "recipe.yaml"
    if not path.is_file():
        return
    before, now = (
        {option.path: _value_at(recipe, option.path) for option in flatten(options_of(Recipe).values())}
        for recipe in (load_recipe(path), run.recipe)
    )
    changed = [key for key in now if before[key] != now[key] and key != "run_dir"]
    if changed:
        raise UserError(
            f"was made with another {', '.join(changed)}",
            str(run.files.folder),
            "move it away, or rename the variant",
        )


def _value_at(recipe: Any, path: str) -> Any:
    for name in path.split("."):
        recipe = getattr(recipe, name)
    return recipe
