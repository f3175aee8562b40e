"""``open_source``: the right source for a path or URI."""

from pathlib import Path
from urllib.parse import parse_qsl

from topoface.data.folder import FolderSource
from topoface.data.recordio import RecordSource
from topoface.data.selection import Selection
from topoface.data.source import SYNTHETIC, Source
from topoface.data.synthetic import SyntheticSource
from topoface.errors import UserError

_SYNTHETIC_KEYS = {
    "identities": "identities",
    "images": "images_per_identity",
    "seed": "seed",
    "first": "first_identity",
}


def open_source(uri: str | Path) -> Source:
    """Open faces for training or inspection.

    Args:
        uri: a folder with one sub-folder of images an identity; a folder with ``train.rec``, ``train.idx``
            and ``property``; any ``.rec`` with its ``.idx`` beside it; or
            ``synthetic:?identities=100&images=10&seed=0&first=0``. A folder or .rec may end in ``?least_images=20``: only
            identities with as many images are taken.

    Raises:
        UserError: nothing usable is there, or it holds fewer than two identities.
    """
    source = _open(str(uri))
    if source.identities < 2:
        raise UserError(
            f"only {source.identities} identity, training needs two or more",
            str(uri),
            "add images of other people",
        )
    return source


def _open(uri: str) -> Source:
    if uri.startswith(SYNTHETIC):
        return _open_synthetic(uri)
    path = Path(uri)
    if "?" in uri and not path.exists():
        return _open_selection(uri)
    if path.is_dir():
        return RecordSource(path / "train.rec", uri) if (path / "train.rec").is_file() else FolderSource(path)
    if path.suffix == ".rec" and path.is_file():
        return RecordSource(path)
    if path.exists():
        raise UserError(
            "is neither a folder nor a .rec file", uri, "give a folder of identity folders or a .rec file"
        )
    raise UserError("does not exist", uri, f"check the path (looked from {Path.cwd()})")


def _open_selection(uri: str) -> Source:
    place, _, query = uri.rpartition("?")
    key, _, text = query.partition("=")
    if key != "least_images":
        raise UserError(f"unknown key {key!r}", uri, "after a path only ?least_images=N is understood")
    if not (text.isdecimal() and int(text) >= 1):
        raise UserError(f"least_images is {text!r}", uri, "give a whole number from 1")
    return Selection(_open(place), int(text), uri)


def _open_synthetic(uri: str) -> Source:
    arguments = {}
    for key, text in parse_qsl(uri.removeprefix(SYNTHETIC).removeprefix("?"), keep_blank_values=True):
        if key not in _SYNTHETIC_KEYS:
            raise UserError(f"unknown key {key!r}", uri, f"the keys are {', '.join(_SYNTHETIC_KEYS)}")
        least = 1 if key in ("identities", "images") else 0
        if not (text.isdecimal() and int(text) >= least):
            raise UserError(f"{key} is {text!r}", uri, f"give a whole number from {least}")
        arguments[_SYNTHETIC_KEYS[key]] = int(text)
    return SyntheticSource(**{"identities": 100, "images_per_identity": 10, **arguments})
