"""``topoface codes report``: a table of codes as a page: prefixes, tokens, vectors beside learned centers, faces that share a prefix."""

import math
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from topoface.codes.description import describe, shape_text, token_use
from topoface.codes.table import CodeTable, open_table
from topoface.data import open_source
from topoface.data.source import SYNTHETIC
from topoface.diagnostics.codes.centers import Centers, compare_centers
from topoface.diagnostics.codes.encoder import encoder_section, encoder_words, judge_encoder
from topoface.diagnostics.codes.faces import prefix_sections
from topoface.diagnostics.codes.measured import Level, Pairs, levels, vector_pairs
from topoface.diagnostics.codes.pictures import draw_pairs, draw_use, weighted_use
from topoface.diagnostics.page import Page, Picture, Section, Table, check_out, write_page
from topoface.errors import UserError
from topoface.evaluation import Verification


@dataclass(frozen=True, kw_only=True)
class _Found:
    table: CodeTable
    levels: list[Level]
    pairs: Pairs | None
    centers: Centers | None
    encoder: Verification | None


def report(
    table: str,
    *,
    source: str | None,
    run: str | None,
    pairs: str | None,
    encoder: str | None,
    count: int,
    seed: int,
    out: Path,
) -> None:
    """Show what a table of codes holds.

    Args:
        table: a folder that ``topoface codes build`` wrote.
        source: whose faces are shown; that which the table was built from if None and it is still there.
        run: a run directory, whose learned class centers are compared with the code vectors; or None.
        pairs: verification pairs on which the table's encoder is judged; or None.
        encoder: where the table's encoder lies now; where it was if None.
        count: prefixes of which faces are shown.
        seed: draws pairs and prefixes.
        out: gets ``codes.html``, ``codes.json`` and the pictures.

    Raises:
        UserError: no usable table, source or run, or a folder that cannot be written.
    """
    check_out(out)
    if count < 1:
        raise UserError(f"is {count}", "--count", "show 1 prefix or more")
    if encoder and not pairs:
        raise UserError(
            "judges the encoder on pairs, and none are named", "--encoder", "name them with --pairs"
        )
    opened = open_table(table)
    faces = open_source(source or str(opened.meta.get("source", "")))
    found = _find(opened, run, pairs, encoder, seed)
    arguments = [table]
    for option, value in (("--source", source), ("--run", run), ("--pairs", pairs), ("--encoder", encoder)):
        arguments += [option, value] if value else []
    arguments += ["--count", str(count), "--seed", str(seed), "--out", str(out)]
    page = Page(
        name="codes",
        title="Identity codes",
        lead=_lead(found),
        sections=[
            *([encoder_section(found.encoder)] if found.encoder is not None else []),
            *([_vectors_section(found)] if found.pairs is not None else []),
            *([found.centers.section()] if found.centers is not None else []),
            *prefix_sections(opened, faces, count, seed),
            _prefix_section(found),
            _tokens_section(opened),
        ],
        numbers=_numbers(found),
        facts=dict(describe(opened)) | _facts(run, found.encoder) | {"seed": str(seed)},
        command="topoface codes report " + shlex.join(arguments),
        real_faces=not faces.uri.startswith(SYNTHETIC),
    )
    path = write_page(out, page)
    print(page.lead)
    print(f"page: {path}")


def _find(table: CodeTable, run: str | None, pairs: str | None, encoder: str | None, seed: int) -> _Found:
    return _Found(
        table=table,
        levels=levels(table),
        pairs=vector_pairs(table, seed) if table.vectors is not None else None,
        centers=compare_centers(table, run, seed) if run is not None else None,
        encoder=judge_encoder(table, pairs, encoder) if pairs is not None else None,
    )


def _facts(run: str | None, encoder: Verification | None) -> dict[str, str]:
    facts = {"run": run} if run else {}
    return facts | ({"encoder judged on": encoder.protocol.uri, **encoder.contract} if encoder else {})


# --- sections ----------------------------------------------------------------------------------------------


def _vectors_section(found: _Found) -> Section:
    pairs, meta = found.pairs, found.table.meta
    assert pairs is not None
    rows = [
        (f"{k}", f"{n:,}", f"{mean:.3f}", f"{math.degrees(math.acos(max(min(mean, 1), -1))):.0f}°")
        for k, n, mean in pairs.means()
    ]
    text = (
        "A code means something as far as identities that share its first tokens have code vectors that lie together. If the curves "
        "coincide, tokens are arbitrary names, and a head can only learn them by heart."
    )
    if "explained" in meta:
        shares = ", ".join(f"{share:.0%}" for share in meta["explained"])
        text += f" Adding up what the tokens stand for, the first 1, 2, .. of them tell {shares} of the variance of the vectors."
    return Section(
        title="What shared tokens say of two identities",
        text=text,
        pictures=[
            Picture(
                name="pairs",
                draw=partial(draw_pairs, pairs=pairs),
                caption="Cosine of the code vectors of two identities, by how many of their first tokens agree. Each curve is drawn to the same area.",
            )
        ],
        table=Table(header=["first tokens shared", "pairs", "mean cosine", "its angle"], rows=rows),
    )


def _prefix_section(found: _Found) -> Section:
    rows = [
        (
            f"{length}",
            f"{len(level.sizes):,}",
            f"{level.sizes.min():,}",
            f"{np.median(level.sizes):,.0f}",
            f"{level.sizes.max():,}",
            f"{level.shared / found.table.num_identities:.1%}",
        )
        for length, level in enumerate(found.levels, 1)
    ]
    return Section(
        title="How many share a prefix",
        text="Each further token divides those who share the ones before. In balanced codes siblings differ by one at most; the whole code belongs "
        "to one identity alone.",
        table=Table(
            header=["tokens", "prefixes", "fewest", "median", "most", "identities not alone"], rows=rows
        ),
    )


def _tokens_section(table: CodeTable) -> Section:
    pictures = [
        Picture(
            name="tokens",
            draw=partial(draw_use, use=token_use(table), what="identities"),
            caption="Identities that each token stands for, most frequent first, relative to the mean. A flat line uses all tokens alike.",
        )
    ]
    if "images" in table.folder:
        images = np.asarray(table.folder.array("images"), np.int64)
        pictures.append(
            Picture(
                name="token_images",
                draw=partial(draw_use, use=weighted_use(table.codes, images, table.alphabets), what="images"),
                caption="The same over training images: what the head's classes see. It is less even, since identities differ in their images.",
            )
        )
    return Section(
        title="How evenly tokens are used",
        text="A token that nobody has only gets pushed away; one that very many have is a class of its own size.",
        pictures=pictures,
    )


# --- words and numbers -------------------------------------------------------------------------------------


def _lead(found: _Found) -> str:
    table = found.table
    words = (
        f"{table.num_identities:,} identities have codes of {shape_text(table.alphabets)} tokens: a head with "
        f"{sum(table.alphabets):,} rows instead of {table.num_identities:,}, which spans {sum(k - 1 for k in table.alphabets):,} directions. "
    )
    if found.pairs is not None:
        (_, _, none), *more = found.pairs.means()
        if more:
            words += f"Two code vectors have a mean cosine of {none + 0.0:.3f} without and {more[0][2]:.3f} with a shared first token. "
    if found.encoder is not None:
        words += encoder_words(found.encoder) + " "
    if found.centers is not None:
        words += found.centers.headline()
    return words.strip()


def _numbers(found: _Found) -> dict[str, Any]:
    table = found.table
    numbers: dict[str, Any] = {
        "digest": table.digest,
        "alphabets": table.alphabets,
        "made": dict(table.meta),
        "prefixes": [
            {"tokens": length, "nodes": len(level.sizes), "sizes": np.quantile(level.sizes, [0, 0.5, 1])}
            for length, level in enumerate(found.levels, 1)
        ],
        "token_use": token_use(table),
    }
    if found.pairs is not None:
        numbers["shared_tokens"] = [
            {"shared": k, "pairs": n, "mean_cosine": mean} for k, n, mean in found.pairs.means()
        ]
    if found.centers is not None:
        numbers |= found.centers.numbers()
    if found.encoder is not None:
        numbers["encoder"] = found.encoder.to_json()
    return numbers
