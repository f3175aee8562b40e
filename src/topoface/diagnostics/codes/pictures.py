"""The pictures of ``topoface codes report``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from topoface.diagnostics.codes.crowds import Crowd, Crowding
from topoface.diagnostics.codes.measured import Pairs
from topoface.diagnostics.prediction import Integers
from topoface.evaluation.report.plots import COLOURS, INK, MUTED, legend_in_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VECTORS, CENTERS = COLOURS[0], COLOURS[1]
DASHED = (0, (3, 2))
_MOST_LINES = 5


def draw_use(axes: "Axes", *, use: Sequence[Integers], what: str) -> None:
    """How often each token is used, most frequent first, in units of the mean; at most five positions."""
    shown = np.unique(np.linspace(0, len(use) - 1, min(len(use), _MOST_LINES)).astype(int))
    for colour, j in zip(COLOURS, shown, strict=False):
        counts = np.sort(use[j])[::-1] / use[j].mean()
        axes.plot(
            (np.arange(len(counts)) + 0.5) / len(counts), counts, color=colour, label=f"position {j + 1}"
        )
    axes.axhline(1, color=INK, linewidth=1, linestyle=DASHED)
    axes.set(xlim=(0, 1), xlabel="tokens, most frequent first", ylabel=f"{what} / mean")
    axes.set_ylim(bottom=0)
    legend_in_columns(axes, 3)


def draw_pairs(axes: "Axes", *, pairs: Pairs) -> None:
    """Cosines of code vectors, by the number of first tokens shared; each kind is drawn to the same area."""
    kinds = np.unique(pairs.shared)
    shown = kinds[np.unique(np.linspace(0, len(kinds) - 1, min(len(kinds), _MOST_LINES)).astype(int))]
    edges = np.linspace(max(pairs.cosines.min(), -1) - 0.01, min(pairs.cosines.max(), 1) + 0.01, 71)
    for colour, k in zip(COLOURS, shown, strict=False):
        of_kind = pairs.cosines[pairs.shared == k]
        density = np.histogram(of_kind, edges)[0] / len(of_kind)
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(
            density, edges, baseline=None, color=colour, linewidth=1.4, label=f"{k} first tokens shared"
        )
    axes.set(xlim=(edges[0], edges[-1]), xlabel="cosine of two code vectors", ylabel="share of the pairs")
    axes.set_ylim(bottom=0)
    legend_in_columns(axes, 2)


def draw_angles(*axes: "Axes", crowds: Sequence[Crowd]) -> None:
    """Pairwise angles of code vectors and of learned centers, a group of identities on each axes, all on one scale."""
    angles = [
        [np.degrees(np.arccos(np.clip(of.cosines, -1, 1))) for of in (crowd.vectors, crowd.centers)]
        for crowd in crowds
    ]
    values = np.concatenate([each for pair in angles for each in pair])
    edges = np.linspace(values.min() - 1, values.max() + 1, 61)
    for place, (crowd, (vectors, centers)) in enumerate(zip(crowds, angles, strict=True)):
        here = axes[place]
        for name, found, colour in (
            ("code vectors", vectors, VECTORS),
            ("learned centers", centers, CENTERS),
        ):
            share = np.histogram(found, edges)[0] / len(found)
            here.stairs(share, edges, fill=True, color=colour, alpha=0.3)
            here.stairs(share, edges, baseline=None, color=colour, linewidth=1.4, label=name)
        here.axvline(90, color=MUTED, linewidth=1, linestyle=DASHED)
        here.set(xlim=(edges[0], edges[-1]), ylabel="share of the pairs")
        here.set_ylim(bottom=0)
        here.text(0.02, 0.95, crowd.images, transform=here.transAxes, va="top", fontsize=10)
    legend_in_columns(axes[0], 2)
    axes[-1].set_xlabel("angle of two identities, degrees")


def draw_crowds(axes: "Axes", *, crowds: Sequence[Crowd], drawn: Crowding) -> None:
    """Mean and nearest cosine within groups of identities by their images, with intervals, beside directions drawn at random."""
    at = np.arange(len(crowds))
    for name, colour, found in (
        ("vectors", VECTORS, [crowd.vectors for crowd in crowds]),
        ("centers", CENTERS, [crowd.centers for crowd in crowds]),
    ):
        mean, nearest = np.array([each.means() for each in found]).T
        half = [1.96 * each.nearest.std(ddof=1) / np.sqrt(len(each.nearest)) for each in found]
        axes.errorbar(
            at, nearest, half, color=colour, marker="o", markersize=5, capsize=3, label=f"{name}, nearest"
        )
        axes.plot(at, mean, color=colour, linestyle=DASHED, label=f"{name}, any two")
    axes.axhline(drawn.means()[1], color=MUTED, linewidth=1.4, linestyle=(0, (1, 2)), label="drawn, nearest")
    axes.set_xticks(at, [crowd.name for crowd in crowds])
    axes.set(xlabel="images of the identity", ylabel="cosine within the group")
    legend_in_columns(axes, 2)


def weighted_use(codes: NDArray[np.integer], images: Integers, alphabets: Sequence[int]) -> list[Integers]:
    """Images ``[K_j]`` that each token stands for, for each position."""
    weights = images.astype(np.float64)
    return [
        np.rint(np.bincount(codes[:, j], weights, minlength=k)).astype(np.int64)
        for j, k in enumerate(alphabets)
    ]
