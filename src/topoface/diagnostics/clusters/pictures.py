"""The pictures of ``topoface clusters report``."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from topoface.diagnostics.clusters.identities import BINS, RANGE, SAME, Similar
from topoface.diagnostics.prediction import Floats, Integers
from topoface.evaluation.report.plots import COLOURS, INK, MUTED, legend_in_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OWN, OTHER = COLOURS[0], COLOURS[1]
CLEAN, PLANTED = COLOURS[0], COLOURS[1]
DASHED = (0, (3, 2))
MOST_LINEAR = 100  # images in a bar; with more, single ones would not show on a linear scale
MOST_VECTORS = 600  # points of a picture; more are drawn as pixels, so that a page stays small


def draw_levels(axes: "Axes", *, level: Floats, planted: NDArray[np.bool_] | None, name: str) -> None:
    """Histogram of levels ``[n]`` in [0, 1]; those of images with a wrong label on top, if any are known."""
    known = ~np.isnan(level)
    edges = np.linspace(0, 1, 51)
    parts = [level[known]] if planted is None else [level[known & ~planted], level[known & planted]]
    tallest = np.histogram(level[known], edges)[0].max()
    axes.hist(
        parts,
        bins=edges.tolist(),
        stacked=True,
        color=[CLEAN, PLANTED][: len(parts)],
        alpha=0.65,
        label=["images"] if planted is None else ["label as listed", "label known to be wrong"],
    )
    axes.axvline(0.5, color=INK, linewidth=1, linestyle=DASHED, label="½: both equally near")
    axes.set(xlim=(0, 1), xlabel=name, ylabel="images")
    if tallest > MOST_LINEAR:
        axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    legend_in_columns(axes, 2)


def draw_cosines(axes: "Axes", *, own: Floats, left_out: Floats, other: Floats) -> None:
    """Cosines ``[n]`` to the own center, with and without the image in it, and to the nearest other one."""
    sets = (
        ("a, own image left out", left_out, OWN, "-", True),
        ("a, own image in the center", own, OWN, DASHED, False),
        ("b, nearest other", other, OTHER, "-", True),
    )
    low = float(min(np.nanmin(values) for _, values, *_ in sets if not np.isnan(values).all()))
    edges = np.linspace(max(low, -1), 1, 61)
    for name, values, colour, style, filled in sets:
        counts = np.histogram(values[~np.isnan(values)].clip(-1, 1), edges)[0]
        if filled:
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(counts, edges, baseline=None, color=colour, linestyle=style, linewidth=1.4, label=name)
    axes.set(xlim=(edges[0], 1), xlabel="cosine", ylabel="images")
    axes.set_ylim(bottom=0)
    legend_in_columns(axes, 1)


def draw_cohesion(axes: "Axes", *, sizes: Integers, cohesion: Floats) -> None:
    """Cohesion of each identity ``[C]`` over its images, and medians of equally large ones."""
    known = ~np.isnan(cohesion)
    sizes, cohesion = sizes[known], cohesion[known]
    axes.scatter(
        sizes,
        cohesion,
        s=7,
        color=OWN,
        alpha=0.3,
        linewidths=0,
        rasterized=len(sizes) > MOST_VECTORS,
        label="identities",
    )
    group = np.floor(np.log2(sizes)).astype(np.int64)
    groups = np.unique(group)
    quantiles = np.array([np.quantile(cohesion[group == k], [0.1, 0.5, 0.9]) for k in groups])
    at = np.array([np.exp(np.log(sizes[group == k]).mean()) for k in groups])
    if len(groups):
        low, middle, high = quantiles.T
        axes.errorbar(
            at,
            middle,
            yerr=[middle - low, high - middle],
            color=INK,
            marker="o",
            markersize=4,
            linewidth=1.3,
            capsize=3,
            label="median, 80 % of them",
        )
        axes.set_xscale("log")
        ticks = [2**k for k in range(int(groups[0]), int(groups[-1]) + 2)]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
    axes.set(xlabel="images of the identity", ylabel="cohesion ρ̂")
    legend_in_columns(axes, 2)


def draw_gammas(axes: "Axes", *, similar: Similar) -> None:
    """Gamma of all pairs of identities, and of halves of one identity: the nearer the first reach, the more may be one person."""
    edges = np.linspace(*RANGE, BINS + 1)
    halves = np.histogram(similar.halves.clip(*RANGE), BINS, RANGE)[0]
    used = np.flatnonzero(similar.counts + halves)
    axes.stairs(similar.counts, edges, fill=True, color=OTHER, alpha=0.45, label="two labels")
    axes.stairs(halves, edges, fill=True, color=OWN, alpha=0.45, label="halves of one label")
    axes.axvline(SAME, color=MUTED, linewidth=1, linestyle=DASHED, label=f"γ = {SAME:g}")
    axes.set(xlabel="corrected similarity γ", ylabel="pairs", yscale="log")
    axes.set_ylim(bottom=0.7)
    if len(used):
        axes.set_xlim(edges[used[0]] - 0.02, edges[used[-1] + 1] + 0.02)
    legend_in_columns(axes, 3)


def draw_sweep(axes: "Axes", *, cosines: Floats, curves: Floats, chosen: float) -> None:
    """BCubed precision, recall and F ``[3, m]`` of clusters over the cosine ``[m]`` from which images are linked."""
    for name, values, colour, style in zip(
        ("precision", "recall", "F"), curves, (OWN, OTHER, INK), ("-", "-", DASHED), strict=True
    ):
        axes.plot(cosines, values, color=colour, linestyle=style, linewidth=1.4, label=name)
    axes.axvline(chosen, color=MUTED, linewidth=1, label="chosen on the other half")
    axes.set(xlim=(cosines.min(), cosines.max()), ylim=(0, 1.02), xlabel="cosine that links", ylabel="BCubed")
    legend_in_columns(axes, 2)
