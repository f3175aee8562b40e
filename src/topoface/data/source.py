"""What a source of labelled faces is, and ``open_source``, which finds the right one for a path or URI."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from topoface.data.decode import Pixels, store_face
from topoface.errors import UserError

SYNTHETIC = "synthetic:"
_SYNTHETIC_KEYS = {
    "identities": "identities",
    "images": "images_per_identity",
    "seed": "seed",
    "first": "first_identity",
}


class Source(Protocol):
    """Labelled face images, by position. Reading is thread-safe and always gives the same pixels.

    ``for image, label in source`` works too; a negative position counts from the end and one out of
    range raises IndexError, as in a list.

    Attributes:
        uri: what ``open_source`` was given.
        notes: what a reader of the data should know (files that were ignored, say), a sentence each.
    """

    uri: str
    notes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def identities(self) -> int:
        """Number of classes; labels are ``0 .. identities - 1``."""

    @property
    @abstractmethod
    def labels(self) -> NDArray[np.int64]:
        """int64 ``[len(self)]``; read once. UserError if the stored labels are unusable."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, i: int) -> tuple[Pixels, int]:
        """Image uint8 RGB ``[H, W, 3]`` of any size, and its label. UserError if it cannot be read."""

    @abstractmethod
    def describe(self, i: int) -> str:
        """Names the file or record of a sample, for messages."""

    @abstractmethod
    def fingerprint(self) -> str:
        """32 hex digits that change when the data does; independent of where the data lies.

        Each source says in its own docstring which bytes it covers: all of them would take as long as
        a pass over the data.
        """

    def read_into(self, i: int, out: Pixels, *, mirror: bool = False) -> None:
        """Read sample ``i`` into ``out``, uint8 ``[112, 112, 3]``, mirrored left to right if asked.

        Raises:
            UserError: the sample cannot be read, or is not 112 x 112.
        """
        store_face(self[i][0], out, self.describe(i), mirror=mirror)


def open_source(uri: str | Path) -> Source:
    """Open faces for training or inspection.

    Args:
        uri: a folder with one sub-folder of images an identity; a folder with ``train.rec``, ``train.idx``
            and ``property``; any ``.rec`` with its ``.idx`` beside it; or
            ``synthetic:?identities=100&images=10&seed=0&first=0``.

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
    # The kinds import this module for the protocol, so it imports them only here.
    from topoface.data.folder import FolderSource
    from topoface.data.recordio import RecordSource

    if uri.startswith(SYNTHETIC):
        return _open_synthetic(uri)
    path = Path(uri)
    if path.is_dir():
        return RecordSource(path / "train.rec", uri) if (path / "train.rec").is_file() else FolderSource(path)
    if path.suffix == ".rec" and path.is_file():
        return RecordSource(path)
    if path.exists():
        raise UserError(
            "is neither a folder nor a .rec file", uri, "give a folder of identity folders or a .rec file"
        )
    raise UserError("does not exist", uri, f"check the path (looked from {Path.cwd()})")


def _open_synthetic(uri: str) -> Source:
    from topoface.data.synthetic import SyntheticSource

    arguments = {}
    for key, text in parse_qsl(uri.removeprefix(SYNTHETIC).removeprefix("?"), keep_blank_values=True):
        if key not in _SYNTHETIC_KEYS:
            raise UserError(f"unknown key {key!r}", uri, f"the keys are {', '.join(_SYNTHETIC_KEYS)}")
        least = 1 if key in ("identities", "images") else 0
        if not (text.isdecimal() and int(text) >= least):
            raise UserError(f"{key} is {text!r}", uri, f"give a whole number from {least}")
        arguments[_SYNTHETIC_KEYS[key]] = int(text)
    return SyntheticSource(**{"identities": 100, "images_per_identity": 10, **arguments})


def spread(size: int, most: int) -> list[int]:
    """At most ``most`` positions, evenly spread over ``range(size)``, first and last included."""
    return [int(i) for i in np.unique(np.linspace(0, size - 1, min(size, most)).astype(np.int64))]


def content_hash(parts: Iterable[bytes | memoryview]) -> str:
    """32 hex digits over byte strings and where each of them ends."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()
