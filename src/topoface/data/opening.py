"""``open_source``: the right source for a path or URI."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
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
_SELECTION_KEYS = ("least_images", "most_images", "seed")


def open_source(uri: str | Path) -> Source:
    """Open faces for training or inspection.

    Args:
        uri: a folder with one sub-folder of images an identity; a folder with ``train.rec``, ``train.idx``
            and ``property``; any ``.rec`` with its ``.idx`` beside it; or
            ``synthetic:?identities=100&images=10&seed=0&first=0``. A folder or .rec may end in
            ``?least_images=8&most_images=8,2,1&seed=0`` (any of these; drawn faces take them among their own): only identities
            with 8 images are taken, and a third of them keeps 8, a third 2, a third one, drawn by the seed:
            :class:`~topoface.data.selection.Selection`.

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
    return Selection(_open(place), uri, **_numbers(uri, query, _SELECTION_KEYS))


def _open_synthetic(uri: str) -> Source:
    query = uri.removeprefix(SYNTHETIC).removeprefix("?")
    asked = _numbers(uri, query, dict.fromkeys([*_SYNTHETIC_KEYS, *_SELECTION_KEYS]))
    drawn = {name: asked[key] for key, name in _SYNTHETIC_KEYS.items() if key in asked}
    source = SyntheticSource(**{"identities": 100, "images_per_identity": 10, **drawn})
    part = {key: asked[key] for key in _SELECTION_KEYS if key in asked}
    return Selection(source, uri, **part) if part.keys() - {"seed"} else source


def _numbers(uri: str, query: str, keys: Iterable[str]) -> dict[str, Any]:
    """Value by key: a whole number, or a list of them for ``most_images``."""
    numbers: dict[str, Any] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in keys:
            raise UserError(f"unknown key {key!r}", uri, f"the keys are {', '.join(keys)}")
        several, least = key == "most_images", 0 if key in ("seed", "first") else 1
        parts = text.split(",") if several else [text]
        if not all(part.isdecimal() and int(part) >= least for part in parts):
            wanted = "whole numbers from 1, as in 8,2,1" if several else f"a whole number from {least}"
            raise UserError(f"{key} is {text!r}", uri, f"give {wanted}")
        numbers[key] = [int(part) for part in parts] if several else int(text)
    return numbers
