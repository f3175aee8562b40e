"""What ``topoface evaluate`` prints: every figure with its interval, how models differ, and what limits the figures."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from topoface.cli.output import plain_console

if TYPE_CHECKING:
    from rich.console import Console

    from topoface.evaluation import Verification
    from topoface.evaluation.all_pairs.judging import AllPairs
    from topoface.evaluation.figures import Figure
    from topoface.evaluation.templates.results import TemplateVerification

    Result = Verification | TemplateVerification | AllPairs


def print_judged(judged: "Mapping[str, Sequence[Result]]") -> None:
    """A table of every figure with its interval and what it rests on; how models differ; what limits the figures."""
    from rich.table import Table

    console = plain_console()
    for model, results in judged.items():
        title = f"{model}: in %"
        if any(math.isfinite(figure.low) for result in results for figure in result.named().values()):
            title += ", with 95 % intervals over people"
        table = Table(title=title, title_justify="left")
        table.add_column("protocol")
        table.add_column("figure")
        for column in ("value", "95 %", "errors"):
            table.add_column(column, justify="right")
        for result in results:
            errors = _errors(result)
            for row, (name, figure) in enumerate(result.named().items()):
                scale, digits = _unit(name)
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
            console.print(line, soft_wrap=True)
    _print_differences(console, judged)


def _unit(name: str) -> tuple[int, int]:
    """What a figure is multiplied by, and its digits: shares are told in per cent, a cost is none."""
    return (1, 4) if name == "min_dcf" else (100, 2)


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
            text = _differences(_minus(one, two))
            console.print(f"{first} minus {other} on {one.name}, in points: {text}", soft_wrap=True)


def _differences(found: "Mapping[str, Figure]") -> str:
    """Those that chance alone cannot explain, among how many; all of them where nobody asked for intervals."""
    looked = {name: d for name, d in found.items() if math.isfinite(d.low)}
    if not looked:
        return "; ".join(_points(name, d) for name, d in found.items()) + "; no interval"
    clear = [_points(name, d) for name, d in looked.items() if d.low > 0 or d.high < 0]
    if not clear:
        return "nothing that chance alone cannot explain"
    of = f"{len(looked)} figures" if len(looked) > 1 else "one figure"
    return f"{'; '.join(clear)}; {len(clear)} of {of} looked at, each with its own 95 % interval"


def _points(name: str, d: "Figure") -> str:
    scale, digits = _unit(name)
    within = f" ({scale * d.low:+.{digits}f} to {scale * d.high:+.{digits}f})" if math.isfinite(d.low) else ""
    return f"{name}{' (no points, a cost)' if scale == 1 else ''} {scale * d.value:+.{digits}f}{within}"


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
