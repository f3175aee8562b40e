"""Figure 1 of TopoFR: persistence of the input space at growing sample sizes, always beside a null.

The paper reads growing counts of bars as structure that larger samples reveal. Counts grow for points without any
structure as well, so here each figure stands beside Gaussian points of equal covariance (see
`topoface.diagnostics.topology.barcodes`).
"""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoface.diagnostics.opening import open_faces
from topoface.diagnostics.page import Page, Picture, Section, Table, check_out, write_page
from topoface.diagnostics.topology.barcodes import (
    COVARIANCE_FACES,
    DRAWS,
    MOST_POINTS,
    MOST_REPEATED,
    Barcode,
    Comparison,
    compare,
    effective_dimension,
    highest_dimension,
)
from topoface.diagnostics.topology.diagram_pictures import bar_counts, betti_curves, death_curves, persistence
from topoface.errors import UserError


def diagram(faces: str, *, sizes: Sequence[int], homology: int | None, seed: int, out: Path) -> None:
    """Draw persistence diagrams, Betti curves, counts and normalised H0 deaths of faces and of their null.

    H0 is exact at any size. H1 and H2 need ripser and stop at the sizes of `MOST_POINTS`.

    Args:
        faces: what `open_faces` takes.
        sizes: images in a sample.
        homology: highest dimension; None is 1 where ripser is installed, and 0 otherwise.
        seed: draws images and null.
        out: gets ``diagram.html``, ``diagram.json`` and the pictures.

    Raises:
        UserError: the faces cannot be opened or read, a size is impossible, ripser is missing, or ``out`` cannot be written.
    """
    check_out(out)
    highest = highest_dimension(homology)
    opened = open_faces(faces)
    sizes = sorted(set(sizes))
    for size in sizes:
        if not 2 <= size <= len(opened):
            raise UserError(
                f"a sample of {size} images from {len(opened)}",
                faces,
                f"choose sizes from 2 to {len(opened)}",
            )
    spectrum, samples = compare(opened, sizes, highest, seed)

    arguments = [faces, "--sizes", *map(str, sizes), "--homology", str(highest)]
    arguments += ["--seed", str(seed), "--out", str(out)]
    page = Page(
        name="diagram",
        title="Persistence of the input space, beside a null",
        lead=_lead(samples, effective_dimension(spectrum)),
        sections=[*_sections(samples, highest), _reading(highest, asked=homology is not None)],
        numbers={
            "effective_dimension": effective_dimension(spectrum),
            "covariance_spectrum": spectrum[::-1],
            "samples": [_numbers(sample) for sample in samples],
        },
        facts={
            "faces": f"{faces}: {len(opened):,} images",
            "sizes": ", ".join(f"{size:,}" for size in sizes),
            "draws": f"{DRAWS} of each size up to {MOST_REPEATED:,}, one beyond; without replacement",
            "null": f"Gaussian points with the covariance of {min(COVARIANCE_FACES, len(opened)):,} of the faces",
            "lengths": "exact pixel distances of the 8-bit images, divided by the largest possible (all black to all white)",
            "seed": str(seed),
        },
        command="topoface topology diagram " + shlex.join(arguments),
    )
    path = write_page(out, page)
    print(page.lead)
    print(f"page: {path}")


# --- what is said --------------------------------------------------------------------------------------


def _lead(samples: Sequence[Comparison], dimensions: float) -> str:
    """The figures that the paper's reading rests on, with those of the null."""
    counted = [sample for sample in samples if sample.highest >= 1]
    if not counted:
        largest = samples[-1]
        real, null = largest.faces[0].spread, largest.null[0].spread
        return (
            f"H0 only. Of {largest.n:,} faces the deaths spread by {real:.2f} of their mean, of Gaussian points with the "
            f"same covariance by {null:.2f}. Pixel space has about {dimensions:.0f} effective dimensions."
        )
    last = counted[-1]
    counts, expected = _counts(last.faces, 1), _counts(last.null, 1)
    said = (
        f"{last.n:,} faces have {_range(counts)} H1 bars; as many Gaussian points with the same covariance, which have no "
        f"loops to find, have {_range(expected)}."
    )
    first = counted[0]
    if last is not first:
        grown = [np.median(_counts(side, 1)) for side in (first.faces, last.faces, first.null, last.null)]
        said += (
            f" From {first.n} to {last.n:,} points the counts went from {grown[0]:,.0f} to {grown[1]:,.0f} and, in the null, "
            f"from {grown[2]:,.0f} to {grown[3]:,.0f}"
        )
        both = grown[1] > grown[0] and grown[3] > grown[2]
        said += ": a count that grows is no sign of structure." if both else "."
    longest, expected = _longest(last.faces, 1), _longest(last.null, 1)
    if len(longest) and len(expected):
        apart = (
            "above"
            if longest.min() > expected.max()
            else "below"
            if longest.max() < expected.min()
            else "within"
        )
        said += (
            f" The longest loop dies at {np.median(longest):.2f} times its birth, {apart} the null's range "
            f"({expected.min():.2f} to {expected.max():.2f})."
        )
    return said


def _reading(highest: int, *, asked: bool) -> Section:
    left_out = [
        f"H{dimension} is worked out up to {most:,} images"
        for dimension, most in MOST_POINTS.items()
        if dimension <= highest
    ]
    if not highest and not asked:
        left_out.append(
            "H1 and H2 are left out, since ripser is not installed (pip install 'topoface[topology]')"
        )
    elif highest < 2:
        left_out.append(f"what lies above H{highest} is left out (--homology)")
    said = "; ".join(left_out)
    return Section(
        title="How to read this page",
        text=(
            "A bar of H0 is a group of images that joins another at its death; one of H1 is a loop that appears at its birth and is filled "
            "at its death; one of H2 a hollow. Most bars are short and say nothing but that points are spread by chance.\n\n"
            "The null is a cloud of Gaussian points with the same covariance: the same spread, the same effective dimension, but no clusters, "
            "loops or hollows of its own. What the faces have more or less of than the null is shape, uneven density included; what both have is sampling. "
            "Where several samples were drawn, ranges are the least and the most of them; samples of a large part of the set overlap, so "
            "their range is narrower than that of new faces.\n\n" + said[0].upper() + said[1:] + "."
        ),
    )


def _sections(samples: Sequence[Comparison], highest: int) -> list[Section]:
    higher = [sample for sample in samples if sample.highest >= 1]
    sections = []
    if higher:
        sections.append(_counts_section(higher, highest))
    sections.append(
        Section(
            title="When components merge",
            text="The deaths of H0 divided by their mean, so that only their distribution is compared. A step at 1 means that all neighbours are "
            "equally far, as in a space of very many dimensions; small and large values side by side mean dense and empty regions.",
            pictures=[
                Picture(
                    name="deaths",
                    caption="Share of H0 deaths up to a length, in units of their mean; solid: faces, dashed: null. First draw of each size.",
                    draw=partial(death_curves, samples=samples),
                )
            ],
            table=_deaths_table(samples),
        )
    )
    sections.append(
        Section(
            title="Betti curves",
            text="How many components (H0), loops (H1) and hollows (H2) there are when all images closer than a length are joined.",
            pictures=[
                Picture(
                    name=f"betti_{dimension}",
                    caption=f"H{dimension} bars alive at each length; solid: faces, dashed: null. First draw of each size.",
                    draw=partial(betti_curves, samples=samples, dimension=dimension),
                )
                for dimension in range(highest + 1)
                if any(sample.highest >= dimension for sample in samples)
            ],
        )
    )
    sections.append(
        Section(
            title="Persistence diagrams",
            text="Each point is a bar; its height above the diagonal is how long it lives. Bars of H0 are all born at 0.",
            pictures=[
                Picture(
                    name=f"diagram_{sample.n}",
                    caption=f"{sample.n:,} faces and {sample.n:,} Gaussian points of equal covariance. First draw.",
                    draw=partial(persistence, sample=sample),
                    columns=2,
                )
                for sample in samples
            ],
        )
    )
    return sections


def _counts_section(samples: Sequence[Comparison], highest: int) -> Section:
    rows = []
    for sample in samples:
        for dimension in range(1, sample.highest + 1):
            real, null = (_counts(side, dimension) for side in (sample.faces, sample.null))
            longest, expected = (_longest(side, dimension) for side in (sample.faces, sample.null))
            rows.append(
                [
                    f"{sample.n:,}",
                    f"H{dimension}",
                    _range(real),
                    _range(null),
                    _range(longest, 2),
                    _range(expected, 2),
                ]
            )
    return Section(
        title="Counts of bars, beside those of noise",
        text="The number of bars against the number of images. It is read as structure at times; the null shows how many come from sampling alone. "
        "Longest is the largest death / birth of a bar: 1 is no loop at all. Beyond the null's range it is more than Gaussian points give by chance, "
        "which may be a loop, or only points that lie densely in one place and thinly in another.",
        pictures=[
            Picture(
                name=f"counts_{dimension}",
                caption=f"H{dimension} bars: median of the draws, lines from the least to the most.",
                draw=partial(bar_counts, samples=samples, dimension=dimension),
            )
            for dimension in range(1, highest + 1)
            if any(sample.highest >= dimension for sample in samples)
        ],
        table=Table(
            header=["images", "", "bars, faces", "bars, null", "longest, faces", "longest, null"],
            rows=rows,
            caption="Median of the draws (least to most).",
        ),
    )


def _deaths_table(samples: Sequence[Comparison]) -> Table:
    rows = []
    for sample in samples:
        row = [f"{sample.n:,}"]
        for side in (sample.faces, sample.null):
            row.append(_range(np.array([code.deaths.mean() for code in side]), 4))
            row.append(_range(np.array([code.spread for code in side]), 3))
        rows.append(row)
    return Table(
        header=["images", "mean death, faces", "spread, faces", "mean death, null", "spread, null"],
        rows=rows,
        caption="Median of the draws (least to most). Spread: standard deviation / mean.",
    )


def _counts(side: Sequence[Barcode], dimension: int) -> NDArray[np.float64]:
    return np.array([len(code.bars[dimension]) for code in side], np.float64)


def _longest(side: Sequence[Barcode], dimension: int) -> NDArray[np.float64]:
    values = np.array([code.longest(dimension) for code in side])
    found: NDArray[np.float64] = values[~np.isnan(values)]
    return found


def _range(values: NDArray[np.float64], digits: int = 0) -> str:
    if not len(values):
        return "–"
    low, middle, high = (f"{value:,.{digits}f}" for value in np.quantile(values, [0, 0.5, 1]))
    return middle if low == high else f"{middle} ({low} to {high})"


def _numbers(sample: Comparison) -> Mapping[str, Any]:
    """Everything that is drawn or said of one size."""
    sides: dict[str, Any] = {}
    for name, side in (("faces", sample.faces), ("null", sample.null)):
        sides[name] = {
            "mean_death": [code.deaths.mean() for code in side],
            "spread_of_deaths": [code.spread for code in side],
            "bars": {f"H{d}": _counts(side, d) for d in range(1, sample.highest + 1)},
            "longest": {f"H{d}": [code.longest(d) for code in side] for d in range(1, sample.highest + 1)},
            "first_draw": {f"H{d}": bars for d, bars in enumerate(side[0].bars)},
        }
    return {"n": sample.n, "draws": len(sample.faces), **sides}
