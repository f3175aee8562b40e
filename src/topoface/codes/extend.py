"""The identities of another source into a table of codes that exists: a new table, in which nobody's code has changed."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoface.codes.build import RANDOM, BuildSettings, Show, read_classes
from topoface.codes.encoders import STORED, encoder_digest
from topoface.codes.folder import check_absent
from topoface.codes.insertion import check_capacity, codes_for
from topoface.codes.names import encoded, numbered, origin
from topoface.codes.space import measure_space
from topoface.codes.statistics import Shrinkage
from topoface.codes.table import CodeTable, write_table
from topoface.codes.vectors import Transform, random_vectors
from topoface.data.source import Source
from topoface.errors import UserError

_FILTER = tuple(f"shrink_{field.name}" for field in fields(Shrinkage))
_OF_THE_OLD = ("explained", "treatment")
_KEPT = ("center", "matrix", *_FILTER)


def extend(
    table: CodeTable, source: Source, out: Path, *, encoder: str | None = None, show: Show = lambda *_: None
) -> CodeTable:
    """Give codes to the identities of a source that have none yet.

    Their vectors are made as those of the table were, by the means and maps that lie beside it; spreading is not repeated.

    Args:
        table: made by `build`.
        source: identities that the table knows by name are passed over.
        out: folder of the new table, which must not exist.
        encoder: where the table's encoder lies now, or embeddings of this source by it; None looks where it was.
        show: told of progress.

    Raises:
        UserError: there is nobody new, no room, no encoder or another one, or names are but numbers.
    """
    check_absent(out)
    names = source.names  # once: a source may make them anew each time
    if numbered(origin(source).names):
        raise UserError(
            "names its identities by number alone, which says nothing of who they are",
            source.uri,
            "put each person's images into a folder of that name, or build codes from all faces anew",
        )
    known = set(table.uids)
    new = np.array([name not in known for name in names])
    if not new.any():
        raise UserError(f"has no identity that {table.path} lacks", source.uri, "there is nothing to insert")
    check_capacity(table, int(new.sum()))  # before the images are read, which may take hours
    labels = np.flatnonzero(new)
    labels = labels[np.argsort(encoded([names[int(label)] for label in labels]), kind="stable")]
    vectors, looked_at = _vectors(table, source, labels, new, encoder, show)
    codes = codes_for(table, vectors, progress=lambda done, total: show("identities", done, total))
    arrays: dict[str, NDArray[Any]] = {
        name: table.folder.array(name) for name in _KEPT if name in table.folder
    }
    uids = [*table.uids, *(names[int(label)] for label in labels)]
    order = np.argsort(encoded(uids), kind="stable")
    if "images" in table.folder:
        counts = np.bincount(source.labels, minlength=source.identities)[labels]
        arrays["images"] = np.concatenate([table.folder.array("images"), counts])[order]
    old = table.unit_vectors(np.arange(table.num_identities))
    whole = np.concatenate([old, vectors])[order]
    facts = {name: value for name, value in table.meta.items() if name not in _OF_THE_OLD}
    facts |= {"space": measure_space(whole)._asdict(), "inserted": len(labels), "inserted_from": source.uri}
    if "images" in facts:
        facts["images"] += looked_at
    return write_table(
        out,
        codes=np.concatenate([table.codes, codes])[order],
        alphabets=table.alphabets,
        uids=[uids[row] for row in order],
        vectors=whole,
        books=table.books,
        arrays=arrays,
        meta={**facts, "extends": table.digest},
    )


def _vectors(
    table: CodeTable,
    source: Source,
    labels: NDArray[np.int64],
    new: NDArray[np.bool_],
    encoder: str | None,
    show: Show,
) -> tuple[NDArray[np.float32], int]:
    """Code vectors ``[n, D]`` of labels ``[n]``, and how many images were looked at for them."""
    settings = BuildSettings(
        **{field.name: table.meta[field.name] for field in fields(BuildSettings) if field.name in table.meta}
    )
    encoder = encoder or settings.encoder
    if settings.encoder == RANDOM:
        total = table.num_identities + len(labels)
        vectors = random_vectors(total, int(table.meta["dimension"]), settings.seed)[table.num_identities :]
        return vectors, 0
    if not encoder.endswith(STORED) and encoder_digest(encoder) != table.meta["encoder_sha256"]:
        raise UserError(f"is not the encoder that {table.path} was made with", encoder, "give that one")
    seen = read_classes(source, settings, show, encoder=encoder, only=new)
    means, counts = seen.means(labels), seen.counts[labels]
    if not counts.all():
        name = source.names[int(labels[counts.argmin()])]
        raise UserError(f"identity {name!r} has no image", source.uri, "remove it, or give it one")
    if means.shape[1] != table.meta["encoder_dimension"]:
        raise UserError(
            f"gives {means.shape[1]} dimensions, the table's encoder gave {table.meta['encoder_dimension']}",
            encoder,
            "give the encoder that the table was made with",
        )
    if _FILTER[0] in table.folder:
        means = Shrinkage(
            **{
                field.name: np.asarray(table.folder.array(f"shrink_{field.name}"))
                for field in fields(Shrinkage)
            }
        )(means, counts)
    turn = Transform(
        center=np.asarray(table.folder.array("center")), matrix=np.asarray(table.folder.array("matrix"))
    )
    return turn(means), int(counts.sum())
