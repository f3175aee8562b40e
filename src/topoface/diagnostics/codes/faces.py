"""Faces of identities that share the first tokens of their code."""

import numpy as np

from topoface.codes.packing import pack
from topoface.codes.table import CodeTable
from topoface.data import Source
from topoface.diagnostics.codes.measured import SAMPLED
from topoface.diagnostics.page import Face, Section
from topoface.diagnostics.prediction import Integers, sample_name
from topoface.errors import UserError
from topoface.evaluation.images import SourceImages
from topoface.evaluation.report.page import jpeg_of
from topoface.functional.draws import generator

SHOWN = 9
"""Identities of one prefix that are shown."""


LEAST = 4
"""Identities without which a prefix is not shown."""


def prefix_sections(table: CodeTable, source: Source, count: int, seed: int) -> list[Section]:
    """So many drawn prefixes, the faces under each in a section of its own.

    The longest prefixes are taken that still have faces enough.

    Raises:
        UserError: the source has none of the table's identities, or a face cannot be read.
    """
    known = {uid: row for row, uid in enumerate(table.uids)}
    labels = np.full(table.num_identities, -1)
    for label, name in enumerate(source.names):
        if name in known:
            labels[known[name]] = label
    if (labels < 0).all():
        raise UserError(
            f"has no identity of {table.path}", source.uri, "name the source the codes were built from"
        )
    first_image = np.full(source.identities, -1)
    first_image[np.asarray(source.labels)[::-1]] = np.arange(len(source))[::-1]
    rows = np.flatnonzero((labels >= 0) & (first_image[labels] >= 0))
    length, groups = _groups(table, rows, count)
    order = generator(seed, "code prefixes").permutation(len(groups))[:count]
    return [_section(table, source, groups[int(i)], labels, first_image, length, seed) for i in order]


def _groups(table: CodeTable, rows: Integers, count: int) -> tuple[int, list[Integers]]:
    """Table rows under each prefix of the longest length that has enough of them together."""
    for length in range(table.length - 1, 0, -1):
        packed = pack(table.codes[rows, :length], table.alphabets)
        order = np.argsort(packed, kind="stable")
        cuts = np.flatnonzero(np.diff(packed[order])) + 1
        groups = [rows[each] for each in np.split(order, cuts)]
        full = [group for group in groups if len(group) >= LEAST]
        if len(full) >= count:
            return length, full
        if length == 1:
            return length, full or groups
    return 0, [rows]


def _section(
    table: CodeTable,
    source: Source,
    group: Integers,
    labels: Integers,
    first_image: Integers,
    length: int,
    seed: int,
) -> Section:
    some = np.sort(generator(seed, "code faces", int(group[0])).permutation(group)[:SHOWN])
    faces = []
    for row in some:
        position = int(first_image[labels[row]])
        jpeg = jpeg_of(SourceImages(source, [position])[0])
        faces.append(
            Face(jpeg=jpeg, name=sample_name(source, position), lines=[f"identity {table.uids[int(row)]}"])
        )
    prefix = " ".join(str(token) for token in table.codes[some[0], :length])
    text = f"{len(some)} of {len(group):,} identities, a picture of each."
    if table.vectors is not None and len(group) > 1:
        vectors = table.unit_vectors(group[:SAMPLED])
        cosine = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)].mean()
        text += f" Their code vectors have a mean cosine of {cosine:.2f}."
    words = {0: "All codes", 1: f"Codes that begin with token {prefix}"}
    return Section(title=words.get(length, f"Codes that begin with tokens {prefix}"), text=text, faces=faces)
