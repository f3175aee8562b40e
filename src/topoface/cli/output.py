"""What several commands print: tables of figures and progress bars; and where recipes' own classes are found."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from topoface.evaluation import Verification


def import_from_here() -> None:
    """Let recipes name classes in modules of the working folder, as ``python -m topoface`` does anyway."""
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))


def plain_console(*, stderr: bool = False) -> "Console":
    """Prints what users named as they named it: ``[b]`` in the name of a file or column is no style, and ``:smile:`` no picture."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_figures(results: "Sequence[Verification]") -> None:
    """A table of every figure with its interval, and the warnings below it."""
    from rich.table import Table

    table = Table(title="verification, with 95 % intervals over identities", title_justify="left")
    table.add_column("protocol")
    table.add_column("figure")
    table.add_column("%", justify="right")
    table.add_column("95 %", justify="right")
    console = plain_console()
    for result in results:
        figures = (result.accuracy, result.auc, result.eer, *(point.tar for point in result.tar))
        for row, (name, figure) in enumerate(zip(result.summary(), figures, strict=True)):
            interval = "" if math.isnan(figure.low) else f"{100 * figure.low:.2f} to {100 * figure.high:.2f}"
            table.add_row("" if row else result.name, name, f"{100 * figure.value:.2f}", interval)
        table.add_section()
    console.print(table)
    for result in results:
        for warning in result.warnings:
            console.print(f"{result.name}: {warning}", soft_wrap=True)


def show_progress(bar: "Progress", task: "TaskID", done: int, total: int) -> None:
    """Move a bar: images done, images in all."""
    bar.update(task, completed=done, total=total)


def image_progress() -> "Progress":
    """Bar with count, rate and time left on the terminal's error stream."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    what = TextColumn("{task.description}", markup=False)
    columns = (what, BarColumn(), MofNCompleteColumn(), TextColumn("images"))
    return Progress(*columns, TimeRemainingColumn(), console=plain_console(stderr=True), transient=True)
