"""The pictures of `topoface.diagnostics.topology.diagram`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from topoface.diagnostics.topology.barcodes import Barcode, Comparison, Floats
from topoface.evaluation.report.plots import COLOURS, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LENGTH = "length, share of the largest possible"
DASHED = (0, (3, 2))
MOST_VECTORS = 600  # points of a picture; more are drawn as pixels, so that a page stays small
CURVE_POINTS = 200


def persistence(left: "Axes", right: "Axes", *, sample: Comparison) -> None:
    """Birth against death of the first draw, faces and null on the same scale."""
    largest = max(float(bars.max(initial=0)) for side in (sample.faces, sample.null) for bars in side[0].bars)
    for axes, code, title in ((left, sample.faces[0], "faces"), (right, sample.null[0], "null")):
        axes.plot([0, largest * 1.05], [0, largest * 1.05], color=MUTED, linewidth=0.8)
        for dimension, bars in enumerate(code.bars):
            axes.scatter(
                bars[:, 0],
                bars[:, 1],
                s=9,
                alpha=0.6,
                linewidth=0,
                color=COLOURS[dimension],
                label=f"H{dimension}",
                rasterized=len(bars) > MOST_VECTORS,
                clip_on=False,
                zorder=3,
            )
        axes.set(xlim=(0, largest * 1.05), ylim=(0, largest * 1.05), xlabel="birth", title=title)
        axes.title.set(size=11, color=INK)
        axes.set_aspect("equal")
    left.set(ylabel="death")
    right.tick_params(labelleft=False)
    left.legend(loc="lower right", handletextpad=0.1, markerscale=1.6)


def betti_curves(axes: "Axes", *, samples: Sequence[Comparison], dimension: int) -> None:
    """Bars alive at each length, a line for each size."""
    shown = [sample for sample in samples if sample.highest >= dimension]
    codes = [side[0] for sample in shown for side in (sample.faces, sample.null)]
    bars = np.concatenate([code.bars[dimension] for code in codes])
    first, last = (float(bars.min()), float(bars.max())) if len(bars) else (0.0, 1.0)
    radii = np.linspace(max(0, first - 0.05 * (last - first)), last + 0.02 * (last - first), CURVE_POINTS)
    for sample, colour in zip(samples, shades(len(samples)), strict=True):
        if sample.highest >= dimension:
            for code, style in ((sample.faces[0], "-"), (sample.null[0], DASHED)):
                alive = code.betti(dimension, radii)
                axes.plot(
                    radii, alive, color=colour, linestyle=style, linewidth=1.5, label=_label(sample, style)
                )
    axes.set(xlabel=LENGTH, ylabel=f"H{dimension} bars alive", xlim=(radii[0], radii[-1]))
    _count_axis(axes)
    _legend(axes)


def bar_counts(axes: "Axes", *, samples: Sequence[Comparison], dimension: int) -> None:
    """Number of bars against number of points: median, least and most of the draws."""
    shown = [sample for sample in samples if sample.highest >= dimension]
    sizes = [sample.n for sample in shown]
    sides = (
        ("faces", [s.faces for s in shown], "-", COLOURS[0]),
        ("null", [s.null for s in shown], DASHED, COLOURS[1]),
    )
    for name, codes, style, colour in sides:
        counts = [np.quantile([len(code.bars[dimension]) for code in side], [0, 0.5, 1]) for side in codes]
        low, middle, high = np.array(counts).T
        axes.errorbar(
            sizes,
            middle,
            yerr=(middle - low, high - middle),
            color=colour,
            linestyle=style,
            marker="o",
            markersize=4,
            capsize=3,
            elinewidth=1,
            label=name,
        )
    axes.set(xscale="log", xlabel="images", ylabel=f"H{dimension} bars")
    _count_axis(axes)
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.minorticks_off()
    _legend(axes)


def death_curves(axes: "Axes", *, samples: Sequence[Comparison]) -> None:
    """Share of H0 deaths up to a length, in units of their mean."""
    for sample, colour in zip(samples, shades(len(samples)), strict=True):
        for code, style in ((sample.faces[0], "-"), (sample.null[0], DASHED)):
            axes.plot(
                *_cumulated(code), color=colour, linestyle=style, linewidth=1.5, label=_label(sample, style)
            )
    axes.set(xlabel="H0 death / mean", ylabel="share of deaths", ylim=(0, 1.02), xlim=(0, None))
    _legend(axes)


def shades(count: int) -> list[str]:
    """Light to dark blue: sizes have an order."""
    light, dark = (
        np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) for colour in ("#8fbce6", "#0d2f57")
    )
    shares = np.linspace(0, 1, count) if count > 1 else np.array([0.7])
    return ["#" + "".join(f"{int(v):02x}" for v in light + share * (dark - light)) for share in shares]


def _cumulated(code: Barcode) -> tuple[Floats, Floats]:
    deaths = np.sort(code.deaths) / max(float(code.deaths.mean()), 1e-300)
    shares = np.arange(1, len(deaths) + 1) / len(deaths)
    kept = np.unique(np.linspace(0, len(deaths) - 1, min(len(deaths), CURVE_POINTS)).astype(np.intp))
    return deaths[kept], shares[kept]


def _count_axis(axes: "Axes") -> None:
    """Logarithmic from 1 up, and yet with a place for 0."""
    most = max(float(np.nanmax(line.get_ydata(), initial=1)) for line in axes.lines)
    axes.set_yscale("symlog", linthresh=1, linscale=0.5)
    axes.set_ylim(0, most * 1.6)


def _label(sample: Comparison, style: object) -> str | None:
    return f"{sample.n:,}" if style == "-" else None


def _legend(axes: "Axes") -> None:
    """Above the axes, in one row if it has room."""
    names = axes.get_legend_handles_labels()[1]
    columns = min(len(names), 4)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0,
        handlelength=1.4,
        columnspacing=1.2,
    )
