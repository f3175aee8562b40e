"""The report's plots as inline SVG: small enough to be read on a phone, and the same bytes for the same figures."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topoface.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Line = tuple[NDArray[np.float64], NDArray[np.float64]]  # optimizer steps and values, [n] each

COLOURS = ("#1d5a9e", "#c8562b", "#3b8254", "#7d5ba6", "#8a6d1c")
INK, MUTED, GRID, SHADE = "#1f2328", "#59636e", "#e4e7eb", "#f3f4f6"
WIDTH, HEIGHT = 4.7, 3.4  # inches at 72 units each: about one phone screen wide, so that text keeps its size

STYLE: Any = {  # matplotlib types each key; their list differs between its versions
    "axes.edgecolor": MUTED,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "grid.color": GRID,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's own font
    "svg.hashsalt": "topoface",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def plain(name: str) -> str:
    """A user's word as a label: matplotlib sets what stands between two ``$`` as a formula, and no ``_name`` in a legend."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def colour_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in order."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def line_plot(
    lines: Mapping[str, Line],
    colours: Mapping[str, str],
    ylabel: str,
    *,
    smooth: bool = False,
    marker: str = "",
) -> str:
    """Values over optimizer steps, one line a name; with ``smooth`` a running mean over the faint raw values."""

    def draw(axes: "Axes") -> None:
        for name, (steps, values) in lines.items():
            colour = colours[name]
            window = max(1, len(values) // 40) if smooth else 1
            if window > 1:
                axes.plot(*_thinned(steps, values), color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(
                *_thinned(*_running_mean(steps, values, window)),
                color=colour,
                label=plain(name),
                marker=marker,
                markersize=4,
            )
        axes.set(xlabel="step", ylabel=plain(ylabel))
        axes.ticklabel_format(axis="y", scilimits=(-3, 5))
        _legend_above(axes)

    return svg(draw)


def barcode_plot(source: NDArray[np.float64], latent: NDArray[np.float64], colour: str) -> str:
    """H0 barcodes of input and latent space side by side.

    All components are born at length 0; a bar ends where its component joins another. Lengths are divided by
    their mean, so that two spaces of different scale can be compared.
    """

    def draw(left: "Axes", right: "Axes") -> None:
        longest = 0.0
        for axes, deaths, shade, title in (
            (left, source, MUTED, "input space"),
            (right, latent, colour, "latent space"),
        ):
            ends = np.sort(deaths)[::-1] / max(float(np.mean(deaths)), 1e-300)
            axes.fill_betweenx(
                np.arange(len(ends) + 1),
                0,
                np.append(ends, ends[-1]),
                step="post",
                color=shade,
                alpha=0.18,
                linewidth=0,
            )
            axes.step(
                np.append(ends, ends[-1]), np.arange(len(ends) + 1), where="post", color=shade, linewidth=1.5
            )
            axes.set(title=title, xlabel="length / mean", ylim=(len(ends), 0))
            axes.title.set(size=11, color=INK)
            longest = max(longest, float(ends[0]))
        left.set(ylabel="bars, longest first")
        right.tick_params(labelleft=False)
        for axes in (left, right):
            axes.set_xlim(0, longest * 1.05)

    return svg(draw, columns=2)


def legend_in_columns(axes: "Axes", columns: int) -> None:
    """Above the axes, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0,
        handlelength=1.5,
        columnspacing=1.2,
        fontsize=9.5,
    )


def _legend_above(axes: "Axes") -> None:
    """Outside, where it hides nothing; in one row if it has room."""
    names = axes.get_legend_handles_labels()[1]
    columns = 1 if sum(map(len, names)) > 36 else len(names)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0, handlelength=1.4)


def _running_mean(steps: NDArray[np.float64], values: NDArray[np.float64], window: int) -> Line:
    """Mean of ``window`` neighbours, at the middle of them."""
    kernel = np.full(window, 1 / window)
    return np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid")


def _thinned(steps: NDArray[np.float64], values: NDArray[np.float64], most: int = 400) -> Line:
    """At most ``most`` points: a long run must not make a large page."""
    keep = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), most)).astype(np.intp))
    return steps[keep], values[keep]


def svg(draw: Any, columns: int = 1) -> str:
    """`render`, without a PNG."""
    return render(draw, columns=columns)[0]


def render(
    draw: Any, *, rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None, png: bool = False
) -> tuple[str, bytes]:
    """Run ``draw(axes, ...)`` on a grid of axes in the house's style.

    Args:
        draw: called with ``rows * columns`` matplotlib axes.
        rows: of the grid.
        columns: of the grid.
        size: width and height in inches; about one phone screen by default.
        png: also draw it as PNG, on white.

    Returns:
        An SVG element, sized by the page, the same bytes for the same figures; and the bytes of the PNG, or none.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "report", "the plots") from None
    with mpl.rc_context(STYLE):
        width, height = size or (WIDTH * (1 + 0.25 * (columns - 1)), HEIGHT)
        figure: Figure = Figure(figsize=(width, height), layout="constrained")
        draw(*figure.subplots(rows, columns, squeeze=False).ravel())
        picture = io.BytesIO()
        if png:
            figure.savefig(picture, format="png", dpi=160, facecolor="white", metadata={"Software": None})
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = text.getvalue()
    head, _, body = drawing[drawing.index("<svg") :].partition(">")
    view_box = next(part for part in head.split(" viewBox=")[1:]).split('"')[1]
    return f'<svg viewBox="{view_box}" aria-hidden="true">{body}', picture.getvalue()
