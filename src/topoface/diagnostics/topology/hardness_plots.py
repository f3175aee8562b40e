"""The pictures of ``topoface topology hardness``."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from topoface.diagnostics.calibration import BINS, Bin
from topoface.evaluation.report.plots import COLOURS, GRID, INK, MUTED, legend_in_columns
from topoface.functional.mixture import MixtureFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG, EASY, HARD = COLOURS[:4]
LINES = 40  # batches drawn as lines of their own

Floats = NDArray[np.float64]


def draw_density(axes: "Axes", entropy: Floats, wrong: NDArray[np.bool_], mixture: MixtureFit) -> None:
    """Histogram of entropies ``[n]``, right and wrong stacked, under the densities of a mixture in nats."""
    pi, variance, upper = (float(value) for value in (mixture.weight, mixture.variance, mixture.upper))
    end = max(float(entropy.max()), upper) * 1.02
    edges = np.linspace(0, end, 41)
    of_each = np.full(len(entropy), 1 / (len(entropy) * edges[1]))
    axes.hist(
        [entropy[~wrong], entropy[wrong]],
        bins=edges.tolist(),
        weights=[of_each[~wrong], of_each[wrong]],
        stacked=True,
        color=[RIGHT, WRONG],
        alpha=0.55,
        label=[f"right ({(~wrong).sum():,})", f"wrong ({wrong.sum():,})"],
    )
    x = np.linspace(0, end, 400)
    easy = pi * 2 * np.exp(-(x**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    hard = np.where(x <= upper, (1 - pi) / upper, 0)
    axes.plot(x, easy, color=EASY, linestyle=(0, (4, 2)), label="easy: half-normal")
    axes.plot(x, hard, color=HARD, linestyle=(0, (1, 1)), label="hard: uniform")
    axes.plot(x, easy + hard, color=INK, linewidth=1.2, label="both")
    axes.set(xlim=(0, end), xlabel="entropy E (nats)", ylabel="density (per nat)")
    legend_in_columns(axes, 2)


def draw_curves(
    axes: "Axes", entropy: Floats, by_batch: Floats, over_all: Floats, batch_size: int, released: bool
) -> None:
    """Hardness over entropy, one thin line a batch and a bold one for the fit to all samples ``[n]``.

    The released fit is no function of the entropy (it depends on the order of the batch): all its values are dots.
    """
    for start in range(0, min(len(entropy), batch_size * LINES), batch_size):
        part = slice(start, start + batch_size)
        order = np.argsort(entropy[part])
        axes.plot(
            entropy[part][order],
            by_batch[part][order],
            color=MUTED,
            alpha=0.35,
            linewidth=0.8,
            label="single batches" if start == 0 else None,
        )
    order = np.argsort(entropy)
    order = order[np.unique(np.linspace(0, len(order) - 1, 400).astype(np.intp))]
    style = {"linestyle": "", "marker": ".", "markersize": 3} if released else {"linestyle": "-"}
    axes.plot(entropy[order], over_all[order], color=RIGHT, label="all samples at once", **style)
    axes.set(ylim=(-0.03, 1.03), xlabel="entropy E (nats)", ylabel="hardness h")
    legend_in_columns(axes, 2)


def draw_reliability(axes: "Axes", bins: list[Bin], samples: int) -> None:
    """Share wrong over the mean hardness of each bin; bars behind say how many samples a bin holds."""
    lefts = [each.tenth / BINS for each in bins]
    heights = [each.samples / samples for each in bins]
    axes.bar(lefts, heights, width=1 / BINS, align="edge", color=GRID, edgecolor="white", label="samples")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 2)), label="calibrated")
    _with_intervals(axes, [each.probability for each in bins], bins, WRONG, "wrong")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="hardness h", ylabel="share")
    legend_in_columns(axes, 3)


def draw_deciles(axes: "Axes", deciles: Mapping[str, list[Bin]], overall: float) -> None:
    """Share wrong in each tenth of the samples, ordered by each of some entropies."""
    axes.axhline(overall, color=MUTED, linewidth=1, linestyle=(0, (3, 2)), label="all samples")
    for number, (name, bins) in enumerate(deciles.items()):
        shift = 0.12 * (number - (len(deciles) - 1) / 2)  # so that intervals do not hide one another
        places = [each.tenth + 1 + shift for each in bins]
        _with_intervals(axes, places, bins, (WRONG, RIGHT)[number], name)
    axes.set(
        xlabel="tenth of the samples, by entropy", ylabel="share that is wrong", xticks=range(1, BINS + 1)
    )
    axes.set_ylim(bottom=0)
    legend_in_columns(axes, 3)


def _with_intervals(axes: "Axes", x: list[float], bins: list[Bin], colour: str, name: str) -> None:
    share, low, high = np.array([each.share for each in bins]).T
    axes.errorbar(
        x,
        share,
        yerr=[share - low, high - share],
        color=colour,
        marker="o",
        markersize=4.5,
        linewidth=1.4,
        capsize=2.5,
        label=name,
    )
