"""``topoface topology sweep`` (figure 6 of TopoFR): a study over one or two settings, and its grid as a picture."""

import itertools
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topoface.diagnostics.page import Page, Picture, Section, Table, check_out, write_page
from topoface.diagnostics.topology.sweep_plots import Cell, Values, draw_heat_map, draw_lines, short
from topoface.errors import UserError
from topoface.study import load_study, plan, run_study
from topoface.study.grid import Study
from topoface.study.results import Interval, RunFiles, compare, reading

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRIC = "accuracy"
TUNING = (
    "Choosing a setting because it is best on these pairs would be tuning on the test set: choose on pairs of other people, "
    "then judge the chosen one here."
)


@dataclass(frozen=True, kw_only=True)
class _Swept:
    """One variant on one protocol.

    Attributes:
        variant: its name in the study.
        protocol: name.
        cells: one a setting, the last key running fastest.
        baseline: the figure of each finished run of the baseline.
        warnings: what limits the protocol's figures.
    """

    variant: str
    protocol: str
    cells: Sequence[Cell]
    baseline: Sequence[float]
    warnings: Sequence[str]


def sweep(file: Path, *, out: Path, run: Callable[[Path], int] = run_study) -> int:
    """Run what is not yet finished of a study over one or two keys, and draw its accuracies.

    Args:
        file: a study whose ``grid`` has one or two keys.
        out: gets ``sweep.html``, ``sweep.json`` and the pictures.
        run: runs the study; returns 1 if a run failed.

    Returns:
        0, or 1 when a run failed; the others are drawn, and its cell rests on fewer seeds or is empty.

    Raises:
        UserError: the study cannot work, its grid has no or too many keys, or a folder cannot be written.
        KeyboardInterrupt: after CTRL-C, once every running run has saved; the same command goes on.
    """
    check_out(out)
    study = load_study(file)
    _check(study, file)
    code = run(file)
    runs = _finished(study, file)
    swept = _swept(study, runs)
    if not swept:
        print("no run that is judged on pairs has finished: there is nothing to draw")
        return code or 1
    expected = len(plan(study, file))
    finished = sum(map(len, runs.values()))
    lead = [f"{expected - finished} of {expected} runs have not finished." if finished < expected else ""]
    lead += [_in_words(each, study.baseline) for each in swept]
    page = Page(
        name="sweep",
        title=f"Sweep: {study.name}",
        lead=" ".join([*filter(None, lead), TUNING]),
        sections=[_section(each, study) for each in swept],
        numbers={"grid": study.grid, "baseline": study.baseline, "swept": [_numbers(each) for each in swept]},
        facts={
            "study": str(file),
            "runs": f"{finished} of {expected} finished, in {study.folder}",
            "grid": "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in study.grid.items()),
            "training seeds": ", ".join(map(str, study.seeds)),
            "overrides for all": ", ".join(study.overrides) or "none",
            "every figure": f"{Path(study.folder) / 'table.md'} (TAR at FAR, AUC, EER, cost)",
        },
        command="topoface topology sweep " + shlex.join([str(file), "--out", str(out)]),
    )
    path = write_page(out, page)
    print(page.lead)
    print(f"page: {path}")
    return code


def _check(study: Study, file: Path) -> None:
    if not 1 <= len(study.grid) <= 2:
        remedy = "name one or two recipe keys with their values; topoface study runs any grid"
        raise UserError(f"has {len(study.grid)} keys", f"{file}: grid", remedy)
    for key, values in study.grid.items():
        if len(values) < 2:
            raise UserError(f"has {len(values)} values", f"{file}: grid.{key}", "give two or more")
    if len(study.variants) < 2:
        remedy = "add a variant: the grid is laid over all but the baseline"
        raise UserError("holds the baseline only", f"{file}: variants", remedy)


def _finished(study: Study, file: Path) -> dict[tuple[str, Values], list[RunFiles]]:
    """The finished runs by variant and values of the grid, which are none for the baseline; the order is `plan`'s."""
    slots: list[tuple[str, Values]] = [
        (name, values)
        for name in study.variants
        for values in ([()] if name == study.baseline else itertools.product(*study.grid.values()))
    ]
    runs: dict[tuple[str, Values], list[RunFiles]] = {(name, _key(values)): [] for name, values in slots}
    for (name, values), planned in zip(slots * len(study.seeds), plan(study, file), strict=True):
        if planned.files.finished:
            runs[name, _key(values)].append(planned.files)
    return runs


def _key(values: Values) -> Values:
    """Values of a grid may be lists, which are no keys."""
    return tuple(str(value) for value in values)


def _swept(study: Study, runs: Mapping[tuple[str, Values], Sequence[RunFiles]]) -> list[_Swept]:
    judged = [run for some in runs.values() for run in some]
    warnings = {name: said for run in judged for name, said in run.warnings().items()}

    def on(protocol: str, variant: str, values: Values) -> list[RunFiles]:
        return [run for run in runs[variant, values] if protocol in run.figures()]

    def figures(some: Sequence[RunFiles], protocol: str) -> list[float]:
        return [run.figures()[protocol][METRIC].value for run in some]

    swept = []
    for protocol, variant in itertools.product(warnings, study.variants):
        if variant == study.baseline:
            continue
        baseline = on(protocol, study.baseline, ())
        cells = []
        for values in itertools.product(*study.grid.values()):
            own = on(protocol, variant, _key(values))
            compared = compare(own, baseline, protocol, METRIC)
            cells.append(Cell(values=values, seeds=figures(own, protocol), compared=compared))
        swept.append(
            _Swept(
                variant=variant,
                protocol=protocol,
                cells=cells,
                baseline=figures(baseline, protocol),
                warnings=warnings[protocol],
            )
        )
    return swept


# --- words ---------------------------------------------------------------------------------------------


def _in_words(swept: _Swept, baseline: str) -> str:
    means = [cell.compared.mean for cell in swept.cells if cell.seeds]
    where = f"{swept.variant} on {swept.protocol}: "
    if not means:
        return f"{where}no setting has finished."
    known = f" ({baseline}: {np.mean(swept.baseline):.1%})" if swept.baseline else ""
    words = f"{where}accuracy {min(means):.1%} to {max(means):.1%} over {len(means)} settings{known}"
    varied = [np.var(cell.seeds, ddof=1) for cell in swept.cells if len(cell.seeds) > 1]
    if not varied:
        return f"{words}; one seed each, so nothing can be said."
    distinct = sum(cell.distinct for cell in swept.cells)
    return (
        f"{words}; seeds of one setting deviate by {100 * math.sqrt(np.mean(varied)):.1f} points. {distinct} of {len(means)} can "
        f"be told from {baseline}; by chance alone up to about {max(1, math.ceil(0.05 * len(means)))} would."
    )


def _section(swept: _Swept, study: Study) -> Section:
    """Pictures and table of one variant on one protocol."""
    prefix = re.sub(r"\W+", "_", f"{swept.variant}_{swept.protocol}")

    def lines(axes: "Axes") -> None:
        draw_lines(axes, study.grid, swept.cells, swept.baseline, study.baseline)

    def heat_map(axes: "Axes") -> None:
        draw_heat_map(axes, study.grid, swept.cells)

    pictures = [
        Picture(
            name=f"{prefix}_lines",
            draw=lines,
            caption=f"Accuracy over {short(list(study.grid)[-1])}. Small dots: seeds; bars: 95 % t-intervals of their mean. Dashed: "
            f"{study.baseline}, with its interval as a band and its seeds at the left. The axis does not start at 0, and its values "
            "stand equally far apart.",
        )
    ]
    if len(study.grid) == 2:
        about = Picture(
            name=f"{prefix}_map",
            draw=heat_map,
            caption=f"Accuracy minus {study.baseline} in points, with its 95 % t-interval over the seeds. Blue is higher, red lower; "
            "bold where neither the interval over seeds nor the one over identities covers zero. The colours are no stronger than the "
            "differences are beside their intervals.",
        )
        pictures.insert(0, about)
    return Section(
        title=f"{swept.variant} on {swept.protocol}",
        text="Many settings are compared here, and the largest of many is large by luck too.",
        pictures=pictures,
        table=Table(
            header=[*map(short, study.grid), "seeds", "accuracy, %", "over seeds", f"minus {study.baseline}", "over seeds",
                    "over identities", "reading"],
            rows=[_row(cell) for cell in swept.cells],
            caption=" ".join(["Intervals 95 %. Differences in points, paired by seed and by people.", *swept.warnings]),
        ),
    )  # fmt: skip


def _row(cell: Cell) -> list[str]:
    c = cell.compared
    return [
        *map(str, cell.values),
        str(c.seeds),
        "" if math.isnan(c.mean) else f"{100 * c.mean:.2f}",
        _span(c.over_seeds),
        "" if math.isnan(c.difference) else f"{100 * c.difference:+.2f}",
        _span(c.difference_over_seeds),
        _span(c.difference_over_identities),
        reading(c) if cell.seeds else "no run has finished",
    ]


def _span(interval: Interval) -> str:
    low, high = interval
    return "" if math.isnan(low) else f"{100 * low:.2f} to {100 * high:.2f}"


def _numbers(swept: _Swept) -> dict[str, Any]:
    return {
        "variant": swept.variant,
        "protocol": swept.protocol,
        "metric": METRIC,
        "baseline_by_seed": swept.baseline,
        "cells": [
            {
                "values": list(cell.values),
                "by_seed": cell.seeds,
                **cell.compared._asdict(),
                "reading": reading(cell.compared),
            }
            for cell in swept.cells
        ],
    }
