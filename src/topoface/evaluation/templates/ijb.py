"""Read IJB-B and IJB-C from the metadata files that the field passes around: templates, media, pairs, galleries, probes.

meta/NAME_face_tid_mid.txt          image template medium
meta/NAME_template_pair_label.txt   template template 0|1
meta/NAME_name_5pts_score.txt       image x y x y x y x y x y score
meta/NAME_1N_gallery_*.csv          TEMPLATE_ID,SUBJECT_ID,...
meta/NAME_1N_probe_mixed.csv        TEMPLATE_ID,SUBJECT_ID,...
loose_crop/                         the images
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoface.data.decode import Pixels, decode, decode_into
from topoface.data.source import content_hash
from topoface.errors import UserError
from topoface.evaluation.alignment import AS_STORED, WARPED, align
from topoface.evaluation.images import FolderStore
from topoface.evaluation.pairs.protocol import linked
from topoface.evaluation.templates.protocol import Search, TemplateProtocol

LIST, PAIRS, POINTS = "_face_tid_mid.txt", "_template_pair_label.txt", "_name_5pts_score.txt"
GALLERY, PROBE = "_1N_gallery_", "_1N_probe_mixed.csv"
IMAGES = "loose_crop"


def is_ijb(folder: Path) -> bool:
    """Whether a list of templates lies in the folder or in its ``meta``."""
    return bool(_lists(folder))


def open_ijb(folder: Path) -> TemplateProtocol:
    """Open a folder in the layout above; ``meta`` may be left out, and so may pairs or galleries, but not both.

    Raises:
        UserError: a list is missing, a line is wrong, or a list names a template that has no image.
    """
    lists = _lists(folder)
    if len(lists) != 1:
        raise UserError(
            f"{len(lists)} lists of templates (*{LIST})",
            str(folder),
            "give a folder with one, as IJB-C/meta has",
        )
    listed = lists[0]
    stem = listed.name.removesuffix(LIST)
    beside = listed.parent
    names, columns = _named_rows(listed, 2, np.int64)
    ids, position = np.unique(columns[:, 0], return_inverse=True)
    landmarks, detector = _landmarks(beside / (stem + POINTS), names)
    pairs, same = _pairs(beside / (stem + PAIRS), ids)
    searches = _searches(beside, stem, ids)
    if not len(pairs) and not searches:
        raise UserError(
            f"neither {stem}{PAIRS} nor {stem}{GALLERY}*.csv", str(beside), "add the pairs or the galleries"
        )
    content = [columns.tobytes(), pairs.tobytes(), same.tobytes(), "\n".join(names).encode()]
    for search in searches:
        content += [search.gallery.tobytes(), search.gallery_people.tobytes(), search.probes.tobytes()]
        content += [search.probe_people.tobytes()]
    if landmarks is not None and detector is not None:
        content += [landmarks.tobytes(), detector.tobytes()]
    return TemplateProtocol(
        name=stem,
        uri=str(folder),
        images=ListedImages(_image_folder(folder, beside), names, landmarks),
        template_ids=ids,
        templates=ids[position],
        media=columns[:, 1],
        detector=detector,
        pairs=pairs,
        same=same,
        people=_people(len(ids), pairs[same], searches),
        searches=searches,
        alignment=AS_STORED if landmarks is None else WARPED,
        fingerprint=content_hash(content),
    )


class ListedImages:
    """Images of a list, aligned by its landmarks; stored as 112 x 112 where it has none.

    Args:
        folder: where they lie; it need not exist as long as none is read.
        names: of the files.
        landmarks: ``[n, 5, 2]`` or None.
    """

    def __init__(self, folder: Path, names: list[str], landmarks: NDArray[np.float64] | None) -> None:
        self.names = names
        self._store = FolderStore(folder)
        self._folder = folder
        self._landmarks = landmarks

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Pixels:
        """uint8 RGB ``[112, 112, 3]``. UserError if the image cannot be read."""
        where = f"{self._folder}/{self.names[i]}"
        data = self._store.read(self.names[i])
        if self._landmarks is None:
            face = np.empty((112, 112, 3), dtype=np.uint8)
            decode_into(data, face, where)
            return face
        try:
            return align(decode(data, where), self._landmarks[i])
        except ValueError as error:
            raise UserError(str(error), where, "correct its line in the list of landmarks") from error

    def stamps(self) -> list[str]:
        """Name, size and time of change of each file. UserError where one is missing."""
        found = []
        for name in self.names:
            try:
                status = (self._folder / name).stat()
            except (OSError, ValueError) as error:  # ValueError: no file can have this name
                reason = error.strerror if isinstance(error, OSError) else error
                raise UserError(
                    f"cannot be read ({reason})", f"{self._folder}/{name}", "add the image"
                ) from error
            found.append(f"{name} {status.st_size} {status.st_mtime_ns}")
        return found


def _lists(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{LIST}")) or sorted((folder / "meta").glob(f"*{LIST}"))


def _image_folder(folder: Path, beside: Path) -> Path:
    places = [folder / IMAGES, beside.parent / IMAGES]
    return next((place for place in places if place.is_dir()), places[0])


def _named_rows(path: Path, width: int, kind: type[Any]) -> tuple[list[str], NDArray[Any]]:
    """Lines ``name value ... value`` as names and ``[n, width]``."""
    names, rows = [], []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                words = line.split()
                if not words:
                    continue
                if len(words) != width + 1:
                    raise UserError(
                        f"{len(words)} words instead of {width + 1}", f"{path}:{number}", "restore the list"
                    )
                names.append(words[0])
                rows.append(words[1:])
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", str(path), "check the file") from error
    if not names:
        raise UserError("is empty", str(path), "restore the list")
    try:
        return names, np.array(rows, dtype=str).astype(kind)
    except (ValueError, OverflowError):
        bad = next(i for i, row in enumerate(rows) if not all(_is_number(word, kind) for word in row))
        raise UserError(
            f"no numbers behind {names[bad]!r}: {' '.join(rows[bad])[:60]}", str(path), "restore the list"
        ) from None


def _is_number(word: str, kind: type[Any]) -> bool:
    try:
        np.array(word).astype(kind)
    except (ValueError, OverflowError):
        return False
    return True


def _landmarks(path: Path, names: list[str]) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """``[n, 5, 2]`` and detection scores ``[n]``; nothing where there is no such file."""
    if not path.exists():
        return None, None
    listed, values = _named_rows(path, 11, np.float64)
    if listed != names:
        raise UserError(
            "does not list the same images in the same order",
            str(path),
            f"take it from the release of the *{LIST} beside it",
        )
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1) | (values[:, 10] < 0))
    if len(broken):
        raise UserError(
            "a value is not finite, or a score is negative", f"{path}: {names[broken[0]]}", "restore the list"
        )
    return values[:, :10].reshape(-1, 5, 2), values[:, 10]


def _pairs(path: Path, ids: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Positions ``[m, 2]`` and labels ``[m]``; both empty where there is no such file."""
    if not path.exists():
        return np.empty((0, 2), np.int32), np.empty(0, np.bool_)
    try:
        table = np.loadtxt(path, dtype=np.int64, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot be read ({error})", str(path), "restore the list: two templates and 0 or 1 a line"
        ) from error
    if table.shape[1:] != (3,) or not np.isin(table[:, 2], (0, 1)).all():
        raise UserError("is no list of two templates and 0 or 1", str(path), "restore the list")
    genuine = int(table[:, 2].sum())
    if genuine in (0, len(table)):
        raise UserError(
            f"{genuine} genuine and {len(table) - genuine} impostor pairs",
            str(path),
            "list pairs of both kinds",
        )
    pairs = np.empty((len(table), 2), np.int32)
    for side in (0, 1):
        pairs[:, side] = _positions(table[:, side], ids, path)
    return pairs, table[:, 2] == 1


def _positions(labels: NDArray[np.int64], ids: NDArray[np.int64], path: Path) -> NDArray[np.int32]:
    places = np.minimum(np.searchsorted(ids, labels), len(ids) - 1)
    absent = np.flatnonzero(ids[places] != labels)
    if len(absent):
        raise UserError(
            f"template {labels[absent[0]]} has no image in the list of templates",
            str(path),
            "take both files from one release",
        )
    return places.astype(np.int32)


def _searches(beside: Path, stem: str, ids: NDArray[np.int64]) -> tuple[Search, ...]:
    """One a gallery; and, where there are several, one in all of them together."""
    galleries = sorted(beside.glob(f"{stem}{GALLERY}*.csv"))
    probes = beside / (stem + PROBE)
    if not galleries:
        return ()
    if not probes.exists():
        raise UserError("does not exist", str(probes), "add the probes beside the galleries")
    people: dict[str, int] = {}
    wanted, who = _enrolled(probes, ids, people)
    enrolled = {path.stem.split(GALLERY)[1]: _enrolled(path, ids, people) for path in galleries}
    if len(enrolled) > 1:
        templates, owners = (np.concatenate(column) for column in zip(*enrolled.values(), strict=True))
        enrolled["+".join(enrolled)] = templates, owners
    return tuple(
        Search(name=name, gallery=gallery, gallery_people=owners, probes=wanted, probe_people=who)
        for name, (gallery, owners) in enrolled.items()
    )


def _people(templates: int, genuine: NDArray[np.int32], searches: tuple[Search, ...]) -> NDArray[np.int64]:
    """A number for each template, equal where genuine pairs or the galleries say that it is one person."""
    links = [genuine]
    for search in searches:
        places = np.concatenate([search.gallery, search.probes])
        owners = np.concatenate([search.gallery_people, search.probe_people])
        order = np.argsort(owners, kind="stable")
        places, owners = places[order], owners[order]
        links.append(np.stack([places[1:], places[:-1]], axis=1)[owners[1:] == owners[:-1]])
    return linked(templates, np.concatenate(links))


def _enrolled(
    path: Path, ids: NDArray[np.int64], people: dict[str, int]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Templates of a list, each once, and the person of each; a line an image, so a template may have several."""
    owner: dict[int, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = [name.strip().upper() for name in next(rows, [])]
            for row in rows:
                where = f"{path}:{rows.line_num}"
                if not row:
                    continue
                if len(row) < 2 or not row[0].strip().isdecimal() or len(row[0].strip()) > 18:
                    raise UserError(
                        f"{','.join(row)[:60]!r} has no template and person", where, "restore the list"
                    )
                person = people.setdefault(row[1].strip(), len(people))
                if owner.setdefault(int(row[0]), person) != person:
                    raise UserError(
                        f"template {row[0]} has two people", where, "give each template one person"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read ({error})", str(path), "check the file") from error
    if header[:2] != ["TEMPLATE_ID", "SUBJECT_ID"] or not owner:
        raise UserError(
            "does not begin with TEMPLATE_ID,SUBJECT_ID and templates", str(path), "restore the list"
        )
    return _positions(np.array(list(owner), dtype=np.int64), ids, path), np.array(list(owner.values()))
