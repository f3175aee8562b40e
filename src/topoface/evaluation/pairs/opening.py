"""Open verification pairs from wherever they lie: .bin, folder, zip, manifest, RFW, or drawn."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import numpy as np
from numpy.typing import NDArray

from topoface.data.opening import open_source
from topoface.data.source import SYNTHETIC, content_hash
from topoface.errors import UserError
from topoface.evaluation.images import EncodedImages, FolderStore, ImageStore, SourceImages, ZipStore
from topoface.evaluation.manifests.drawn_images import image_store
from topoface.evaluation.manifests.reading import is_manifest
from topoface.evaluation.pairs.insightface_bin import read_insightface_bin
from topoface.evaluation.pairs.lists import PairLine, parse_pair_list
from topoface.evaluation.pairs.protocol import PairProtocol, build_protocol, people_from_folders
from topoface.evaluation.pairs.rfw import is_rfw, open_rfw
from topoface.evaluation.templates.ijb import is_ijb

FOLDS = 10  # where a list names none, as LFW has
ALL_PAIRS = "all-pairs:"  # no list: what `topoface evaluate` and `calibrate` take beside what is opened here
FORMS = (
    "give an InsightFace .bin, a manifest of pairs (.csv, .jsonl), IMAGES::PAIRS, a folder or zip with one pairs*.txt, "
    "or a folder in the layout of RFW"
)


def open_protocol(uri: str | Path) -> PairProtocol:
    """Open verification pairs.

    Args:
        uri: one of

            - ``FILE.bin``: as InsightFace publishes LFW, CFP-FP, AgeDB-30 ...;
            - ``IMAGES::PAIRS``: a folder or zip of images (or a folder that holds one zip), and its list of pairs; PAIRS may also
              be given relative to IMAGES or to the folder it lies in;
            - a folder or zip that holds its own pairs*.txt, and only one;
            - ``FILE.csv`` or ``FILE.jsonl``: a manifest with ``path1, path2, same[, fold][, identity1, identity2]``,
              paths relative to it, or as ``topoface protocols`` wrote it;
            - a folder in the layout of RFW (gives an `RfwProtocol`);
            - ``synthetic:?identities=200&images=6&seed=1&first=100000&pairs=3000``: drawn faces.

    Raises:
        UserError: nothing usable is there, a line is wrong or names an absent image, or pairs of one kind are missing.
    """
    uri = str(uri)
    if uri.startswith(SYNTHETIC):
        return _open_synthetic(uri)
    if uri.startswith(ALL_PAIRS):
        raise UserError("is no list of pairs; topoface evaluate and calibrate take it", uri, FORMS)
    if is_rfw(Path(uri)):
        return open_rfw(Path(uri))
    if is_manifest(uri) or is_ijb(Path(uri)):
        raise UserError("lists templates, and pairs of images are wanted here", uri, FORMS)
    images, separator, pairs = uri.rpartition("::")
    if separator:
        return _open_listed(uri, Path(images), pairs)
    path = Path(uri)
    if not path.exists():
        raise UserError("does not exist", uri, f"check the path (looked from {Path.cwd()})")
    if path.is_dir() or path.suffix == ".zip":
        return _open_listed(uri, path, None)
    if path.suffix == ".bin":
        return _open_bin(uri, path)
    if path.suffix in (".csv", ".jsonl"):
        lines = parse_pair_list(_text(path), uri)
        return _from_lines(path.stem, uri, image_store(path), lines, uri)
    raise UserError("is no protocol", uri, FORMS)


def _open_bin(uri: str, path: Path) -> PairProtocol:
    encoded, same = read_insightface_bin(path)
    positions: dict[str, int] = {}  # the file repeats an image for each pair that it is in
    flat = [positions.setdefault(content_hash([image]), len(positions)) for image in encoded]
    firsts = {position: number for number, position in reversed(list(enumerate(flat)))}
    numbers = [firsts[position] for position in range(len(firsts))]
    folds = np.arange(len(same)) * min(FOLDS, len(same)) // len(same)
    return build_protocol(
        name=path.stem,
        uri=uri,
        images=EncodedImages([f"image {n}" for n in numbers], lambda i: encoded[numbers[i]], uri),
        pairs=np.array(flat, dtype=np.int64).reshape(-1, 2),
        same=np.array(same),
        folds=folds,
        people=None,
        stamps=list(positions),
        notes=("Folds are consecutive tenths of the pairs, as InsightFace's own evaluation takes them.",),
    )


def _open_synthetic(uri: str) -> PairProtocol:
    from topoface.data.synthetic import synthetic_pairs

    options = {
        key: values[-1]
        for key, values in parse_qs(uri.removeprefix(SYNTHETIC).lstrip("?"), keep_blank_values=True).items()
    }
    wanted = options.pop("pairs", "3000")
    if not wanted.isdecimal() or int(wanted) < 2 * FOLDS or int(wanted) % FOLDS:
        raise UserError(f"pairs is {wanted!r}", uri, f"give a multiple of {FOLDS}, from {2 * FOLDS}")
    options = {"identities": "200", "images": "6", "seed": "1", "first": "100000", **options}
    source = open_source(f"{SYNTHETIC}?{urlencode(options)}")
    pairs, same, folds = synthetic_pairs(source, int(wanted) // FOLDS, FOLDS)
    used, flat = np.unique(pairs, return_inverse=True)
    return build_protocol(
        name="synthetic",
        uri=uri,
        images=SourceImages(source, used.tolist()),
        pairs=flat.reshape(-1, 2),
        same=same,
        folds=folds,
        people=source.labels[used].tolist(),
        stamps=[source.fingerprint()],
        synthetic=True,
        notes=("The faces are drawn, not photographed.",),
    )


def _open_listed(uri: str, images: Path, pairs: str | None) -> PairProtocol:
    """Images in a folder or zip; the list named, or the only one that lies there."""
    if not images.exists():
        raise UserError("does not exist", str(images), f"check the path (looked from {Path.cwd()})")
    archives = sorted(images.glob("*.zip")) if images.is_dir() else [images]
    if len(archives) > 1:
        raise UserError(
            f"{len(archives)} zip archives ({_some(archives)})", str(images), "name one: ARCHIVE.zip::PAIRS"
        )
    store: ImageStore = ZipStore(archives[0]) if archives else FolderStore(images)

    if pairs is None:
        return _open_own_list(uri, images, store)
    # As given, or beside the images, where it usually lies.
    places = [Path(pairs), images / pairs, images.parent / pairs]
    listed = next((place for place in places if place.is_file()), None)
    if listed is None:
        raise UserError(
            "does not exist", pairs, f"check the path (looked from {Path.cwd()} and beside {images})"
        )
    return _from_lines(_name(listed), uri, store, parse_pair_list(_text(listed), str(listed)), str(listed))


def _open_own_list(uri: str, images: Path, store: ImageStore) -> PairProtocol:
    """The one pairs*.txt inside the zip or folder."""
    inside = images.is_file() and isinstance(store, ZipStore)
    found = (
        store.named((".txt",))
        if inside and isinstance(store, ZipStore)
        else [str(p) for p in images.glob("*.txt")]
    )
    lists = sorted(name for name in found if Path(name).name.startswith("pairs"))
    if len(lists) != 1:
        what = f"{len(lists)} lists of pairs ({_some(lists)})" if lists else "no list of pairs (pairs*.txt)"
        raise UserError(what, uri, f"name one: {uri}::PAIRS, or draw some: topoface protocols {uri} OUT")
    if inside:
        text = _decoded(store.read(lists[0]), f"{uri}: {lists[0]}")
        return _from_lines(images.stem, uri, store, parse_pair_list(text, f"{uri}: {lists[0]}"), uri)
    return _from_lines(
        _name(Path(lists[0])), uri, store, parse_pair_list(_text(Path(lists[0])), lists[0]), lists[0]
    )


def _from_lines(name: str, uri: str, store: ImageStore, lines: list[PairLine], where: str) -> PairProtocol:
    """Look up every image that the list names."""
    positions: dict[str, int] = {}
    people: dict[int, str] = {}
    pairs = np.empty((len(lines), 2), dtype=np.int64)
    for row, line in enumerate(lines):
        for side, image in enumerate((line.left, line.right)):
            member = store.find(image)
            if member is None:
                raise UserError(
                    f"no image {image!r} in {store.where}",
                    f"{where}:{line.line}",
                    "correct the line or add the image",
                )
            place = positions.setdefault(member, len(positions))
            pairs[row, side] = place
            if line.people and people.setdefault(place, line.people[side]) != line.people[side]:
                raise UserError(
                    f"image {image!r} shows {line.people[side]!r} here and {people[place]!r} before",
                    f"{where}:{line.line}",
                    "give each image one identity",
                )
    members = list(positions)
    same = np.array([line.same for line in lines], dtype=np.bool_)
    given = [people[i] for i in range(len(members))] if len(people) == len(members) else None
    return build_protocol(
        name=name,
        uri=uri,
        images=EncodedImages(members, lambda i: store.read(members[i]), store.where),
        pairs=pairs,
        same=same,
        folds=_folds(lines, same),
        people=given or people_from_folders(members, pairs, same),
        stamps=[f"{member} {store.stamp(member)}" for member in members],
        synthetic=store.where.startswith(SYNTHETIC),
        where=where,
    )


def _folds(lines: list[PairLine], same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The list's own folds, or consecutive tenths of the genuine and of the impostor pairs."""
    if all(line.fold is not None for line in lines):
        return np.unique([line.fold or "" for line in lines], return_inverse=True)[1].astype(np.int64)
    folds = np.empty(len(lines), dtype=np.int64)
    for kind in (same, ~same):
        size = int(kind.sum())
        folds[kind] = np.arange(size) * FOLDS // max(size, 1)
    return folds


def _name(listed: Path) -> str:
    """``lfw/pairs.txt`` is lfw, ``cfp/pairs_fp.txt`` is cfp_fp, any other list has its own name."""
    folder = listed.resolve().parent.name
    if listed.stem == "pairs":
        return folder
    return (
        f"{folder}_{listed.stem.removeprefix('pairs_')}" if listed.stem.startswith("pairs_") else listed.stem
    )


def _text(path: Path) -> str:
    try:
        return _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", str(path), "check the file") from error


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"is no UTF-8 text (byte {error.start})", where, "give a list of pairs as text"
        ) from error


def _some(names: Sequence[object], most: int = 4) -> str:
    shown = [Path(str(name)).name for name in names[:most]]
    return ", ".join(shown) + (" ..." if len(names) > most else "")
