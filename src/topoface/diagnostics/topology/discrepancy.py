"""Figures 2a, 2b, 2d, 5 and 7 of TopoFR: how far the structure of embeddings is from that of their images.

The paper's discrepancy alone misleads in two ways. It falls when embeddings shrink, with no structure learned: so
scale-free figures, the share of common tree edges and the scale stand beside it. And its sum grows with the batch even
for clouds that have nothing in common: so it is given per edge.
"""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topoface.diagnostics.opening import open_faces, open_model, short_names
from topoface.diagnostics.page import Page, Picture, Section, Table, check_out, write_page
from topoface.diagnostics.topology.discrepancy_pictures import CAPTIONS, by_norm, distribution, growth
from topoface.diagnostics.topology.structure import (
    ALIGNMENT,
    IDENTITY,
    MEASURES,
    SCALE,
    Measure,
    Measured,
    measure,
)
from topoface.errors import UserError
from topoface.models import EmbeddingModel

Floats = NDArray[np.float64]

ONE_WAY = 0.9  # mean cosine of two embeddings; independent directions have 0
CHANCE = "Chance is what the same embeddings give when dealt out to other images; sorted and bottleneck have none, for they do not change by that."


def discrepancy(
    faces: str, models: Sequence[str], *, sizes: Sequence[int], batches: int, seed: int, out: Path
) -> None:
    """Compare the structure of embeddings with that of the images, over the same batches for every model.

    Args:
        faces: what `open_faces` takes; best such as the models have not seen.
        models: what `open_model` takes.
        sizes: images in a batch.
        batches: of each size.
        seed: draws them.
        out: gets ``discrepancy.html``, ``discrepancy.json`` and the pictures.

    Raises:
        UserError: faces or a model cannot be opened or used, a size or count is impossible, or ``out`` cannot be written.
    """
    check_out(out)
    if batches < 1:
        raise UserError(f"{batches} batches", "--batches", "ask for 1 at least")
    opened = open_faces(faces)
    sizes = sorted(set(sizes))
    for size in sizes:
        if not 3 <= size <= len(opened):
            raise UserError(f"a batch of {size} images", faces, f"choose sizes from 3 to {len(opened)}")
    loaded = {name: open_model(path) for name, path in zip(short_names(models), models, strict=True)}
    results = measure(opened, loaded, sizes, batches, seed)

    arguments = [faces, *models, "--sizes", *map(str, sizes), "--batches", str(batches)]
    arguments += ["--seed", str(seed), "--out", str(out)]
    page = Page(
        name="discrepancy",
        title="Structure of embeddings and of their images",
        lead=_lead(results[0]),
        sections=[
            *([_growth_section(results)] if len(results) > 1 else []),
            *[section for measured in results for section in _sections(measured)],
            _reading(),
        ],
        numbers={"sizes": [measured.numbers() for measured in results]},
        facts={
            "faces": f"{faces}: {len(opened):,} images of {len(np.unique(opened.identities)):,} identities",
            **{
                f"model {name}": _described(path, loaded[name])
                for name, path in zip(loaded, models, strict=True)
            },
            "batches": f"{batches:,} of each size ({', '.join(f'{n:,}' for n in sizes)}), the same for all models, drawn without replacement",
            "images": "clean, not mirrored; exact pixel distances of the 8-bit images",
            "ranges": "95 % of the batches; batches overlap, so this is not the uncertainty over new people",
            "seed": str(seed),
        },
        command="topoface topology discrepancy " + shlex.join(arguments),
    )
    path = write_page(out, page)
    print(page.lead)
    print(f"page: {path}")


def _described(path: str, model: EmbeddingModel) -> str:
    parameters = sum(p.numel() for p in model.backbone.parameters())
    return f"{path}: {model.name}, {parameters / 1e6:.2f} M parameters, {model.spec.dimension} dimensions"


# --- words ---------------------------------------------------------------------------------------------


def _lead(measured: Measured) -> str:
    return _agreement(measured) + _one_way(measured)


def _one_way(measured: Measured) -> str:
    """Of embeddings that point one way only the small rest is compared; that must not pass for a good model."""
    cosines = {name: float(np.median(values["cosine"])) for name, values in measured.by_model.items()}
    alike = [f"{cosine:.3f} with {name}" for name, cosine in cosines.items() if cosine > ONE_WAY]
    if not alike:
        return ""
    return f" Embeddings point nearly one way, whoever is on the image: the mean cosine of two is {', '.join(alike)}."


def _agreement(measured: Measured) -> str:
    """Overlap and chance of the best and the worst model; and whether the raw discrepancy tells another story."""
    middle = {name: {k: float(np.median(v)) for k, v in f.items()} for name, f in measured.by_model.items()}
    chance = f"independent trees share {measured.chance_overlap:.1%}"
    if len(middle) == 1:
        ((name, own),) = middle.items()
        dealt_out = measured.shuffled[name]
        share = own["paired"] / dealt_out if dealt_out else float("nan")
        return (
            f"In batches of {measured.n:,}, the trees of images and embeddings share {own['overlap']:.1%} of their edges with {name}; {chance}. "
            f"Its paired discrepancy is {own['paired']:.3f} per edge, {share:.0%} of what the same embeddings dealt out at random have."
        )
    most = max(middle, key=lambda name: middle[name]["overlap"])
    least = min(middle, key=lambda name: middle[name]["overlap"])
    high, low = (MEASURES["overlap"].shown(measured.by_model[name]["overlap"]) for name in (most, least))
    said = (
        f"In batches of {measured.n:,}, the trees of images and embeddings share most with {most}, {high} % of their edges, and "
        f"least with {least}, {low} %; {chance}."
    )
    lowest = min(middle, key=lambda name: middle[name]["raw_sorted"])
    said += (
        f" The release's discrepancy is lowest with {lowest} ({middle[lowest]['raw_sorted']:.3g} per edge)"
    )
    other = max(middle, key=lambda name: middle[name]["raw_sorted"])
    scale = f"its embeddings' edges are {_times(middle[lowest]['scale_ratio'])} as long as the images', those of {other} {_times(middle[other]['scale_ratio'])}"
    if lowest == most:
        return said + f", which also has the most common edges; {scale}."
    beaten = sum(m["overlap"] > middle[lowest]["overlap"] for m in middle.values())
    return (
        said
        + f", though {beaten} of the other {len(middle) - 1} {'has' if beaten == 1 else 'have'} more common edges: {scale}."
    )


def _times(ratio: float) -> str:
    return f"{ratio:.2g} times"


def _reading() -> Section:
    return Section(
        title="How to read this page",
        text="Both spaces of a batch have a tree, the shortest set of edges that joins all its points; its edge lengths are the H0 persistence. "
        "Figures called raw compare lengths as the release of TopoFR does, and can be lowered by shrinking the embeddings alone. All others measure "
        "directions on the unit sphere and divide each space by its own mean edge, so only structure can change them.\n\n"
        "Figures that compare edges by their rank (sorted, bottleneck) can be 0 without any image being near the right ones. Look at paired "
        "discrepancy and tree overlap, beside what chance gives.\n\n"
        "To have the structure of pixels is no merit in itself: near in pixels are images under like light, in like pose, on like background, "
        "whoever is on them. Whether recognition gains is told by topoface evaluate.",
    )


# --- sections ------------------------------------------------------------------------------------------


def _sections(measured: Measured) -> list[Section]:
    n, names = measured.n, list(measured.by_model)
    within = {key: float(np.median(v)) for key, v in measured.identities.items()}
    chance = {
        "paired": "; ".join(f"{shuffled:.3f} {name}" for name, shuffled in measured.shuffled.items()),
        "overlap": f"{100 * measured.chance_overlap:.1f}",
        "spearman": "0",
        "sorted": "–",
        "bottleneck": "–",
    }
    lines = {
        "paired": {"shuffled": measured.shuffled[names[0]]} if len(names) == 1 else {},
        "overlap": {"chance": measured.chance_overlap},
        "spearman": {"chance": 0.0},
        "scale_ratio": {"equal lengths": 1.0},
        "same_identity": {"best possible": within["best"], "images": within["pixels"]},
    }

    def pictures(keys: Mapping[str, Measure]) -> list[Picture]:
        size = None if len(names) <= 5 else (4.7, 1.2 + 0.26 * len(names))
        return [
            Picture(
                name=f"{key}_{n}",
                caption=CAPTIONS[key],
                draw=partial(distribution, measured=measured, key=key, references=lines.get(key, {})),
                size=size,
            )
            for key in keys
        ]

    against_norm = Picture(
        name=f"by_norm_{n}",
        caption="The release's discrepancy against the norm of the embeddings, a point a batch. Where models of other depth or training lie on "
        "one rising line, the discrepancy tells their norm and no more.",
        draw=partial(by_norm, measured=measured),
    )
    sections = [
        Section(
            title=f"Batches of {n:,}: structure, whatever the scale",
            pictures=pictures(ALIGNMENT),
            table=_table(measured, ALIGNMENT, [["chance", *(chance[key] for key in ALIGNMENT)]], CHANCE),
        ),
        Section(
            title=f"Batches of {n:,}: scale, and what follows it",
            pictures=[*pictures(SCALE), *([against_norm] if 1 < len(names) <= 5 else [])],
            table=_table(measured, SCALE, []),
        ),
        Section(
            title=f"Batches of {n:,}: identities",
            text=f"Of all pairs in a batch {within['chance']:.2%} show one person; a tree that joins each person's images first has "
            f"{within['best']:.1%} of its edges within identities, the tree of the images {within['pixels']:.1%} (medians).",
            pictures=pictures(IDENTITY),
            table=_table(
                measured,
                IDENTITY,
                [
                    ["best possible", f"{100 * within['best']:.1f}"],
                    ["images", f"{100 * within['pixels']:.1f}"],
                ],
            ),
        ),
    ]
    if len(names) > 1:
        sections.append(_differences_section(measured))
    return sections


def _table(
    measured: Measured, keys: Mapping[str, Measure], more: Sequence[Sequence[str]], note: str = ""
) -> Table:
    rows = [
        [name, *(MEASURES[key].shown(values[key]) for key in keys)]
        for name, values in measured.by_model.items()
    ]
    return Table(
        header=["", *(MEASURES[key].heading for key in keys)],
        rows=[*rows, *more],
        caption=f"Median over the batches (95 % of them). {note}",
    )


def _differences_section(measured: Measured) -> Section:
    first, *others = measured.by_model
    rows = []
    for key, figure in MEASURES.items():
        gaps = [measured.by_model[name][key] - measured.by_model[first][key] for name in others]
        rows.append(
            [
                figure.heading,
                *(f"{figure.shown(gap, sign=True)}; {np.mean(gap > 0):.0%} above" for gap in gaps),
            ]
        )
    return Section(
        title=f"Batches of {measured.n:,}: differences from {first}",
        text="Each model minus the first, batch by batch: batches that are difficult for all drop out of the comparison.",
        table=Table(
            header=["", *others],
            rows=rows,
            caption="Median over the batches (95 % of them); share of batches in which the model lies above the first.",
        ),
    )


def _growth_section(results: Sequence[Measured]) -> Section:
    first = next(iter(results[0].by_model))

    def picture(name: str, caption: str, key: str, *, total: bool = False) -> Picture:
        return Picture(
            name=name, caption=caption, draw=partial(growth, results=results, key=key, total=total)
        )

    return Section(
        title="What the batch size does by itself",
        text=f"Larger batches have more edges to sum over, and their edges are shorter. Even the same embeddings (of {first}) dealt out to other images "
        f"have a paired discrepancy of {results[0].shuffled[first]:.3f} per edge in batches of {results[0].n:,} and of "
        f"{results[-1].shuffled[first]:.3f} in batches of {results[-1].n:,}. So compare models at one size only.",
        pictures=[
            picture(
                "growth_sum",
                "Sum over the edges, as the paper draws it.",
                "paired",
                total=True,
            ),
            picture("growth_paired", "The same per edge.", "paired"),
            picture(
                "growth_overlap", "Common edges. Dashed: independent trees, which share 2 / n.", "overlap"
            ),
        ],
    )
