"""The pictures of `topoface.diagnostics.topology.discrepancy`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from topoface.diagnostics.topology.structure import MEASURES, Measured
from topoface.evaluation.report.plots import INK, MUTED, colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
References = Mapping[str, float]

MOST_HISTOGRAMS = 5  # models whose histograms can be told apart; more become one row each
BINS = 36
WIDE_RANGE = 50  # largest / smallest from which an axis is logarithmic
DOTTED, DASHED = (0, (1, 2)), (0, (4, 2))

CAPTIONS = {
    "paired": "Mean squared difference of the lengths of the edges of both trees, each space in units of its mean edge; 0 is the same "
    "structure. Dashed: the same embeddings dealt out to other images.",
    "overlap": "Share of the edges of the images' tree that the embeddings' tree has too. Dashed: what independent trees share.",
    "spearman": "Rank correlation of all distances in a batch. Dashed: 0, no relation.",
    "sorted": "The same with edges compared by rank, as the release does. It does not see which image is where: dealing the embeddings "
    "out to other images leaves it as it is.",
    "bottleneck": "The largest difference of the two diagrams' deaths under the best matching, in units of the mean edge. Blind to which image is where, too.",
    "raw_sorted": "The release's own discrepancy. Shrinking embeddings lowers it, whatever their structure.",
    "raw_paired": "The paper's form on raw embeddings. Shrinking lowers it, too.",
    "scale_ratio": "Mean tree edge of the embeddings over that of the images. Dashed: 1, where raw discrepancies can be least.",
    "norm": "Length of the embeddings before they are normalised. It is no measure of spread: see the cosine.",
    "cosine": "Mean cosine of all pairs in a batch. Near 1 all embeddings point one way: whatever their tree, people are hard to tell apart.",
    "same_identity": "Share of the embeddings' tree edges that join two images of one person. Dashed: the best that any tree can have in these "
    "batches. Dotted: the tree of the images.",
}


def distribution(axes: "Axes", *, measured: Measured, key: str, references: References) -> None:
    """A figure over the batches, one histogram a model; dashed lines are what they are to be read against."""
    values = {name: figures[key] for name, figures in measured.by_model.items()}
    _draw_references(axes, references, key)
    if len(values) > MOST_HISTOGRAMS:
        _rows(axes, values, key)
    else:
        _histograms(axes, values, key, measured.n - 1)
    axes.set(xlabel=MEASURES[key].heading)
    _legend(axes)


def by_norm(axes: "Axes", *, measured: Measured) -> None:
    """Raw discrepancy against the norm of the embeddings, a point a batch."""
    colours = colour_of(list(measured.by_model))
    for name, figures in measured.by_model.items():
        axes.scatter(
            figures["norm"],
            figures["raw_sorted"],
            s=14,
            alpha=0.6,
            linewidth=0,
            color=colours[name],
            label=name,
            rasterized=True,
        )
    axes.set(
        xlabel=MEASURES["norm"].name,
        ylabel=MEASURES["raw_sorted"].name.replace("discrepancy", "discrepancy\n"),
    )
    scales: dict[str, Literal["x", "y"]] = {"norm": "x", "raw_sorted": "y"}
    for key, which in scales.items():
        if _is_wide(np.concatenate([figures[key] for figures in measured.by_model.values()])):
            _make_logarithmic(axes, which)
    _legend(axes)


def growth(axes: "Axes", *, results: Sequence[Measured], key: str, total: bool = False) -> None:
    """A figure against the batch size: median and 95 % range over the batches; ``total`` sums it over the edges."""
    sizes = [measured.n for measured in results]
    lines = {
        name: [measured.by_model[name][key] * (measured.n - 1 if total else 1) for measured in results]
        for name in results[0].by_model
    }
    colours = colour_of(list(lines))
    for place, (name, values) in enumerate(lines.items()):
        low, middle, high = np.array([np.quantile(v, [0.025, 0.5, 0.975]) for v in values]).T * _unit(key)
        shifted = np.array(sizes) * 1.02 ** (place - (len(lines) - 1) / 2)  # bars beside each other
        axes.errorbar(
            shifted,
            middle,
            yerr=(middle - low, high - middle),
            color=colours[name],
            marker="o",
            markersize=4,
            capsize=3,
            elinewidth=1,
            label=name,
        )
    if key == "overlap":
        axes.plot(
            sizes, [100 * m.chance_overlap for m in results], color=MUTED, linestyle=DASHED, label="chance"
        )
    if key == "paired" and len(lines) == 1:
        shuffled = [sum(m.shuffled.values()) * (m.n - 1 if total else 1) for m in results]
        axes.plot(sizes, shuffled, color=MUTED, linestyle=DASHED, label="shuffled")
    name = MEASURES[key].name
    name = name.replace(" per edge", ",\nsummed over edges") if total else name
    axes.set(
        xscale="log",
        xlabel="images in a batch",
        ylabel=name + (", %" if MEASURES[key].percent else ""),
    )
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.xaxis.minorticks_off()
    if _is_wide(np.concatenate([line.get_ydata() for line in axes.lines])):
        _make_logarithmic(axes, "y")
    else:
        axes.set_ylim(0, None)
    _legend(axes)


def _histograms(axes: "Axes", values: Mapping[str, Floats], key: str, tree_edges: int) -> None:
    colours = colour_of(list(values))
    pooled = np.concatenate(list(values.values())) * _unit(key)
    low, high = float(pooled.min()), float(pooled.max())
    if MEASURES[key].of_edges:  # bins of whole edges: others would be empty by turns
        step = _unit(key) / tree_edges
        step *= np.ceil(max(high - low, step) / step / BINS)
        bins = np.arange(low - step / 2, high + step, step)
    elif _is_wide(pooled):
        bins = np.geomspace(low, high, BINS + 1)
        _make_logarithmic(axes, "x")
    else:
        margin = 0.0 if low < high else 0.5 * (abs(low) or 1)
        bins = np.linspace(low - margin, high + margin, BINS + 1)
    for name, batches in values.items():
        counts = np.histogram(batches * _unit(key), bins)[0]
        axes.stairs(counts, bins, fill=True, color=colours[name], alpha=0.3)
        axes.stairs(counts, bins, color=colours[name], linewidth=1.4, label=name)
    axes.set(ylabel="batches")


def _rows(axes: "Axes", values: Mapping[str, Floats], key: str) -> None:
    """Median and 95 % range, one row a model, the first on top."""
    for place, batches in enumerate(values.values()):
        low, middle, high = np.quantile(batches, [0.025, 0.5, 0.975]) * _unit(key)
        axes.plot([low, high], [place, place], color=colour_of(["row"])["row"], linewidth=2.4, alpha=0.45)
        axes.plot([middle], [place], "o", color=colour_of(["row"])["row"], markersize=5)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    if _is_wide(np.concatenate(list(values.values()))):
        _make_logarithmic(axes, "x")


def _make_logarithmic(axes: "Axes", which: Literal["x", "y"]) -> None:
    """With labels at the powers of ten alone: those between would run into each other."""
    if which == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    (axes.xaxis if which == "x" else axes.yaxis).minorticks_on()
    axes.tick_params(axis=which, which="minor", labelbottom=False, labelleft=False)


def _is_wide(values: Floats) -> bool:
    return bool(values.min() > 0 and values.max() / values.min() > WIDE_RANGE)


def _draw_references(axes: "Axes", references: References, key: str) -> None:
    for (name, value), style in zip(references.items(), (DASHED, DOTTED), strict=False):
        axes.axvline(value * _unit(key), color=INK, linewidth=1, linestyle=style, label=name)


def _unit(key: str) -> float:
    return 100.0 if MEASURES[key].percent else 1.0


def _legend(axes: "Axes") -> None:
    """Above the axes; in one row if it has room."""
    names = axes.get_legend_handles_labels()[1]
    if names:
        columns = (
            len(names)
            if sum(map(len, names)) + 4 * len(names) <= 44
            else 2
            if max(map(len, names)) <= 18
            else 1
        )
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            borderaxespad=0,
            handlelength=1.4,
            columnspacing=1.2,
        )
