"""The report's curves with their bands: ROC, DET, CMC, open-set search; and histograms of scores."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.figures import Curve
from topoface.evaluation.report.plots import INK, SHADE, legend_in_columns, plain, svg
from topoface.functional.bootstrap import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND: Any = {"alpha": 0.16, "linewidth": 0}


def roc_plot(curves: Mapping[str, Curve], colours: Mapping[str, str], top: float = 1.0) -> str:
    """ROC of each model up to the FAR ``top``, on a logarithmic axis; what fewer than ten false accepts carry is shaded."""
    first = _first_far(curves)

    def draw(axes: "Axes") -> None:
        lowest = 1.0
        for name, (roc, band, _) in curves.items():
            seen = roc[0] <= top * 1.001
            # Zero lies infinitely far to the left: it is drawn at the edge.
            axes.plot(
                np.maximum(roc[0], first)[seen],
                roc[1][seen],
                drawstyle=_style(roc),
                label=plain(name),
                color=colours[name],
            )
            axes.fill_between(band[0], band[1], band[2], color=colours[name], **BAND)
            lowest = min([lowest, *roc[1][seen & (roc[0] >= 20 * first)][:1]])
        floor = 0.0 if lowest < 0.6 else np.floor(20 * lowest - 1) / 20
        axes.set(ylim=(floor, 1 + 0.02 * (1 - floor)), ylabel="true accept rate")
        axes.legend(loc="best")
        _far_axis(axes, first, top)

    return svg(draw)


def det_plot(curves: Mapping[str, Curve], colours: Mapping[str, str], top: float = 1.0) -> str:
    """False rejects over false accepts, both on logarithmic axes: ROC upside down, where good models can be told apart."""
    first = _first_far(curves)

    def draw(axes: "Axes") -> None:
        lowest = 1.0
        for name, (roc, _, _) in curves.items():
            missed = 1 - roc[1]
            shown = (missed > 0) & (roc[0] <= top * 1.001)
            axes.plot(
                np.maximum(roc[0], first)[shown],
                missed[shown],
                drawstyle=_style(roc),
                label=plain(name),
                color=colours[name],
            )
            lowest = min(lowest, missed[shown].min(initial=1.0))
        for name, (_, band, _) in curves.items():
            axes.fill_between(
                band[0],
                np.maximum(1 - band[2], lowest / 4),
                np.maximum(1 - band[1], lowest / 4),
                color=colours[name],
                **BAND,
            )
        axes.set(yscale="log", ylim=(lowest / 2, 1.1), ylabel="false reject rate")
        axes.legend(loc="lower left")
        _far_axis(axes, first, top)

    return svg(draw)


def histogram_plot(histogram: NDArray[np.int64], colour: str, threshold: float | None = None) -> str:
    """Shares of genuine and impostor pairs by score, and a threshold."""
    edges = np.linspace(-1, 1, histogram.shape[1] + 1)
    genuine, impostor = histogram / np.maximum(histogram.sum(axis=1, keepdims=True), 1)
    used = np.flatnonzero(np.maximum(genuine, impostor) > 1e-4)
    used = used if len(used) else np.array([0, len(genuine) - 1])

    def draw(axes: "Axes") -> None:
        axes.stairs(100 * impostor, edges, fill=True, color="#9aa4af", alpha=0.75, label="two people")
        axes.stairs(100 * genuine, edges, fill=True, color=colour, alpha=0.6, label="one person")
        if threshold is not None and np.isfinite(threshold):
            axes.axvline(threshold, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        axes.set(
            xlim=(edges[max(used[0] - 2, 0)], edges[min(used[-1] + 3, len(edges) - 1)]),
            xlabel="score (cosine)",
            ylabel="% of its pairs",
        )
        legend_in_columns(axes, 2)

    return svg(draw)


def cmc_plot(curves: Mapping[str, Floats], colours: Mapping[str, str]) -> str:
    """Share of mated searches over the rank that finds the mate; ``[4, ranks]`` each: rank, share, low, high."""

    def draw(axes: "Axes") -> None:
        for name, (rank, share, low, high) in curves.items():
            axes.plot(rank, share, marker="o", markersize=3, label=plain(name), color=colours[name])
            axes.fill_between(rank, low, high, color=colours[name], **BAND)
        axes.set(xlabel="rank", ylabel="share of mates found")
        axes.set_xticks([1, 5, 10, 15, 20])
        axes.legend(loc="lower right")

    return svg(draw)


def search_plot(curves: Mapping[str, Floats], colours: Mapping[str, str]) -> str:
    """Missed mates over false alarms; ``[4, points]`` each: FPIR, FNIR, low, high."""
    first = min(float(curve[0].min()) for curve in curves.values()) / 2

    def draw(axes: "Axes") -> None:
        missed = [curve[1][curve[1] > 0].min(initial=1.0) for curve in curves.values()]
        floor = float(min(missed)) / 2
        for name, (fpir, fnir, low, high) in curves.items():
            shown = fnir > 0
            axes.plot(
                fpir[shown], fnir[shown], drawstyle="steps-post", label=plain(name), color=colours[name]
            )
            axes.fill_between(
                fpir, np.maximum(low, floor / 2), np.maximum(high, floor / 2), color=colours[name], **BAND
            )
        axes.axvspan(first, min(1.0, 20 * first), color=SHADE, zorder=0)
        axes.set(xscale="log", yscale="log", xlim=(first, 1), ylim=(floor, 1.1))
        axes.set(xlabel="false alarm rate (FPIR)", ylabel="missed mates (FNIR)")
        axes.legend(loc="lower left")

    return svg(draw)


def _style(roc: Floats) -> str:
    """Steps, as the curve has them; but straight lines between few points, of which the steps would be invented."""
    return "steps-post" if roc.shape[1] > 60 else "default"


def _first_far(curves: Mapping[str, Curve]) -> float:
    """Where the axis begins: half a false accept."""
    return 0.5 / max(curve.impostors for curve in curves.values())


def _far_axis(axes: "Axes", first: float, top: float) -> None:
    axes.axvspan(first, min(top, 20 * first), color=SHADE, zorder=0)
    axes.set(xscale="log", xlim=(first, top), xlabel="false accept rate")
