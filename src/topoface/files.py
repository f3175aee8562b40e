"""Writing files so that a reader never sees half of one."""

from contextlib import suppress
from pathlib import Path

from topoface.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 beside the name and rename; errors as in `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside the name and rename.

    Raises:
        UserError: the file cannot be written; nothing is left behind then.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UserError(
            f"cannot be written ({error.strerror})",
            str(path),
            "make room, check the rights, or name another place",
        ) from error
