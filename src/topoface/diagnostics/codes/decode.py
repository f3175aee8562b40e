"""``topoface codes decode``: can a run spell out who is on its training images, and which labels does it doubt?

A diagnostic and no evaluation: it knows the training identities only (section 6 of our reading of GIF). Probabilities are
products of token probabilities, without margin; the beam follows codes that somebody has.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from topoface.codes.description import shape_text
from topoface.codes.table import CodeTable
from topoface.data import Source, open_source
from topoface.data.source import SYNTHETIC
from topoface.diagnostics.calibration import mean_over
from topoface.diagnostics.codes.decoded import Decoded, decoded, prefix_accuracy
from topoface.diagnostics.opening import open_run
from topoface.diagnostics.page import Face, Page, Section, Table, check_out, write_page
from topoface.diagnostics.prediction import Integers, sample_name
from topoface.errors import UserError
from topoface.evaluation.images import SourceImages
from topoface.evaluation.report.page import jpeg_of
from topoface.files import write_text
from topoface.functional.draws import generator
from topoface.heads.identity_code import IdentityCode

_KNOWS = 0.8
"""Share of the images that a run must read right for its doubts to say much of labels."""


def decode(
    run: str,
    *,
    source: str | None,
    samples: int | None,
    width: int,
    count: int,
    seed: int,
    out: Path,
) -> None:
    """Decode images of the training identities of a run that has an `IdentityCode` head.

    Args:
        run: a run directory with a checkpoint.
        source: other images of the same identities, by their names; those that the run was trained on if None.
        samples: images to look at, drawn; all if None.
        width: of the beam.
        count: faces with a doubtful label that are shown.
        seed: of the draw and the bootstrap.
        out: gets ``decoded.html``, ``decoded.json`` and ``decoded_samples.csv``.

    Raises:
        UserError: no usable run, one with another head, identities without a code, an image that cannot be read, or a folder that cannot be written.
    """
    check_out(out)
    for name, value in (
        ("--width", width),
        ("--count", count),
        ("--samples", 1 if samples is None else samples),
    ):
        if value < 1:
            raise UserError(f"is {value}", name, "give 1 or more")
    opened = open_run(run)
    head = opened.head
    if not isinstance(head, IdentityCode):
        raise UserError(
            f"has the head {type(head).__name__}, which reads no codes",
            run,
            "give a run with an IdentityCode head",
        )
    faces = opened.source if source is None else open_source(source)
    total = len(faces)
    positions = np.arange(total)
    if samples is not None and samples < total:
        positions = np.sort(generator(seed, "decoded images").choice(total, samples, replace=False))
    found = decoded(opened.model, head, faces, positions, width)
    labels = np.asarray(faces.labels)[positions]
    right = {
        name: mean_over(hits.astype(np.float64), labels, seed=seed)
        for name, hits in (
            ("first", found.found[:, 0] == found.rows),
            ("beam", (found.found == found.rows[:, None]).any(1)),
        )
    }
    doubtful = found.doubtful()
    table = head.codes.table
    arguments = [run] + (["--source", source] if source else [])
    arguments += ["--samples", "all" if samples is None else str(samples), "--width", str(width)]
    arguments += ["--count", str(count), "--seed", str(seed), "--out", str(out)]
    first, beam = right["first"], right["beam"]
    page = Page(
        name="decoded",
        title="What the codes say of the training images"
        if source is None
        else "What the codes say of these images",
        lead=f"Of {len(labels):,} {'training images' if source is None else 'images'} the likeliest identity is the labelled one for {first.value:.1%} (95 % interval "
        f"{first.low:.1%} to {first.high:.1%}), and it is among the {found.found.shape[1]} of the beam for {beam.value:.1%}. Chance is "
        f"{1 / table.num_identities:.2%}.",
        sections=[
            _accuracy_section(found, table, trained_on=source is None),
            _doubt_section(faces, found, table.uids, doubtful, count, first.value),
        ],
        numbers={
            "images": len(labels),
            "width": width,
            "right": {name: each._asdict() for name, each in right.items()},
            "tokens": found.tokens.mean(0),
            "prefixes": prefix_accuracy(found, table.codes),
            "doubtful": len(doubtful),
        },
        facts={
            "run": f"{run} (step {opened.step:,} of {opened.total_steps:,}; {opened.recipe.model.name})",
            "codes": f"{table.path} ({table.digest[:16]}), {shape_text(table.alphabets)}",
            "images": f"{len(labels):,} of {total:,} in {faces.uri}, clean, not mirrored",
            "intervals": "95 %, bootstrap over identities",
            "seed": str(seed),
        },
        command="topoface codes decode " + shlex.join(arguments),
        real_faces=not faces.uri.startswith(SYNTHETIC),
    )
    path = write_page(out, page)
    lines = ["index,label,likelier,doubt_nats,odd_nats"]
    lines += [
        f"{positions[i]},{table.uids[int(found.rows[i])]},{table.uids[int(found.found[i, 0])]},{found.doubt[i]:.4f},{found.oddness[i]:.4f}"
        for i in doubtful
    ]
    write_text(out / "decoded_samples.csv", "\n".join(lines) + "\n")
    print(page.lead)
    print(f"page: {path}")


def _accuracy_section(found: Decoded, table: CodeTable, *, trained_on: bool) -> Section:
    prefixes = prefix_accuracy(found, table.codes)
    rows = [
        (
            f"{j + 1}",
            f"{k}",
            f"{1 / k:.1%}",
            f"{found.tokens[:, j].mean():.1%}",
            f"{found.tokens[:, : j + 1].all(1).mean():.1%}",
            f"{prefixes[j]:.1%}",
        )
        for j, k in enumerate(table.alphabets)
    ]
    text = (
        "A position near chance is dead: its classifier has learned nothing, and only what comes before it tells identities apart. Token by token, each is "
        "the likeliest of all after the label's own before it; the identity that is likeliest in all, of those that exist, may begin with the right "
        "tokens more often, or less."
    )
    if trained_on:
        text += " These are images the run was trained on, so the figures show what it could learn, not how it does on others."
    return Section(
        title="Token by token",
        text=text,
        table=Table(
            header=[
                "position",
                "tokens",
                "chance",
                "right",
                "all so far right",
                "likeliest identity agrees so far",
            ],
            rows=rows,
        ),
    )


def _doubt_section(
    source: Source,
    found: Decoded,
    uids: Sequence[str],
    doubtful: Integers,
    count: int,
    right: float,
) -> Section:
    labels = np.asarray(source.labels)
    faces = []
    names = source.names
    label_of = {name: label for label, name in enumerate(names)}

    def picture(label: int, besides: int) -> list[tuple[str, str]]:
        others = np.flatnonzero((labels == label) & (np.arange(len(labels)) != besides))
        if not len(others):
            return []
        i = int(others[0])
        return [(jpeg_of(SourceImages(source, [i])[0]), f"of {names[label]}: {sample_name(source, i)}")]

    for i in doubtful[:count]:
        position = int(found.positions[i])
        own, other = uids[int(found.rows[i])], uids[int(found.found[i, 0])]
        beside = picture(label_of[own], position)
        beside += picture(label_of[other], position) if other in label_of else []
        faces.append(
            Face(
                jpeg=jpeg_of(SourceImages(source, [position])[0]),
                name=sample_name(source, position),
                beside=beside,
                lines=[
                    f"label {own}: {found.oddness[i]:.1f} nats below its others",
                    f"likelier {other}, by {found.doubt[i]:.1f} nats",
                    sample_name(source, position),
                ],
            )
        )
    text = (
        f"For {len(doubtful):,} images another identity's code is likelier than the label's. First come those whose label is least likely beside the other images "
        "of the same label: a hard person is hard throughout, a wrong label stands alone. Two labels of one person and a hard picture look like this too. Beside "
        "each face: another one of its label, and one of the likelier identity."
    )
    if right < _KNOWS:
        text += f"\n\nThis run reads only {right:.0%} of the images right, so most of these doubts are about itself; one that knows its faces better names fewer."
    return Section(title="Labels to doubt", text=text, faces=faces)
