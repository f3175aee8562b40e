"""Writing text so that a reader never sees half of it."""

from contextlib import suppress
from pathlib import Path

from topoface.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write beside the name and rename.

    Raises:
        UserError: the file cannot be written; nothing is left behind then.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UserError(
            f"cannot be written ({error.strerror})",
            str(path),
            "make room, check the rights, or name another place",
        ) from error
