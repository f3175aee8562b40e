"""Where the images of a manifest lie: beside it, in a place that is named, or where `topoface protocols` found them.

That command writes ``protocols.json`` beside its manifests; they name images by their place in the source, so that their bytes
are the same wherever the source lies: a path inside a folder, a position in records or drawn faces.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from topoface.data.opening import open_source
from topoface.data.source import SYNTHETIC, Source
from topoface.errors import UserError
from topoface.evaluation.images import EncodedImages, FolderStore, ImageStore, ZipStore
from topoface.evaluation.templates.ijb import ListedImages
from topoface.evaluation.templates.protocol import StampedImages

RECORD = "protocols.json"


class SourceStore:
    """Samples of a source, named by their positions.

    Args:
        source: any.
        fingerprint: that it must have.
        where: what says so, for errors.

    Raises:
        UserError: the source has another fingerprint.
    """

    def __init__(self, source: Source, fingerprint: str, where: str) -> None:
        if source.fingerprint() != fingerprint:
            raise UserError("has changed since the protocols were drawn", source.uri, f"draw {where} anew")
        self.where = source.uri
        self._source = source
        self._fingerprint = fingerprint

    def find(self, name: str) -> str | None:
        """See :class:`ImageStore`."""
        return name if name.isdecimal() and int(name) < len(self._source) else None

    def read(self, member: str) -> bytes:
        """Its pixels as PNG. UserError if it cannot be read."""
        data = io.BytesIO()
        Image.fromarray(self._source[int(member)][0]).save(data, "png", compress_level=0)
        return data.getvalue()

    def stamp(self, member: str) -> str:  # noqa: ARG002
        """The source's fingerprint."""
        return self._fingerprint

    def stamp_of_all(self) -> str:
        """See ``Source.stamp``."""
        return self._source.stamp()


class StoredImages(EncodedImages):
    """Images of a store that can say whether they changed."""

    def __init__(self, store: ImageStore, names: Sequence[str]) -> None:
        super().__init__(names, lambda i: store.read(self._member(i)), store.where)
        self._store = store

    def stamps(self) -> list[str]:
        """See :class:`StampedImages`."""
        of_all = self._store.stamp_of_all() if isinstance(self._store, SourceStore) else ""
        return [f"{name} {self._store.stamp(self._member(i))} {of_all}" for i, name in enumerate(self.names)]

    def _member(self, i: int) -> str:
        member = self._store.find(self.names[i])
        if member is None:
            raise UserError(
                f"no image {self.names[i]!r}", self._store.where, "add it or correct the manifest"
            )
        return member


def image_store(manifest: Path) -> ImageStore:
    """Where the images that a manifest names lie, if it does not come with a place.

    Raises:
        UserError: a ``protocols.json`` beside it is broken, or the source that it names is gone or has changed.
    """
    record = manifest.with_name(RECORD)
    drawn = _drawn(record) if record.is_file() else None
    if drawn is None or manifest.name not in drawn["files"]:
        return FolderStore(manifest.parent)
    place = drawn["images"]
    if place.startswith(SYNTHETIC):
        return SourceStore(open_source(place), drawn["source"]["fingerprint"], str(record))
    path = manifest.parent / place
    if drawn["names"] == "paths":
        return FolderStore(path)
    return SourceStore(open_source(str(path)), drawn["source"]["fingerprint"], str(record))


def stored_images(images: Path | None, manifest: Path, names: list[str]) -> StampedImages:
    """The images of a list in the place named, else where `image_store` finds them; they need not exist until they are read."""
    if images is not None and images.is_file():
        return StoredImages(ZipStore(images), names)
    store = FolderStore(images) if images is not None else image_store(manifest)
    if isinstance(store, FolderStore):
        return ListedImages(Path(store.where), names, None)
    return StoredImages(store, names)


def _drawn(record: Path) -> dict[str, Any]:
    """What ``topoface protocols`` says."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        sound = isinstance(content["images"], str) and content["names"] in ("paths", "positions")
        sound = (
            sound and isinstance(content["files"], dict) and isinstance(content["source"]["fingerprint"], str)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise UserError("is not what `topoface protocols` wrote", str(record), "draw the protocols anew")
    found: dict[str, Any] = content
    return found
