"""``topoface codes decode``: can a run spell out who is on its training images, and which labels does it doubt?

A diagnostic and no evaluation: it knows the training identities only (section 6 of our reading of GIF). Probabilities are
products of token probabilities, without margin; the beam follows codes that somebody has.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from topoface.codes.description import shape_text
from topoface.data.source import SYNTHETIC
from topoface.diagnostics.calibration import mean_over
from topoface.diagnostics.opening import embed_raw, open_run, progress_bar
from topoface.diagnostics.page import Face, Page, Section, Table, check_out, write_page
from topoface.diagnostics.prediction import Floats, Integers, sample_name
from topoface.errors import UserError
from topoface.evaluation.images import SourceImages
from topoface.evaluation.report import jpeg_of
from topoface.files import write_text
from topoface.functional.draws import generator
from topoface.functional.prefix_tree import NextToken, PrefixTree, beam_search
from topoface.heads.identity_code import IdentityCode
from topoface.training.run import Run

_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a run reads off n training images, clean and not mirrored.

    Attributes:
        positions: int64 ``[n]``, in the source.
        rows: int64 ``[n]``, row of the code table of each label.
        found: int64 ``[n, w]``, rows that the beam ends with, most likely first.
        likelihood: float64 ``[n]``, log of the product of token probabilities of the first of them.
        own: float64 ``[n]``, the same of the label's code.
        tokens: bool ``[n, L]``, whether the most likely token after the label's own prefix is the label's.
    """

    positions: Integers
    rows: Integers
    found: Integers
    likelihood: Floats
    own: Floats
    tokens: np.ndarray

    @property
    def doubt(self) -> Floats:
        """``[n]``: by how much (nats) another identity is likelier than the label; 0 where none is."""
        return np.where(self.found[:, 0] == self.rows, 0.0, np.maximum(self.likelihood - self.own, 0))


def decode(run: str, *, samples: int | None, width: int, count: int, seed: int, out: Path) -> None:
    """Decode training images of a run that has an `IdentityCode` head.

    Args:
        run: a run directory with a checkpoint.
        samples: images to look at, drawn; all if None.
        width: of the beam.
        count: faces with a doubtful label that are shown.
        seed: of the draw and the bootstrap.
        out: gets ``decoded.html``, ``decoded.json`` and ``decoded_samples.csv``.

    Raises:
        UserError: no usable run, one with another head, an image that cannot be read, or a folder that cannot be written.
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
    total = len(opened.source)
    positions = np.arange(total)
    if samples is not None and samples < total:
        positions = np.sort(generator(seed, "decoded images").choice(total, samples, replace=False))
    head.connect(opened.source)
    found = decoded(opened, head, positions, width)
    labels = np.asarray(opened.source.labels)[positions]
    right = {
        name: mean_over(hits.astype(np.float64), labels, seed=seed)
        for name, hits in (
            ("first", found.found[:, 0] == found.rows),
            ("beam", (found.found == found.rows[:, None]).any(1)),
        )
    }
    doubtful = np.argsort(-found.doubt, kind="stable")
    doubtful = doubtful[found.doubt[doubtful] > 0]
    table = head.codes.table
    arguments = [run, "--samples", "all" if samples is None else str(samples), "--width", str(width)]
    arguments += ["--count", str(count), "--seed", str(seed), "--out", str(out)]
    first, beam = right["first"], right["beam"]
    page = Page(
        name="decoded",
        title="What the codes say of the training images",
        lead=f"Of {len(labels):,} training images the likeliest identity is the labelled one for {first.value:.1%} (95 % interval "
        f"{first.low:.1%} to {first.high:.1%}), and it is among the {found.found.shape[1]} of the beam for {beam.value:.1%}. Chance is "
        f"{1 / table.num_identities:.2%}.",
        sections=[
            _accuracy_section(found, table.alphabets),
            _doubt_section(opened, found, table.uids, doubtful, count),
        ],
        numbers={
            "images": len(labels),
            "width": width,
            "right": {name: each._asdict() for name, each in right.items()},
            "tokens": found.tokens.mean(0),
            "prefixes": _prefix_accuracy(found, table.codes),
            "doubtful": len(doubtful),
        },
        facts={
            "run": f"{run} (step {opened.step:,} of {opened.total_steps:,}; {opened.recipe.model.name})",
            "codes": f"{table.path} ({table.digest[:16]}), {shape_text(table.alphabets)}",
            "images": f"{len(labels):,} of {total:,} in {opened.source.uri}, clean, not mirrored",
            "intervals": "95 %, bootstrap over identities",
            "seed": str(seed),
        },
        command="topoface codes decode " + shlex.join(arguments),
        real_faces=not opened.source.uri.startswith(SYNTHETIC),
    )
    path = write_page(out, page)
    lines = ["index,label,likelier,doubt_nats"]
    lines += [
        f"{positions[i]},{table.uids[int(found.rows[i])]},{table.uids[int(found.found[i, 0])]},{found.doubt[i]:.4f}"
        for i in doubtful
    ]
    write_text(out / "decoded_samples.csv", "\n".join(lines) + "\n")
    print(page.lead)
    print(f"page: {path}")


@torch.no_grad()
def decoded(run: Run, head: IdentityCode, positions: Integers, width: int) -> Decoded:
    """Beam search over images ``[n]`` of the run's source."""
    table = head.codes.table
    tree = PrefixTree.of(torch.from_numpy(table.codes.astype(np.int64)))
    names = run.source.names
    rows = table.rows_of([names[label] for label in np.asarray(run.source.labels)[positions]], "labels")
    parts: list[tuple[Tensor, ...]] = []
    with progress_bar("images") as bar:
        task = bar.add_task("decoding", total=len(positions))
        for start in range(0, len(positions), _BATCH):
            some = positions[start : start + _BATCH]
            images = SourceImages(run.source, [int(i) for i in some])
            embeddings = embed_raw(run.model, np.stack([images[i] for i in range(len(some))]))
            ask = head.next_token(embeddings)
            codes = torch.from_numpy(table.tokens(rows[start : start + len(some)]))
            found, scores = beam_search(ask, tree, width, len(some))
            parts.append((found, scores[:, 0], *_along(ask, codes)))
            bar.update(task, advance=len(some))
    ends, likelihood, own, right = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return Decoded(
        positions=positions,
        rows=rows,
        found=ends,
        likelihood=likelihood.astype(np.float64),
        own=own.astype(np.float64),
        tokens=right,
    )


def _along(ask: NextToken, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood ``[n]`` of codes ``[n, L]``, and whether each token is the likeliest after those before it."""
    total, right = torch.zeros(len(codes)), []
    for j in range(codes.shape[1]):
        log_p = ask(codes[:, None, :j])[:, 0]
        total = total + log_p.gather(1, codes[:, j, None])[:, 0]
        right.append(log_p.argmax(1) == codes[:, j])
    return total, torch.stack(right, 1)


def _prefix_accuracy(found: Decoded, codes: np.ndarray) -> Floats:
    """Share ``[L]`` of images whose likeliest identity begins with the label's first 1, 2, .. tokens."""
    same = codes[found.found[:, 0]] == codes[found.rows]
    shares: Floats = np.logical_and.accumulate(same, axis=1).mean(0)
    return shares


def _accuracy_section(found: Decoded, alphabets: tuple[int, ...]) -> Section:
    rows = [
        (
            f"{j + 1}",
            f"{k}",
            f"{1 / k:.1%}",
            f"{found.tokens[:, j].mean():.1%}",
            f"{found.tokens[:, : j + 1].all(1).mean():.1%}",
        )
        for j, k in enumerate(alphabets)
    ]
    return Section(
        title="Token by token",
        text="A position near chance is dead: its classifier has learned nothing, and only what comes before it tells identities apart. These are images the "
        "run was trained on, so the figures show what it could learn, not how it does on strangers.",
        table=Table(
            header=["position", "tokens", "chance", "token right", "all up to here right"], rows=rows
        ),
    )


def _doubt_section(run: Run, found: Decoded, uids: Sequence[str], doubtful: Integers, count: int) -> Section:
    source = run.source
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
                    f"label {own}, likelier {other}",
                    f"by {found.doubt[i]:.1f} nats",
                    sample_name(source, position),
                ],
            )
        )
    text = (
        f"For {len(doubtful):,} images another identity's code is likelier than the label's. The difference is in nats. A wrong label, two labels of one "
        "person, and a hard picture all look like this. Beside each face: another one of its label, and one of the likelier identity."
    )
    return Section(title="Labels to doubt", text=text, faces=faces)
