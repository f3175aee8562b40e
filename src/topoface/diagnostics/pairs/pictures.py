"""The pictures of ``topoface pairs distribution``: where the pairs of each set lie, and how their tails end."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from topoface.diagnostics.pairs.sample import WHISKER, Measured
from topoface.diagnostics.pairs.similarities import BINS, Counts, coarser, middles, quantile
from topoface.evaluation.report.plots import COLOURS, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES, BATCHES, UNFILTERED, FILTERED = (
    "class centers (CL)",
    "in batches (ML)",
    "unified (UN)",
    "UN, whisker",
)
COLOUR_OF = dict(zip((CLASSES, BATCHES, UNFILTERED, FILTERED), COLOURS, strict=False))
STYLE_OF = {UNFILTERED: (0, (4, 2)), FILTERED: (0, (4, 2))}
EVERY, ALL_COLOUR = "all pairs (ALL)", "#9aa4af"
GENUINE_COLOUR = COLOURS[4]
LEAST_BARS = 64  # of the range that is used


def sets_of(measured: Measured) -> dict[str, Counts]:
    """What is drawn beside all pairs, by its name."""
    return {
        CLASSES: measured.classes.counts,
        BATCHES: measured.in_batches.every.counts,
        UNFILTERED: measured.row_view(filtered=False),
        FILTERED: measured.row_view(filtered=True),
    }


def draw_densities(axes: "Axes", *, measured: Measured) -> None:
    """Density of every set on a logarithmic axis."""
    every, genuine = measured.every.counts, measured.genuine.counts
    used = np.flatnonzero(every + genuine + measured.classes.counts)
    low, high = middles(BINS)[used[[0, -1]]]
    bins = min(BINS, 2 ** int(np.ceil(np.log2(2 * LEAST_BARS / max(high - low, 8 / BINS)))))
    edges = np.linspace(-1, 1, bins + 1)

    floor = 0.5 * bins / 2 / max(measured.every.size, 1)

    def draw(counts: Counts, name: str, colour: str, fill: float = 0.0) -> None:
        if not counts.sum():
            return
        density = coarser(counts, bins) * (bins / 2) / float(counts.sum())
        shown = np.maximum(density, floor / 10)  # a logarithm has no place for nothing
        if fill:
            axes.stairs(shown, edges, baseline=floor / 10, fill=True, color=colour, alpha=fill, label=name)
        else:
            style = STYLE_OF.get(name, "-")
            axes.stairs(shown, edges, baseline=None, color=colour, linestyle=style, linewidth=1.5, label=name)

    draw(every, EVERY, ALL_COLOUR, 0.5)
    draw(genuine, "genuine", GENUINE_COLOUR, 0.3)
    for name, counts in sets_of(measured).items():
        draw(counts, name, COLOUR_OF[name])
    axes.set(
        xlabel="similarity (cosine)",
        ylabel="density (per unit of cosine)",
        yscale="log",
        xlim=(max(low - 0.02, -1), min(high + 0.02, 1)),
    )
    axes.set_ylim(bottom=floor)
    _legend(axes)


def draw_tails(axes: "Axes", *, measured: Measured) -> None:
    """Which share of each set is at least so alike, from the hardest tenth of all pairs upwards."""
    where = middles(BINS)
    start = quantile(measured.every.counts, 0.9)
    sets: Mapping[str, Counts] = {EVERY: measured.every.counts} | sets_of(measured)
    end = start
    for name, counts in sets.items():
        shown = np.flatnonzero((counts > 0) & (where >= start))
        if not len(shown):
            continue
        above = np.cumsum(counts[::-1])[::-1] / counts.sum()
        end = max(end, float(where[shown[-1]]))
        keep = shown[np.unique(np.linspace(0, len(shown) - 1, 400).astype(np.intp))]
        keep = np.unique(np.concatenate([keep, shown[-40:]]))  # single pairs, each of them a step
        axes.plot(
            where[keep],
            above[keep],
            drawstyle="steps-pre",
            color=COLOUR_OF.get(name, ALL_COLOUR),
            linestyle=STYLE_OF.get(name, "-"),
            linewidth=1.6 if name in COLOUR_OF else 3.5,
            label=name,
        )
    whisker = float(np.median(measured.in_batches.fences[:, 1]))
    axes.axvline(whisker, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), label=f"whisker {WHISKER:g}")
    axes.axvline(
        measured.positive, color=INK, linewidth=1, linestyle=(0, (5, 2, 1, 2)), label="median genuine"
    )
    axes.set(
        xlabel="similarity (cosine)",
        ylabel="share of pairs at least so alike",
        yscale="log",
        xlim=(start, min(max(end, measured.positive) + 0.02, 1.0)),
    )
    _legend(axes)


def _legend(axes: "Axes") -> None:
    """Above the axes, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        borderaxespad=0,
        handlelength=1.8,
        columnspacing=1.2,
        fontsize=9.5,
    )
