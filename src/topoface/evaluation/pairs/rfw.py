"""Racial Faces in the Wild as one protocol: four lists of pairs, one threshold, the list that a pair stands in as its group.

txts/RACE/RACE_pairs.txt      name n1 n2, or name1 n1 name2 n2; without a header
txts/RACE/RACE_lmk.txt        image label x y x y x y x y x y: for images that are not aligned
data/RACE/NAME/NAME_0001.jpg

or RACE_test.bin for each, as InsightFace's pair files are; the four RACEs are African, Asian, Caucasian, Indian.
(M. Wang et al., "Racial Faces in the Wild", ICCV 2019. The names of the groups are that data set's own.)
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from topoface.data.decode import FACE_SHAPE, Pixels, decode
from topoface.data.source import content_hash
from topoface.errors import UserError
from topoface.evaluation.alignment import AS_STORED, WARPED, align
from topoface.evaluation.groups.attributes import Grouping
from topoface.evaluation.images import EncodedImages, FolderStore, Images
from topoface.evaluation.pairs.insightface_bin import read_insightface_bin
from topoface.evaluation.pairs.protocol import PairProtocol, build_protocol

RACES: Final = ("African", "Asian", "Caucasian", "Indian")
FOLDS: Final = 10
LAYOUT: Final = (
    "give a folder with txts/RACE/RACE_pairs.txt and data/RACE, or with RACE_test.bin, "
    "for African, Asian, Caucasian and Indian"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class RfwProtocol(PairProtocol):
    """Pairs of four lists.

    Attributes:
        race: the list that each pair stands in.
    """

    race: Grouping


def is_rfw(folder: Path) -> bool:
    """Whether a list of pairs or a .bin of one of the races lies where the layout has it."""
    root = _root(folder)
    return any(_list(root, race).is_file() or _bin(folder, race).is_file() for race in RACES)


def open_rfw(folder: Path) -> RfwProtocol:
    """Open a folder in the layout above (or one that holds it as ``test``, as it is passed around).

    Raises:
        UserError: a race is missing, a line is wrong or names an absent image.
    """
    root = _root(folder)
    if not any(_list(root, race).is_file() for race in RACES):
        return _open_bins(folder)
    images = root / "data" if (root / "data").is_dir() else root
    store = FolderStore(images)
    people: dict[str, str] = {}  # by image, in the order of their first pair
    pairs: list[tuple[str, str]] = []
    same, folds, sides = [], [], []
    landmarks: dict[str, NDArray[np.float64]] = {}
    for number, race in enumerate(RACES):
        listed = _list(root, race)
        lines = _pair_lines(listed)
        for line, left, right in lines:
            pairs.append(
                (
                    _member(store, race, left, f"{listed}:{line}"),
                    _member(store, race, right, f"{listed}:{line}"),
                )
            )
            people |= {pairs[-1][0]: f"{race}/{left[0]}", pairs[-1][1]: f"{race}/{right[0]}"}
            same.append(left[0] == right[0])
        folds += _tenths(len(lines))
        sides += [number] * len(lines)
        points = listed.with_name(f"{race}_lmk.txt")
        if points.is_file():
            landmarks |= {f"{race}/{name}": found for name, found in _landmarks(points).items()}
    places = {member: i for i, member in enumerate(people)}
    aligned = "Images of 112 x 112 are taken as aligned" + (
        ", others are aligned by the landmarks of the lists." if landmarks else "."
    )
    stamps = [f"{m} {store.stamp(m)} {landmarks[m].tolist() if m in landmarks else ''}" for m in people]
    protocol = build_protocol(
        name="rfw",
        uri=str(folder),
        images=_AlignedImages(store, list(people), landmarks),
        pairs=np.array([(places[left], places[right]) for left, right in pairs], dtype=np.int64),
        same=np.array(same, dtype=np.bool_),
        folds=np.array(folds, dtype=np.int64),
        people=list(people.values()),
        stamps=stamps,
        notes=(aligned, *_NOTES),
    )
    if landmarks:
        protocol = replace(protocol, alignment=f"{AS_STORED}; others by {WARPED}")
    return _grouped(protocol, np.array(sides))


_NOTES: Final = (
    "Folds are consecutive tenths of each list; a fold of the whole holds that of every list.",
    "No pair joins two lists, so nothing is known about false matches between them.",
)


def _grouped(protocol: PairProtocol, sides: NDArray[Any]) -> RfwProtocol:
    for number, race in enumerate(RACES):
        own = sides == number
        for fold in range(FOLDS):
            if len(np.unique(protocol.same[own & (protocol.folds != fold)])) < 2:
                raise UserError(
                    f"the pairs of {race} are all of one kind outside tenth {fold + 1}",
                    protocol.uri,
                    "restore the list: each tenth holds pairs of both kinds",
                )
    grouping = Grouping(
        name="race",
        rule="a pair belongs to the list that it stands in",
        labels=RACES,
        sides=np.stack([sides, sides], axis=1).astype(np.int64),
        unknown=0,
    )
    return RfwProtocol(**vars(protocol), race=grouping)


def _open_bins(folder: Path) -> RfwProtocol:
    encoded: list[memoryview] = []
    same, folds, sides, names = [], [], [], []
    for number, race in enumerate(RACES):
        if not _bin(folder, race).is_file():
            raise UserError(f"has no {_bin(folder, race).name}", str(folder), LAYOUT)
        images, labels = read_insightface_bin(_bin(folder, race))
        encoded += images
        names += [f"{race} image {i}" for i in range(len(images))]
        same += labels
        folds += _tenths(len(labels))
        sides += [number] * len(labels)
    positions: dict[str, int] = {}  # the files repeat an image for each pair that it is in
    flat = [positions.setdefault(content_hash([image]), len(positions)) for image in encoded]
    firsts = {place: number for number, place in reversed(list(enumerate(flat)))}
    numbers = [firsts[place] for place in range(len(firsts))]
    return _grouped(
        build_protocol(
            name="rfw",
            uri=str(folder),
            images=EncodedImages([names[n] for n in numbers], lambda i: encoded[numbers[i]], str(folder)),
            pairs=np.array(flat, dtype=np.int64).reshape(-1, 2),
            same=np.array(same, dtype=np.bool_),
            folds=np.array(folds, dtype=np.int64),
            people=None,
            stamps=list(positions),
            notes=_NOTES,
        ),
        np.array(sides),
    )


class _AlignedImages(Images):
    """Images of a store: as they are where they have the size of aligned ones, else aligned by their landmarks."""

    def __init__(
        self, store: FolderStore, names: list[str], landmarks: dict[str, NDArray[np.float64]]
    ) -> None:
        self._names = names
        self._store = store
        self._landmarks = landmarks

    @property
    def names(self) -> list[str]:
        return self._names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> Pixels:
        name = self._names[i]
        where = f"{self._store.where}/{name}"
        image = decode(self._store.read(name), where)
        if image.shape == FACE_SHAPE:
            return image
        if name not in self._landmarks:
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise UserError(
                f"is {size} and has no landmarks", where, "add its line to RACE_lmk.txt, or align it"
            )
        try:
            return align(image, self._landmarks[name])
        except ValueError as error:
            raise UserError(str(error), where, "correct its line in RACE_lmk.txt") from error


def _root(folder: Path) -> Path:
    return folder / "test" if (folder / "test" / "txts").is_dir() else folder


def _list(root: Path, race: str) -> Path:
    return root / "txts" / race / f"{race}_pairs.txt"


def _bin(folder: Path, race: str) -> Path:
    return folder / f"{race}_test.bin"


def _tenths(pairs: int) -> list[int]:
    return [i * FOLDS // pairs for i in range(pairs)]


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", str(path), LAYOUT) from error
    return [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _pair_lines(path: Path) -> list[tuple[int, tuple[str, int], tuple[str, int]]]:
    """Line, and name and number of the two images."""
    found = []
    for line, words in _lines(path):
        match words:
            case [name, n1, n2] if n1.isdecimal() and n2.isdecimal():
                found.append((line, (name, int(n1)), (name, int(n2))))
            case [name1, n1, name2, n2] if n1.isdecimal() and n2.isdecimal() and name1 != name2:
                found.append((line, (name1, int(n1)), (name2, int(n2))))
            case _:
                what = f"{' '.join(words)[:80]!r} is no pair"
                raise UserError(what, f"{path}:{line}", "write `name n1 n2` or `name1 n1 name2 n2`")
    if not found:
        raise UserError("lists no pair", str(path), LAYOUT)
    return found


def _member(store: FolderStore, race: str, image: tuple[str, int], where: str) -> str:
    name = f"{race}/{image[0]}/{image[0]}_{image[1]:04d}"
    member = store.find(name)
    if member is None:
        raise UserError(f"no image {name!r} in {store.where}", where, "correct the line or add the image")
    return member


def _landmarks(path: Path) -> dict[str, NDArray[np.float64]]:
    """Five points by ``NAME/NAME_0001.jpg``, left and right as seen; the folders before that differ between copies."""
    found = {}
    for number, words in _lines(path):
        try:
            points = np.array([float(word) for word in words[2:]]).reshape(5, 2)
        except ValueError:
            raise UserError(
                "is no image, label and five points",
                f"{path}:{number}",
                "write `path label x y x y x y x y x y`",
            ) from None
        found["/".join(words[0].replace("\\", "/").split("/")[-2:])] = points
    return found
