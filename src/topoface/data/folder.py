"""A folder of images with one sub-folder an identity, as a source."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topoface.data.decode import Pixels, decode, decode_into
from topoface.data.source import Source, content_hash, spread
from topoface.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_HASHED_FILES = 4096


class FolderSource(Source):
    """Sub-folders sorted by name are the labels 0, 1, ...; within each, images are sorted by name.

    A file counts as an image by its suffix (jpg, jpeg, png, webp, bmp, in any case); one that then does not decode is
    an error when it is read. Other files, deeper folders and sub-folders without images are left out and
    counted in ``notes``; hidden ones are left out silently.
    """

    def __init__(self, path: Path) -> None:
        self.uri = str(path)
        self._root = path
        self._names: list[str] = []
        self._files: list[str] = []  # relative to the root, with forward slashes
        counts, others, empty = [], 0, 0
        for entry in _visible(path):
            if not entry.is_dir():
                others += 1
                continue
            inside = _visible(entry.path)
            images = [file.name for file in inside if _is_image(file)]
            others += len(inside) - len(images)
            if images:
                self._names.append(entry.name)
                self._files += [f"{entry.name}/{name}" for name in images]
                counts.append(len(images))
            else:
                empty += 1
        if not counts:
            raise _no_images(path)
        self._labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        self._labels.flags.writeable = False
        self.notes = tuple(
            f"{count} {what} ignored"
            for count, what in ((others, "other files or deeper folders"), (empty, "folders without images"))
            if count
        )

    @property
    def identities(self) -> int:
        """Number of sub-folders with images."""
        return len(self._names)

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 ``[len(self)]``, ascending."""
        return self._labels

    @property
    def names(self) -> Sequence[str]:
        """The sub-folder of each label."""
        return self._names

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> tuple[Pixels, int]:
        """Image uint8 RGB ``[H, W, 3]`` and label; UserError naming the file if it is unreadable."""
        i = range(len(self))[i]
        return decode(self._encoded(i), self.describe(i)), int(self._labels[i])

    def read_into(self, i: int, out: Pixels, *, mirror: bool = False) -> None:
        """See ``Source.read_into``."""
        decode_into(self._encoded(i), out, self.describe(i), mirror=mirror)

    def describe(self, i: int) -> str:
        """The path of the file."""
        return f"{self.uri}/{self._files[i]}"

    def fingerprint(self) -> str:
        """Covers every relative path and file size, and the content of up to 4,096 files spread evenly."""
        return self._fingerprint

    def stamp(self) -> str:
        """See ``Source.stamp``; looks at every file, and reads none again."""
        try:
            times = [(self._root / name).stat().st_mtime_ns for name in self._files]
        except OSError as error:
            raise _unreadable(error, self.uri) from error
        return content_hash([self._fingerprint.encode(), np.array(times, dtype="<i8").tobytes()])

    @cached_property
    def _fingerprint(self) -> str:
        return content_hash(self._hashed_parts())

    def _hashed_parts(self) -> Iterator[bytes]:
        yield b"folder"
        for i, name in enumerate(self._files):
            yield os.fsencode(name)
            try:
                yield str((self._root / name).stat().st_size).encode()
            except OSError as error:
                raise _unreadable(error, self.describe(i)) from error
        for i in spread(len(self), _HASHED_FILES):
            yield self._encoded(i)

    def _encoded(self, i: int) -> bytes:
        try:
            return (self._root / self._files[i]).read_bytes()
        except OSError as error:
            raise _unreadable(error, self.describe(i)) from error


def _visible(path: str | Path) -> list[os.DirEntry[str]]:
    """Entries of a folder, hidden ones left out, sorted by name."""
    try:
        with os.scandir(path) as entries:
            return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(error, str(path)) from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.is_dir()


def _no_images(path: Path) -> UserError:
    records = sorted(path.glob("*.rec"))
    if records:
        return UserError(
            "has no train.rec and no identity folders", str(path), f"name the file itself: {records[0]}"
        )
    return UserError(
        "holds no sub-folder with images",
        str(path),
        f"put each person's images ({', '.join(IMAGE_SUFFIXES)}) into a sub-folder of its own",
    )


def _unreadable(error: OSError, where: str) -> UserError:
    return UserError(f"cannot be read ({error.strerror})", where, "check that it exists and its permissions")
