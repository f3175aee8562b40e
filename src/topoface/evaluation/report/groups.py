"""The report's sections on groups: tables, dots with intervals, and a map of false matches between groups."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from topoface.evaluation.figures import Figure
from topoface.evaluation.groups.figures import (
    ENOUGH,
    MEANING,
    GroupedFigures,
    GroupJudgement,
    GroupTable,
    Rate,
    spread_in_words,
)
from topoface.evaluation.report import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RATES = {"fmr": "FMR", "fnmr": "FNMR"}
HUE = "#c8562b"
MARKERS = "osD^v"


def group_sections(models: Mapping[str, Sequence[GroupJudgement]]) -> list[dict[str, Any]]:
    """One section a protocol, by the models that were judged on it."""
    by_protocol: dict[str, dict[str, GroupJudgement]] = {}
    for model, judgements in models.items():
        for judgement in judgements:
            by_protocol.setdefault(judgement.protocol, {})[model] = judgement
    colours = plots.colour_of(list(models))
    return [_section(name, judged, colours) for name, judged in by_protocol.items()]


def _section(name: str, judged: Mapping[str, GroupJudgement], colours: Mapping[str, str]) -> dict[str, Any]:
    main = next(iter(judged.values()))
    return {
        "name": name,
        "judged": judged,
        "main": main,
        "colours": colours,
        "meaning": MEANING,
        "attributes": [
            _attribute({model: judgement.attributes[k] for model, judgement in judged.items()}, main, colours)
            for k in range(len(main.attributes))
        ],
    }


def _attribute(
    found: Mapping[str, GroupedFigures], main: GroupJudgement, colours: Mapping[str, str]
) -> dict[str, Any]:
    first = next(iter(found.values()))
    shown = {model: figures.tables[main.shown] for model, figures in found.items()}
    others = [
        {model: figures.tables[k] for model, figures in found.items()}
        for k in range(len(first.tables))
        if k != main.shown
    ]
    return {
        "name": first.name,
        "rule": first.rule,
        "ungrouped": first.ungrouped,
        "table": _table(shown),
        "others": [_table(tables) for tables in others],
        "warnings": next(iter(shown.values())).warnings,
        "words": {
            model: [(RATES[rate], spread_in_words(spread)) for rate, spread in table.spreads.items()]
            for model, table in shown.items()
        },
        "beside": {
            model: [(row.name, [_points(row.fmr), _points(row.fnmr)]) for row in figures.beside]
            for model, figures in found.items()
            if figures.beside
        },
        "dots": _dots(shown, colours),
        "maps": {model: _map(table, first.labels) for model, table in shown.items() if table.map},
    }


def _dots(tables: Mapping[str, GroupTable], colours: Mapping[str, str]) -> list[tuple[str, str]]:
    """Name of the rate and SVG: a row for each group, a dot with its interval for each model."""
    rows = [cell.name for cell in next(iter(tables.values())).rows]
    drawn = []
    for rate, name in RATES.items():
        of_model = {m: [getattr(cell, rate) for cell in table.rows] for m, table in tables.items()}
        if not any(found.pairs for rates in of_model.values() for found in rates):
            continue
        overall = {model: getattr(table, rate) for model, table in tables.items()}

        def draw(axes: "Axes", of_model: Any = of_model, overall: Any = overall, name: str = name) -> None:
            for number, (model, rates) in enumerate(of_model.items()):
                at = np.arange(len(rows)) + (number - (len(of_model) - 1) / 2) * 0.22
                value, low, high = 100 * np.array([found.rate for found in rates]).T
                colour = colours[model]
                axes.hlines(at, low, high, color=colour, linewidth=4, alpha=0.35)
                marker, label = MARKERS[number % len(MARKERS)], plots.plain(model)
                axes.plot(value, at, marker, color=colour, markersize=6, label=label)
                axes.axvline(100 * overall[model], color=colour, linewidth=1, linestyle=(0, (3, 2)))
            axes.set_yticks(range(len(rows)), [_short(row, 22) for row in rows])
            axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"{name} in %")
            axes.set_xlim(left=0)
            axes.grid(visible=False, axis="y")
            if len(of_model) > 1:
                plots.legend_in_columns(axes, 1)

        height = 1.1 + 0.34 * len(rows) + (0.24 * len(tables) if len(tables) > 1 else 0)
        drawn.append((name, plots.render(draw, size=(plots.WIDTH, height))[0]))
    return drawn


def _map(table: GroupTable, labels: tuple[str, ...]) -> str:
    """False match rates between every two groups: the number in per cent, the colour by how far it is above the target."""
    size = len(labels)
    values = {cell.groups: cell.fmr for cell in table.map}
    target = 100 * table.target

    def draw(axes: "Axes") -> None:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.patches import Rectangle

        shades = LinearSegmentedColormap.from_list("", ["#ffffff", HUE])
        for (first, second), found in values.items():
            for x, y in {
                (labels.index(first), labels.index(second)),
                (labels.index(second), labels.index(first)),
            }:
                # White where the rate is a tenth of the target, full at ten times.
                depth = 0.5 + np.log10(max(100 * found.rate.value / target, 1e-9)) / 2 if found.pairs else 0.0
                colour = shades(float(np.clip(depth, 0, 1))) if found.pairs else plots.SHADE
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
                few = "*" if 0 < found.pairs * table.target < ENOUGH * (1 - 1e-9) else ""
                text = f"{100 * found.rate.value:.2g}{few}" if found.pairs else "–"
                axes.text(
                    x, y, text, ha="center", va="center", fontsize=min(11.0, 66 / size),
                    color="white" if depth > 0.75 else plots.INK,
                )  # fmt: skip
        names = [_short(label, 12) for label in labels]
        axes.set_xticks(
            range(size), names, rotation=35 if size > 3 else 0, ha="right" if size > 3 else "center"
        )
        axes.set_yticks(range(size), names)
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(False)

    return plots.render(draw, size=(plots.WIDTH, 0.9 + min(0.62 * size, 4.0)))[0]


def _short(text: str, most: int) -> str:
    return plots.plain(text if len(text) <= most else f"{text[: most - 1]}…")


def _table(tables: Mapping[str, GroupTable]) -> dict[str, Any]:
    """What stands in a table: target, and for each group a name and its rates of each model."""
    every = list(tables.values())
    lines = [
        (
            every[0].rows[number].name,
            [
                entry
                for table in every
                for entry in (
                    _entry(table.rows[number].fmr, table.target),
                    _entry(table.rows[number].fnmr, table.fnmr),
                )
            ],
        )
        for number in range(len(every[0].rows))
    ]
    return {
        "target": every[0].target,
        "overall": [f"{100 * rate:.3g}" for table in every for rate in (table.fmr, table.fnmr)],
        "lines": lines,
    }


def _points(difference: Figure) -> dict[str, Any]:
    """A difference in points, its interval, and whether that leaves out zero."""
    value, low, high = (f"{100 * number:+.3g}".replace("-", "−") for number in difference)
    known = bool(np.isfinite(difference.low))
    return {
        "value": value if np.isfinite(difference.value) else "–",
        "interval": f"{low} to {high}" if known else "",
        "sure": known and (difference.low > 0 or difference.high < 0),
    }


def _entry(rate: Rate, expected: float) -> dict[str, Any]:
    """A rate in per cent, its interval, its counts, and whether its pairs are too few for it."""
    value, low, high = (f"{100 * number:.3g}" for number in rate.rate)
    return {
        "value": value if rate.pairs else "–",
        "interval": f"{low} to {high}" if np.isfinite(rate.rate.low) else "",
        "counts": f"{rate.errors:,} of {rate.pairs:,}" if rate.pairs else "no pair",
        "few": rate.pairs > 0 and expected * rate.pairs < ENOUGH * (1 - 1e-9),
    }
