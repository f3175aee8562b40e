"""A folder of arrays that is written once: plain ``.npy`` files, none pickled, and ``meta.json`` with the SHA-256 of each."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.files import write_text

VERSION = 1
META = "meta.json"
REMEDY = "restore it, or build the codes anew (which makes them other codes)"


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What lies in such a folder.

    Attributes:
        path: of the folder.
        files: bytes and SHA-256 of each file, by its name.
        digest: SHA-256 over all of them, 64 hex digits.
        facts: what else ``meta.json`` says.
    """

    path: Path
    files: Mapping[str, Mapping[str, Any]]
    digest: str
    facts: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        return f"{name}.npy" in self.files

    def array(self, name: str) -> NDArray[Any]:
        """The array of that name, mapped.

        Raises:
            UserError: it is missing or damaged.
        """
        file = self.path / f"{name}.npy"
        try:
            found: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"cannot be read ({error})", str(file), REMEDY) from error
        return found

    def verify(self, *names: str) -> None:
        """Read the arrays of these names, or all, and compare each file with its SHA-256.

        Raises:
            UserError: one has changed since it was written, or cannot be read.
        """
        for name in [f"{name}.npy" for name in names] or self.files:
            file = self.path / name
            try:
                found = _sha256(file)
            except OSError as error:
                raise UserError(f"cannot be read ({error.strerror})", str(file), REMEDY) from error
            if found != self.files[name]["sha256"]:
                raise UserError("has changed since it was written", str(file), REMEDY)


def check_absent(path: Path) -> None:
    """Refuse a folder that exists, or cannot be made, before hours are spent on what is to lie in it.

    Raises:
        UserError: it does, or cannot.
    """
    if path.exists():
        raise UserError("exists already", str(path), "name a new folder: a run may use the codes in this one")
    above = next(place for place in path.absolute().parents if place.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise _unwritable(error, path) from error


def write_folder(path: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Write arrays and facts beside the name, and rename.

    Raises:
        UserError: the folder exists, or cannot be written; nothing is left behind then.
    """
    check_absent(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path) as partial:
            files = {
                f"{name}.npy": _write_array(partial / f"{name}.npy", each) for name, each in arrays.items()
            }
            meta = {"version": VERSION, **facts, "digest": _digest(files), "files": files}
            write_text(partial / META, json.dumps(meta, indent=1))
            partial.rename(path)
    except OSError as error:
        raise _unwritable(error, path) from error


def open_folder(path: Path) -> Folder:
    """Open what `write_folder` wrote, without reading an array.

    Raises:
        UserError: none is there, or it is damaged: a file is missing, or of another size than was written.
    """
    file = path / META
    if not file.is_file():
        raise UserError(
            f"is no code table (it has no {META})", str(path), "make one with topoface codes build"
        )
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
        version = meta.pop("version")
        files, digest = meta.pop("files"), meta.pop("digest")
        sizes = {name: int(entry["bytes"]) for name, entry in files.items()}
        sound = digest == _digest(files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot be read ({error!r})", str(file), REMEDY) from error
    if version != VERSION:
        remedy = f"use the topoface that wrote it (this one reads {VERSION})"
        raise UserError(f"is of version {version}", str(file), remedy)
    if not sound:
        raise UserError("was changed since it was written", str(file), REMEDY)
    for name, size in sizes.items():
        there = (path / name).stat().st_size if (path / name).is_file() else None
        if there != size:
            found = "is missing" if there is None else f"has {there:,} bytes instead of {size:,}"
            raise UserError(found, str(path / name), REMEDY)
    return Folder(path=path, files=files, digest=digest, facts=meta)


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """An empty folder beside the name, ours alone, and gone afterwards if it has not been renamed.

    Its lock goes with the process: what a kill has left behind nobody holds, and the next one clears it away.
    """
    partial = path.with_name(path.name + ".partial")
    partial.mkdir(exist_ok=True)
    with _lock(partial, path):
        try:
            for left in partial.iterdir():
                left.unlink()
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _lock(folder: Path, path: Path) -> Iterator[None]:
    """Hold the folder, where the system knows such locks.

    Raises:
        UserError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "is being written by another process", str(path), "wait for it, or name another folder"
            ) from None
        except OSError:
            pass  # some network file systems have none
        yield
    finally:
        os.close(descriptor)


def _unwritable(error: OSError, path: Path) -> UserError:
    reason = f"cannot be written ({error.strerror})"
    return UserError(reason, str(path), "make room, check the rights, or name another place")


def _write_array(file: Path, array: NDArray[Any]) -> dict[str, Any]:
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return {"bytes": file.stat().st_size, "sha256": _sha256(file)}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    text = "\n".join(f"{name} {entry['sha256']}" for name, entry in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()
