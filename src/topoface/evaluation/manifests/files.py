"""From a drawn table to the bytes of a manifest: names of images, CSV, and a folder that appears at once."""

import csv
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from topoface.data.source import SYNTHETIC, Source
from topoface.errors import UserError

Row = tuple[object, ...]  # of a table; an image stands in it as its position


class Table(NamedTuple):
    """A manifest to be written.

    Attributes:
        header: names of the columns; ``images`` of them come first in each row, as positions in the source.
        images: how many columns name an image.
        rows: in their order.
        counts: what was drawn.
    """

    header: str
    images: int
    rows: list[Row]
    counts: dict[str, int]


def image_names(source: Source, out: Path) -> tuple[str, str, Callable[[int], str]]:
    """Where the images lie, seen from ``out``; whether they are named by paths or positions; and the name of each."""
    if source.uri.startswith(SYNTHETIC):
        return source.uri, "positions", str
    root, query = source.uri, ""
    if not Path(root).exists():  # a selection
        root, _, query = source.uri.rpartition("?")
    seen = os.path.relpath(Path(root).resolve(), out.resolve())
    if Path(root).is_dir() and not (Path(root) / "train.rec").is_file():
        beginning = f"{Path(root)}/"
        return seen, "paths", lambda i: source.describe(i).removeprefix(beginning)
    return f"{seen}?{query}" if query else seen, "positions", str


def as_csv(table: Table, name: Callable[[int], str], where: str) -> bytes:
    """The file. UserError if a name would not be read again as it is written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header.split(","))
    for row in table.rows:
        fields = [*(name(int(str(field))) for field in row[: table.images]), *map(str, row[table.images :])]
        bad = next((field for field in fields if field != field.strip() or not field.isprintable()), None)
        if bad is not None:
            raise UserError(
                f"{bad!r} cannot stand in a list", where, "rename it: without spaces around, in UTF-8"
            )
        writer.writerow(fields)
    return text.getvalue().encode()


def write_folder(out: Path, files: dict[str, bytes]) -> None:
    """Write all files in one folder, which appears at once; one that holds them already is left as it is.

    Raises:
        UserError: it holds something else, or cannot be written.
    """
    partial = out.with_name(f"{out.name}.partial")
    try:
        if out.is_dir() and all(
            (out / name).is_file() and (out / name).read_bytes() == data for name, data in files.items()
        ):
            return
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError("holds something else", str(out), "remove it or name another folder")
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir(parents=True)
        for name, data in files.items():
            (partial / name).write_bytes(data)
        partial.replace(out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"cannot be written ({error.strerror})",
            str(out),
            "make room, check the rights, or name another place",
        ) from error
