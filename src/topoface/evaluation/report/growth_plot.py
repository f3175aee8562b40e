"""How searches fare as the gallery grows, as a plot: mates who are not first, and mates who are missed, over its size."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from topoface.evaluation.figures import Figure
from topoface.evaluation.report.curves import BAND
from topoface.evaluation.report.plots import legend_in_columns, plain, svg
from topoface.evaluation.templates.results import GallerySize

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def growth_plot(
    sizes: Mapping[str, Sequence[GallerySize]], colours: Mapping[str, str], fpir: float | None
) -> str:
    """Shares of mates not first (full lines) and not above the bar of an FPIR (dashed; None: no such lines) over the gallery."""

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import NullLocator

        for name, steps in sizes.items():
            at = [step.gallery for step in steps]
            missed = [Figure(1 - s.rank1.value, 1 - s.rank1.high, 1 - s.rank1.low) for s in steps]
            _line(axes, at, missed, colours[name], "-", f"{name}: not first")
            if fpir is not None:
                _line(axes, at, [step.fnir[fpir] for step in steps], colours[name], "--", f"{name}: FNIR")
        axes.set(xscale="log", xlabel="entries in the gallery", ylabel="share of mates missed")
        axes.set_ylim(bottom=0)
        ticks = _ticks([step.gallery for step in next(iter(sizes.values()))])
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        legend_in_columns(axes, 1)

    return svg(draw)


def _line(
    axes: "Axes", at: Sequence[int], figures: Sequence[Figure], colour: str, style: str, label: str
) -> None:
    value, low, high = np.array(figures).T
    filled = colour if style == "-" else "white"  # dashes are too short to be told apart in the legend
    axes.plot(
        at, value, style, marker="o", markersize=4, color=colour, markerfacecolor=filled, label=plain(label)
    )
    axes.fill_between(at, low, high, color=colour, **BAND)


def _ticks(sizes: Sequence[int]) -> list[int]:
    """The sizes, from the largest down, that leave room for each other on a logarithmic axis."""
    ticks: list[int] = []
    for size in reversed(sizes):
        if not ticks or size * 2 < ticks[-1]:
            ticks.append(size)
    return ticks
