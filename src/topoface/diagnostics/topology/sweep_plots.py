"""The pictures of ``topoface topology sweep``: lines with seeds and intervals, and a map of differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from topoface.evaluation.report.plots import COLOURS, GRID, INK, MUTED
from topoface.study.results import Comparison, reading, t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting on one protocol.

    Attributes:
        values: of the keys of the grid.
        seeds: the figure of each finished run; none where none has finished.
        compared: with the baseline.
    """

    values: Values
    seeds: Sequence[float]
    compared: Comparison

    @property
    def distinct(self) -> bool:
        """Whether it differs from the baseline in every interval."""
        return reading(self.compared) in ("higher", "lower")


def draw_lines(
    axes: "Axes",
    grid: Mapping[str, Sequence[Any]],
    cells: Sequence[Cell],
    baseline: Sequence[float],
    name: str,
) -> None:
    """Percent over the last key, a line for each value of the first where there are two.

    Dots are seeds, bars 95 % t-intervals of their mean; the baseline is a line with its band, and dots at the left.
    """
    *others, last = grid
    x_of = {str(value): place for place, value in enumerate(grid[last])}
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(f"{short(others[0])} {cell.values[0]}" if others else "mean over seeds", []).append(
            cell
        )
    low, high = t_interval(baseline)
    if baseline:
        middle = 100 * float(np.mean(baseline))
        axes.axhline(middle, color=MUTED, linewidth=1.2, linestyle=(0, (3, 2)), label=name)
        axes.plot([-0.55] * len(baseline), _percent(baseline), ".", color=MUTED, markersize=5)
        if not math.isnan(low):
            axes.axhspan(100 * low, 100 * high, color=MUTED, alpha=0.12, linewidth=0)
    for number, (label, members) in enumerate(groups.items()):
        shift = 0.13 * (number - (len(groups) - 1) / 2)  # so that intervals do not hide one another
        colour = COLOURS[number % len(COLOURS)]
        x = np.array([x_of[str(cell.values[-1])] + shift for cell in members])
        mean = np.array([100 * cell.compared.mean for cell in members])
        ends = 100 * np.array([cell.compared.over_seeds for cell in members]).T
        axes.errorbar(
            x,
            mean,
            yerr=np.abs(ends - mean),
            color=colour,
            marker="o",
            markersize=4.5,
            linewidth=1.4,
            capsize=2.5,
            label=label,
        )
        for place, cell in zip(x, members, strict=True):
            axes.plot(
                [place - 0.05] * len(cell.seeds),
                _percent(cell.seeds),
                ".",
                color=colour,
                alpha=0.6,
                markersize=5,
            )
    axes.set(xlabel=short(last), ylabel="accuracy (%)", xlim=(-0.75, len(x_of) - 0.5))
    axes.set_xticks(list(x_of.values()), list(x_of))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        borderaxespad=0,
        handlelength=1.3,
        columnspacing=1.0,
        fontsize=9,
    )


def draw_heat_map(axes: "Axes", grid: Mapping[str, Sequence[Any]], cells: Sequence[Cell]) -> None:
    """Difference to the baseline in points, first key downwards, second to the right; bold where it is distinct."""
    from matplotlib.colors import LinearSegmentedColormap

    rows, columns = grid
    shape = (len(grid[rows]), len(grid[columns]))
    points = np.array([100 * cell.compared.difference for cell in cells]).reshape(shape)
    halves = [100 * (high - low) / 2 for low, high in (cell.compared.difference_over_seeds for cell in cells)]
    # full colour at the largest difference, or at a usual interval's half width if that is more: noise stays pale
    sizes = [
        *np.abs(points).ravel(),
        float(np.median([half for half in halves if not math.isnan(half)] or [0])),
    ]
    largest = max([size for size in sizes if size > 0], default=1.0)
    colours = LinearSegmentedColormap.from_list("difference", [COLOURS[1], "#ffffff", COLOURS[0]])
    axes.imshow(np.ma.masked_invalid(points), cmap=colours, vmin=-largest, vmax=largest, aspect="auto")
    for (row, column), value in np.ndenumerate(points):
        cell = cells[row * shape[1] + column]
        low, high = (100 * end for end in cell.compared.difference_over_seeds)
        ink = "white" if abs(value) > 0.75 * largest else INK
        if math.isnan(value):
            axes.fill_between([column - 0.5, column + 0.5], row - 0.5, row + 0.5, color=GRID, linewidth=0)
            axes.text(column, row, "no run", ha="center", va="center", fontsize=9, color=MUTED)
            continue
        weight = "bold" if cell.distinct else "normal"
        interval = "" if math.isnan(low) else f"{_signed(low)} to {_signed(high)}"
        above = 0.13 if interval else 0
        axes.text(
            column,
            row - above,
            _signed(round(value, 1) + 0.0),  # no minus before a zero
            ha="center",
            va="center",
            fontsize=11,
            color=ink,
            weight=weight,
        )
        axes.text(column, row + 0.2, interval, ha="center", va="center", fontsize=7.5, color=ink)
    axes.set(xlabel=short(columns), ylabel=short(rows))
    axes.set_xticks(range(shape[1]), [str(value) for value in grid[columns]])
    axes.set_yticks(range(shape[0]), [str(value) for value in grid[rows]])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def short(key: str) -> str:
    """The last two parts of a recipe key: ``isa.ratio``."""
    return ".".join(key.split(".")[-2:])


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
