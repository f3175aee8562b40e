"""What ``topoface evaluate`` prints: every figure with its interval, how models differ, and what limits the figures."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from topoface.evaluation import Verification
    from topoface.evaluation.all_pairs.judging import AllPairs
    from topoface.evaluation.figures import Figure
    from topoface.evaluation.templates.results import TemplateVerification

    Result = Verification | TemplateVerification | AllPairs


def print_judged(judged: "Mapping[str, Sequence[Result]]") -> None:
    """A table of every figure with its interval and what it rests on; how models differ; what limits the figures."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for model, results in judged.items():
        title = f"{model}: in %, with 95 % intervals over people"
        table = Table(title=title, title_justify="left")
        table.add_column("protocol")
        table.add_column("figure")
        for column in ("value", "95 %", "errors"):
            table.add_column(column, justify="right")
        for result in results:
            errors = _errors(result)
            for row, (name, figure) in enumerate(result.named().items()):
                scale, digits = (1, 4) if name == "min_dcf" else (100, 2)
                low, high = (f"{scale * end:.{digits}f}" for end in figure[1:])
                table.add_row(
                    "" if row else result.name,
                    name,
                    f"{scale * figure.value:.{digits}f}",
                    "" if math.isnan(figure.low) else f"{low} to {high}",
                    errors.get(name, ""),
                )
            table.add_section()
        console.print(table)
        for line in (line for result in results for line in _remarks(result)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    _print_differences(console, judged)


def _errors(result: "Result") -> dict[str, str]:
    """By figure, how many impostor pairs are accepted or strangers raise an alarm, and how many may."""
    found = {f"tar@{p.target:g}": f"{p.false_accepts:,} of {p.allowed:,}" for p in result.tar}
    for search in getattr(result, "searches", ()):
        found |= {
            f"{search.name} tpir@{p.target:g}": f"{p.false_alarms:,} of {p.allowed:,}" for p in search.tpir
        }
    return found


def _remarks(result: "Result") -> list[str]:
    shown = [key for key in ("features", "alignment", "weight of an image") if key in result.contract]
    return [
        *(f"{key}: {result.contract[key]}" for key in shown),
        *(f"{result.name}: {warning}" for warning in result.warnings),
    ]


def _print_differences(console: "Console", judged: "Mapping[str, Sequence[Result]]") -> None:
    """The first model minus each other, in points, where the interval leaves out zero."""
    (first, results), *others = judged.items()
    for other, theirs in others:
        for one, two in zip(results, theirs, strict=True):
            clear = [
                f"{name} {100 * d.value:+.2f} ({100 * d.low:+.2f} to {100 * d.high:+.2f})"
                for name, d in _minus(one, two).items()
                if d.low > 0 or d.high < 0
            ]
            text = "; ".join(clear) or "nothing that chance alone cannot explain"
            console.print(
                f"{first} minus {other} on {one.name}, in points: {text}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _minus(one: "Result", two: "Result") -> "dict[str, Figure]":
    from topoface.evaluation import Verification, compare
    from topoface.evaluation.all_pairs.judging import AllPairs

    if isinstance(one, Verification) and isinstance(two, Verification):
        return compare(one, two)
    if isinstance(one, AllPairs) and isinstance(two, AllPairs):
        return one.minus(two)
    assert not isinstance(one, Verification | AllPairs)
    assert not isinstance(two, Verification | AllPairs)
    return one.minus(two)
