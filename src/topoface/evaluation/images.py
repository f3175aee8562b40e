"""The images of a protocol: read where they lie (folder, zip, memory, drawn), decoded one at a time."""

import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from topoface.data.decode import FACE_SHAPE, Encoded, Pixels, decode_into
from topoface.data.source import Source
from topoface.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_BYTES = 64 << 20  # of one encoded image; a zip member can claim any size


class Images(Protocol):
    """Aligned faces by position; reading one twice gives the same pixels."""

    @property
    def names(self) -> Sequence[str]:
        """One for each image, for errors and reports."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Pixels:
        """uint8 RGB ``[112, 112, 3]``. UserError if the image cannot be read."""
        ...


class EncodedImages:
    """Images decoded from what ``read`` gives.

    Args:
        names: one for each image, for errors and reports.
        read: position to encoded bytes; raises UserError.
        where: the folder or file they come from.
    """

    def __init__(self, names: Sequence[str], read: Callable[[int], Encoded], where: str) -> None:
        self.names = names
        self._read = read
        self._where = where

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Pixels:
        face = np.empty(FACE_SHAPE, dtype=np.uint8)
        decode_into(self._read(i), face, f"{self._where}: {self.names[i]}")
        return face


class SourceImages:
    """Some samples of a source of faces, drawn ones for example."""

    def __init__(self, source: Source, positions: Sequence[int]) -> None:
        self.names = [source.describe(i) for i in positions]
        self._source = source
        self._positions = positions

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Pixels:
        face = np.empty(FACE_SHAPE, dtype=np.uint8)
        self._source.read_into(self._positions[i], face)
        return face


class ImageStore(Protocol):
    """Where images lie by name."""

    where: str

    def find(self, name: str) -> str | None:
        """The member of this name, with or without its suffix; None if there is none."""
        ...

    def read(self, member: str) -> bytes:
        """Its bytes. UserError if it cannot be read."""
        ...

    def stamp(self, member: str) -> str:
        """Changes when the member's content does, as far as can be told without reading it."""
        ...


class FolderStore:
    """Image files below a folder."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path

    def find(self, name: str) -> str | None:
        """See :class:`ImageStore`."""
        return next((name + end for end in ("", *SUFFIXES) if (self._path / (name + end)).is_file()), None)

    def read(self, member: str) -> bytes:
        """See :class:`ImageStore`."""
        try:
            with (self._path / member).open("rb") as file:
                return _bounded(file.read(MAX_BYTES + 1), f"{self.where}/{member}")
        except (OSError, ValueError) as error:  # ValueError: no file can have this name
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"cannot be read ({reason})", f"{self.where}/{member}", "check the file"
            ) from error

    def stamp(self, member: str) -> str:
        """Its size."""
        return str((self._path / member).stat().st_size)


class ZipStore:
    """Image files in a zip archive, stored or deflated, read in place."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"cannot be read as a zip archive ({error})", self.where, "give an intact .zip"
            ) from error
        self._members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        tops = {name.partition("/")[0] for name in self._members if "/" in name}
        # An archive made of one folder holds that folder's name in front of every path.
        self._prefixes = ("", f"{next(iter(tops))}/") if len(tops) == 1 else ("",)

    def find(self, name: str) -> str | None:
        """See :class:`ImageStore`."""
        candidates = (prefix + name + end for prefix in self._prefixes for end in ("", *SUFFIXES))
        return next((member for member in candidates if member in self._members), None)

    def named(self, suffixes: tuple[str, ...]) -> list[str]:
        """Members with one of these suffixes."""
        return [name for name in self._members if name.lower().endswith(suffixes)]

    def read(self, member: str) -> bytes:
        """See :class:`ImageStore`."""
        try:
            with self._zip.open(self._members[member]) as file:
                return _bounded(file.read(MAX_BYTES + 1), f"{self.where}: {member}")
        except (
            OSError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise UserError(
                f"cannot be read ({error})", f"{self.where}: {member}", "make the archive anew"
            ) from error

    def stamp(self, member: str) -> str:
        """Its checksum, which the archive lists."""
        return f"{self._members[member].CRC:08x}"


def _bounded(data: bytes, where: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise UserError(
            f"is larger than {MAX_BYTES >> 20} MiB", where, "give aligned faces of 112 x 112 pixels"
        )
    return data
