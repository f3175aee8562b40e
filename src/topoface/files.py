"""Writing files so that a reader never sees half of one, after a power cut either."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from topoface.errors import UserError

# what a file system says that cannot sync folders, or a folder that may be written but not read
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, as `write_bytes` does; a file name that is no UTF-8 is spelled with backslashes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside the name, down to the disk, and rename. A link stays, and what it names is written; into a pipe or a device it goes directly.

    Raises:
        UserError: the file cannot be written; nothing is left behind then.
    """
    whole = Path(os.path.realpath(path))
    partial = _partial(whole)
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        partial.write_bytes(data)
        sync(partial)
        partial.replace(whole)
        sync(whole.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UserError(
            f"cannot be written ({error.strerror})",
            str(path),
            "make room, check the rights, or name another place",
        ) from error


def sync(path: Path) -> None:
    """Have the content of a file, or the names in a folder, on the disk: a power cut must not leave a name without content.

    Raises:
        OSError: the disk does not take it; not for folders where the file system knows of no such thing.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_FOLDER_SYNC):
            raise


def require_writable(path: Path) -> None:
    """Say before hours of work that `write_bytes` will fail.

    Raises:
        UserError: it is a folder, or lies in none that can be written to.
    """
    try:
        whole = Path(os.path.realpath(path))
        if path.is_dir():
            raise UserError("is a folder", str(path), "name a file in it")
        _partial(whole).exists()  # a name may be too long
        if not whole.parent.is_dir() and not path.exists():
            raise UserError("is in no folder that exists", str(path), "make the folder first")
        regular = path.is_file() or not path.exists()
        if not os.access(whole.parent if regular else path, os.W_OK):
            raise UserError("cannot be written there", str(path), "check the rights, or name another place")
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", str(path), "name another place") from error


def _partial(path: Path) -> Path:
    return path.parent / f"{path.name}.partial"
