"""Attributes of images and people from a CSV, and which group each pair of a protocol belongs to."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.evaluation.figures import count_of
from topoface.evaluation.images import SUFFIXES
from topoface.evaluation.pairs.lists import parse_pair_list
from topoface.evaluation.pairs.protocol import PairProtocol

KEYS: Final = ("image", "person")
REMEDY: Final = "write a CSV with a header: image or person, then a column for each attribute"
UNKNOWN: Final = ("", "nan")
FEW: Final = 6  # so many different numbers are groups themselves; more are put into quartiles
MOST: Final = 20  # so many groups fit a table and a map; a column of more is no grouping
AGES: Final = frozenset({"age", "year"})
ANGLES: Final = frozenset({"pose", "yaw", "pitch", "roll", "angle"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouping:
    """Which groups the pairs of a protocol belong to.

    Attributes:
        name: of the attribute.
        rule: how a pair comes to its groups, in words.
        labels: the groups' names, in order.
        sides: int64 ``[m, 2]``: groups of the two images of each pair, -1 where unknown; twice the same where the rule gives a
            pair one group.
        unknown: images without a value.
    """

    name: str
    rule: str
    labels: tuple[str, ...]
    sides: NDArray[np.int64]
    unknown: int


class Groupings(NamedTuple):
    """All groupings of a protocol, and what a reader of their figures should know, a sentence each."""

    groupings: tuple[Grouping, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AttributeTable:
    """A CSV of attributes as it stands.

    Attributes:
        where: the file.
        key: ``image`` or ``person``.
        names: of images or people, one a row; none twice.
        columns: the other columns' values by their names; empty where unknown.
    """

    where: str
    key: str
    names: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]


def read_attributes(path: Path) -> AttributeTable:
    """Read a CSV of attributes.

    Raises:
        UserError: it cannot be read, has no key column or no attribute, a row of another length, or a name twice.
    """
    where = str(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where, "check the file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"is no UTF-8 text (byte {error.start})", where, REMEDY) from error
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        numbered = [(reader.line_num, [field.strip() for field in row]) for row in reader if any(row)]
    except csv.Error as error:
        raise UserError(f"is no CSV ({error})", f"{where}:{reader.line_num}", REMEDY) from error
    if not numbered:
        raise UserError("is empty", where, REMEDY)
    (_, header), *rows = numbered
    key = next((name for name in KEYS if name in header), None)
    if key is None or len(header) < 2 or not all(header) or len(set(header)) < len(header):
        raise UserError(f"its first line is {', '.join(header)[:80]!r}", f"{where}:1", REMEDY)
    lines: dict[str, int] = {}
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"has {len(row)} of {len(header)} values", f"{where}:{line}", "leave unknown values empty"
            )
        name = row[header.index(key)]
        if name in lines:
            raise UserError(f"names {name!r} again (line {lines[name]})", f"{where}:{line}", "name it once")
        lines[name] = line
    return AttributeTable(
        where=where,
        key=key,
        names=tuple(lines),
        columns={
            column: tuple("" if row[k].lower() in UNKNOWN else row[k] for _, row in rows)
            for k, column in enumerate(header)
            if column != key
        },
    )


def group_pairs(table: AttributeTable, protocol: PairProtocol) -> Groupings:
    """Put the pairs of a protocol into groups, an attribute at a time.

    Images are matched by the name that the protocol gives them, with or without suffix; people by the folder that holds their
    pictures (of drawn faces: by the identity's number), or as a manifest of pairs names them.

    Raises:
        UserError: the table names nothing in the protocol, or one image twice.
    """
    places = _images_by_name(protocol) if table.key == "image" else _images_by_person(protocol)
    row_of = np.full(len(protocol.images), -1, dtype=np.int64)
    strangers = []
    for row, name in enumerate(table.names):
        if name not in places:
            strangers.append(name)
            continue
        if (row_of[places[name]] >= 0).any():
            taken = table.names[int(row_of[places[name]].max())]
            raise UserError(f"{taken!r} and {name!r} are one {table.key}", table.where, "name it once")
        row_of[places[name]] = row
    if (row_of < 0).all():
        example = protocol.images.names[0]
        raise UserError(
            f"names no {table.key} of {protocol.name}, whose first image is {example!r}",
            table.where,
            "name images as the list of pairs does"
            if table.key == "image"
            else "name people as the folders of their pictures or as identity1 and identity2 of the manifest, or give a column image instead",
        )
    notes = []
    if strangers:
        noun = f"names of {'images' if table.key == 'image' else 'people'}"
        notes.append(
            f"{len(strangers):,} of {len(table.names):,} {noun} in {table.where} are not in {protocol.name}: {_some(strangers)}."
        )
    found: list[Grouping] = []
    for column, given in table.columns.items():
        values = [given[row] if row >= 0 else "" for row in row_of.tolist()]
        groupings, note = _column(column, values, protocol)
        found += groupings
        if note:
            notes.append(note)
    if not found:
        raise UserError(f"has no attribute to judge by: {' '.join(notes)}", table.where, REMEDY)
    return Groupings(tuple(found), tuple(notes))


def _images_by_name(protocol: PairProtocol) -> dict[str, list[int]]:
    names = list(protocol.images.names)
    tops = {name.partition("/")[0] for name in names if "/" in name}
    # All images in one folder: an archive's name for itself, which lists leave out.
    cut = len(next(iter(tops))) + 1 if len(tops) == 1 and all("/" in name for name in names) else 0
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        for whole in {name, name[cut:]}:
            stem = next((whole.removesuffix(end) for end in SUFFIXES if whole.lower().endswith(end)), whole)
            for alias in {whole, stem}:
                places.setdefault(alias, []).append(i)
    return {name: images for name, images in places.items() if len(images) == 1}


def _images_by_person(protocol: PairProtocol) -> dict[str, list[int]]:
    """Images by every folder, and path of folders, that holds pictures of one person only, and by who the manifest says it is."""
    places: dict[str, list[int]] = {}
    listed = _listed_people(protocol)
    for i, name in enumerate(protocol.images.names):
        folders = name.split("/")[:-1]
        aliases = {*folders, *("/".join(folders[:depth]) for depth in range(1, len(folders) + 1))}
        if protocol.synthetic and " identity " in name:
            aliases = {name.rpartition(" identity ")[2].partition(" ")[0]}
        for alias in aliases | listed.get(name, set()):
            places.setdefault(alias, []).append(i)
    return {
        name: images for name, images in places.items() if len(set(protocol.identities[images].tolist())) == 1
    }


def _listed_people(protocol: PairProtocol) -> dict[str, set[str]]:
    """Who the manifest says is on an image, by its name: those of records and drawn faces are positions, which tell nobody."""
    manifest = Path(protocol.uri)
    if manifest.suffix not in (".csv", ".jsonl"):
        return {}
    lines = parse_pair_list(manifest.read_text(encoding="utf-8-sig"), protocol.uri)
    named = [(line.left, line.right, *line.people) for line in lines if line.people]
    return {image: {person} for a, b, one, other in named for image, person in ((a, one), (b, other))}


def _column(name: str, values: Sequence[str], protocol: PairProtocol) -> tuple[list[Grouping], str]:
    """The groupings of an attribute, and a note where there is none or not of all images."""
    known = {value for value in values if value}
    unknown = sum(not value for value in values)
    if not known:
        return [], f"{name} has no value for any image of {protocol.name}."
    note = f"{count_of(unknown, 'image')} of {len(values):,} have no {name}: pairs with them are in no group."
    numbers = _numbers(values)
    if numbers is not None:
        return _numeric(name, numbers, protocol, unknown), note if unknown else ""
    if len(known) > MOST:
        return (
            [],
            f"{name} has {len(known):,} different values and is left out: more than {MOST} are no groups.",
        )
    labels = sorted(known)
    of_image = np.array([labels.index(value) if value else -1 for value in values], dtype=np.int64)
    return [_of_both(name, tuple(labels), of_image, protocol, unknown)], note if unknown else ""


def _numbers(values: Sequence[str]) -> NDArray[np.float64] | None:
    """NaN where unknown; None if some value is no finite number."""
    try:
        numbers = np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None
    return None if np.isinf(numbers).any() else numbers


def _numeric(name: str, numbers: NDArray[np.float64], protocol: PairProtocol, unknown: int) -> list[Grouping]:
    words = set("".join(c if c.isalpha() else " " for c in name.lower()).split())
    ends = numbers[protocol.pairs]
    found = []
    if words & AGES or len(np.unique(numbers[~np.isnan(numbers)])) <= FEW:
        found.append(_of_both(name, *_binned(numbers, numbers), protocol, unknown))
    else:
        size = np.abs(numbers) if words & ANGLES else numbers
        of_pair = np.abs(ends).max(axis=1) if words & ANGLES else ends.min(axis=1)
        labels, codes = _binned(of_pair, size)
        which = f"larger |{name}|" if words & ANGLES else f"lower {name}"
        rule = f"a pair belongs to the group of its image of {which}; groups are quartiles of the images"
        found.append(_of_pair(name, rule, labels, codes, unknown))
    if words & AGES:
        gap = np.abs(ends[:, 0] - ends[:, 1])
        own = gap[protocol.same & ~np.isnan(gap)]
        labels, codes = _binned(gap, own if len(own) else gap)
        rule = "a pair belongs to the group of the difference of its images; groups are quartiles of the genuine pairs"
        found.append(_of_pair(f"{name} gap", rule, labels, codes, unknown))
    return found


def _binned(
    values: NDArray[np.float64], of: NDArray[np.float64]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Labels and codes of values: each different number of ``of``, or its quartiles where there are more than a few."""
    known = of[~np.isnan(of)]
    distinct = np.unique(values[~np.isnan(values)])
    if len(distinct) <= FEW:
        labels = tuple(f"{value:,.12g}" for value in distinct)
        codes = np.searchsorted(distinct, values)
    else:
        # Edges are rounded first, so that what a label says is exactly what was done.
        rounded = [float(f"{edge:.3g}") for edge in np.quantile(known, (0.25, 0.5, 0.75))]
        edges = [edge for edge in dict.fromkeys(rounded) if distinct[0] < edge <= distinct[-1]]
        named = [f"{edge:,.12g}" for edge in edges]
        middle = [f"{low} to {high}" for low, high in pairwise(named)]
        labels = (f"below {named[0]}", *middle, f"{named[-1]} and above") if named else ("all",)
        codes = np.searchsorted(edges, values, side="right")
    return labels, np.where(np.isnan(values), -1, codes).astype(np.int64)


def _of_both(
    name: str, labels: tuple[str, ...], of_image: NDArray[np.int64], protocol: PairProtocol, unknown: int
) -> Grouping:
    rule = "a pair belongs to the groups of its two images"
    return Grouping(name=name, rule=rule, labels=labels, sides=of_image[protocol.pairs], unknown=unknown)


def _of_pair(
    name: str, rule: str, labels: tuple[str, ...], codes: NDArray[np.int64], unknown: int
) -> Grouping:
    return Grouping(
        name=name, rule=rule, labels=labels, sides=np.stack([codes, codes], axis=1), unknown=unknown
    )


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(repr(name) for name in names[:most]) + (" ..." if len(names) > most else "")
