"""Template and search protocols from one table: a CSV with a line an image, as one writes it by hand or `topoface protocols` does.

NAME.csv          image,template,person[,medium][,role]     role: gallery, probe, distractor, or empty
NAME_pairs.csv    template1,template2[,same]                beside it, where not all pairs are wanted

Without gallery the probes are mates: each other template of a person in turn is the only one among the distractors (MegaFace).
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.data.source import content_hash
from topoface.errors import UserError
from topoface.evaluation.alignment import AS_STORED
from topoface.evaluation.manifests.drawn_images import stored_images
from topoface.evaluation.pairs.lists import FALSE, TRUE
from topoface.evaluation.templates.protocol import Search, TemplateProtocol

ROLES = ("gallery", "probe", "distractor")
MOST_TEMPLATES = 8192  # of which all pairs are compared: 33 million


class _Template(NamedTuple):
    """One template as listed: who it shows, what it is for, and the line it is first on."""

    person: str
    role: str
    line: int


def is_manifest(uri: str) -> bool:
    """Whether this is ``FILE.csv``, or ``IMAGES::FILE.csv``, whose first line names images and templates."""
    path = _parts(uri)[1]
    if path.suffix != ".csv" or not path.is_file():
        return False
    with path.open("rb") as file:
        names = [
            name.strip().lower() for name in file.readline(4096).removeprefix(b"\xef\xbb\xbf").split(b",")
        ]
    return b"image" in names and b"template" in names


def open_manifest(uri: str) -> TemplateProtocol:
    """Open a manifest in the form above.

    Templates with a role are searched for and in (1:N). Those of a manifest without any role, or those that ``NAME_pairs.csv``
    names, are compared in pairs (1:1).

    Args:
        uri: ``FILE.csv``, whose images lie beside it or where ``topoface protocols`` found them; or ``IMAGES::FILE.csv``, with the
            folder or zip of the images.

    Raises:
        UserError: naming the line that is wrong: a template of two people or roles, an image of two roles, a distractor who is
            searched for; or there is nothing to compare or to search.
    """
    images, path = _parts(uri)
    where = str(path)
    names, labels, media, templates = _read(path)
    order = sorted(templates)
    place = {label: position for position, label in enumerate(order)}
    of_image = np.array([place[label] for label in labels])
    rows = [templates[label] for label in order]
    people = _numbered(rows)
    search = _search(rows, people, where)
    if search is not None:
        _check_images(names, labels, templates, search.in_turn, where)
    pairs = _pairs(path.with_name(f"{path.stem}_pairs.csv"), place, people)
    if pairs is None:
        pairs = np.empty((0, 2), np.int32) if search else _all_pairs(people, where)
    same = people[pairs[:, 0]] == people[pairs[:, 1]]
    content = ["\n".join(column).encode() for column in (names, labels, media)]
    content += [f"{label}\n{row.person}\n{row.role}".encode() for label, row in zip(order, rows, strict=True)]
    return TemplateProtocol(
        name=path.stem,
        uri=uri,
        images=stored_images(images, path, names),
        template_ids=np.arange(len(order)),
        templates=of_image,
        media=np.unique(
            [f"of {label}" if label else f"{row}" for row, label in enumerate(media)], return_inverse=True
        )[1].astype(np.int64),
        detector=None,
        pairs=pairs,
        same=same,
        people=people,
        searches=(search,) if search else (),
        alignment=AS_STORED,
        fingerprint=content_hash([*content, pairs.tobytes()]),
    )


def _parts(uri: str) -> tuple[Path | None, Path]:
    images, separator, listed = uri.rpartition("::")
    return (Path(images) if separator else None), Path(listed)


def _records(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and the fields by name, in small letters and without spaces around."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", str(path), "check the file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"is no UTF-8 text (byte {error.start})", str(path), "save it as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in needed if name not in header]
        if missing:
            raise UserError(
                f"has no column {missing[0]!r}", f"{path}:1", f"name it, as in {','.join(needed)}"
            )
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise UserError(
                        f"{len(row)} fields under {len(header)} names",
                        f"{path}:{reader.line_num}",
                        "correct the line",
                    )
                yield reader.line_num, dict(zip(header, map(str.strip, row), strict=True))
    except csv.Error as error:
        raise UserError(
            f"is no CSV ({error})", f"{path}:{reader.line_num}", "save it as plain CSV"
        ) from error


def _read(path: Path) -> tuple[list[str], list[str], list[str], dict[str, _Template]]:
    """Image, template and medium of each line (the medium may be empty); and the templates."""
    names, labels, media = [], [], []
    templates: dict[str, _Template] = {}
    for line, record in _records(path, ("image", "template", "person")):
        where = f"{path}:{line}"
        name, label = record["image"], record["template"]
        found = _Template(record["person"], record.get("role", "").lower(), line)
        if not name or not label:
            raise UserError(f"has no {'template' if name else 'image'}", where, "give every line both")
        if found.role not in ("", *ROLES):
            raise UserError(f"role is {found.role!r}", where, f"write one of {', '.join(ROLES)}, or nothing")
        if not found.person and found.role != "distractor":
            raise UserError("has no person", where, "only distractors may be nobody in particular")
        known = templates.setdefault(label, found)
        if known[:2] != found[:2]:
            raise UserError(
                f"template {label!r} is {' '.join(found[:2]).strip()!r} here and {' '.join(known[:2]).strip()!r} on line {known.line}",
                where,
                "give each template one person and one role",
            )
        names.append(name)
        labels.append(label)
        media.append(record.get("medium", ""))
    if not names:
        raise UserError("lists no image", str(path), "give a line an image")
    return names, labels, media, templates


def _numbered(rows: list[_Template]) -> NDArray[np.int64]:
    """A number for each template, equal where one person is named; those of distractors last, and nobody is somebody each time."""
    keys = [
        (row.role == "distractor", row.person, -1 if row.person else position)
        for position, row in enumerate(rows)
    ]
    number = {key: n for n, key in enumerate(sorted(set(keys)))}
    return np.array([number[key] for key in keys], dtype=np.int64)


def _search(rows: list[_Template], people: NDArray[np.int64], where: str) -> Search | None:
    """Who is searched for, and in what."""
    gallery, probes, distractors = (
        np.array([t for t, row in enumerate(rows) if row.role == role], np.int32) for role in ROLES
    )
    if not len(gallery) + len(probes) + len(distractors):
        return None
    if not len(probes):
        raise UserError("has no probe", where, "give some lines the role probe")
    if not len(gallery) + len(distractors):
        raise UserError(
            "has probes and nothing to search in", where, "add lines of the role gallery or distractor"
        )
    sought = {rows[t].person: rows[t] for t in [*gallery.tolist(), *probes.tolist()]}
    for t in distractors.tolist():
        if rows[t].person in sought:
            raise UserError(
                f"{rows[t].person!r} is a distractor here and a {sought[rows[t].person].role} on line {sought[rows[t].person].line}",
                f"{where}:{rows[t].line}",
                "distractors must be other people",
            )
    mates = people[probes] if not len(gallery) else people[gallery]
    has_mate = np.isin(people[probes], mates) if len(gallery) else np.bincount(mates)[people[probes]] > 1
    if not has_mate.any():
        raise UserError("no probe shows a person of the gallery", where, "name people the same way in both")
    return Search(
        name="gallery",
        gallery=gallery,
        gallery_people=people[gallery],
        probes=probes,
        probe_people=people[probes],
        distractors=distractors,
        in_turn=not len(gallery),
    )


def _check_images(
    names: list[str], labels: list[str], templates: dict[str, _Template], in_turn: bool, where: str
) -> None:
    """No image is in two roles; nor, where probes are mates, in two templates."""
    used: dict[str, str] = {}
    for name, label in zip(names, labels, strict=True):
        role = templates[label].role
        if role:
            use = f"{role} {label!r}" if in_turn and role == "probe" else role
            if used.setdefault(name, use) != use:
                raise UserError(
                    f"image {name!r} is {use} and {used[name]}",
                    f"{where}:{templates[label].line}",
                    "use each image in one of them",
                )


def _all_pairs(people: NDArray[np.int64], where: str) -> NDArray[np.int32]:
    if len(people) > MOST_TEMPLATES:
        raise UserError(
            f"{len(people):,} templates make too many pairs",
            where,
            f"list those to compare in {Path(where).stem}_pairs.csv (template1,template2), or give roles",
        )
    pairs = np.stack(np.triu_indices(len(people), 1), axis=1).astype(np.int32)
    _require_both_kinds(people, pairs, where)
    return pairs


def _pairs(path: Path, place: dict[str, int], people: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """Positions of the pairs listed; None where there is no list."""
    if not path.is_file():
        return None
    found = []
    for line, record in _records(path, ("template1", "template2")):
        where = f"{path}:{line}"
        left, right = record["template1"], record["template2"]
        absent = [label for label in (left, right) if label not in place]
        if absent:
            raise UserError(f"template {absent[0]!r} has no image", where, "take both files from one place")
        same = record.get("same", "").lower()
        if same and same not in (TRUE if people[place[left]] == people[place[right]] else FALSE):
            raise UserError(
                f"same is {same!r}, against the people of the templates", where, "correct one of them"
            )
        found.append((place[left], place[right]))
    pairs = np.array(found, np.int32).reshape(-1, 2)
    _require_both_kinds(people, pairs, str(path))
    return pairs


def _require_both_kinds(people: NDArray[np.int64], pairs: NDArray[np.int32], where: str) -> None:
    genuine = int((people[pairs[:, 0]] == people[pairs[:, 1]]).sum())
    if genuine in (0, len(pairs)):
        raise UserError(
            f"{genuine} genuine and {len(pairs) - genuine} impostor pairs of templates",
            where,
            "give several templates of one person, and several people",
        )
