"""What every diagnostic leaves in its folder: pictures as PNG, one self-contained HTML page, its numbers as JSON."""

import json
import math
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topoface.errors import UserError, missing_extra
from topoface.evaluation.report import plots
from topoface.evaluation.report.page import TEMPLATES as REPORT_TEMPLATES
from topoface.evaluation.report.page import versions
from topoface.files import write_bytes, write_text

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure of a page.

    Attributes:
        name: of its PNG, without suffix; letters, digits and underscores.
        caption: what it shows, and how to read it.
        draw: called with ``rows * columns`` matplotlib axes.
        rows: of axes.
        columns: of axes.
        size: width and height in inches; one phone screen by default. Wide ones get the whole page.
    """

    name: str
    caption: str
    draw: Callable[..., None]
    rows: int = 1
    columns: int = 1
    size: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a page; cells are shown as they are, the first of each row as its heading."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face of a page.

    Attributes:
        jpeg: base64, see `topoface.evaluation.report.jpeg_of`.
        name: file or record, for people who cannot see it.
        lines: short, below it.
        beside: other faces to compare it with, to its right, JPEG and name of each.
    """

    jpeg: str
    name: str
    lines: Sequence[str]
    beside: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page: heading, sentences, then whatever of the rest is given."""

    title: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    table: Table | None = None
    faces: Sequence[Face] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """A finished diagnostic.

    Attributes:
        name: of the files: ``NAME.html``, ``NAME.json``, ``NAME_PICTURE.png``.
        title: heading.
        lead: what came out, in a sentence or two that hold the figures.
        sections: the rest.
        numbers: everything that is drawn or said, for ``NAME.json``; NaN and infinity become null.
        facts: what it was made from: data, models, settings, seed.
        command: that makes it again.
        real_faces: whether pictures of real people are shown.
    """

    name: str
    title: str
    lead: str
    sections: Sequence[Section]
    numbers: Mapping[str, Any]
    facts: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    real_faces: bool = False


def check_out(out: Path) -> None:
    """Refuse a place that cannot be written, or a machine that cannot draw, before minutes are spent.

    Raises:
        UserError: ``out`` is no folder and cannot be made one, or not written to; matplotlib or jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib as mpl  # noqa: F401
    except ImportError as error:
        raise missing_extra(error.name or "matplotlib", "report", "topoface topology") from None
    existing = next(place for place in (out, *out.resolve().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        reason = error.strerror or "in the way"
        raise UserError(f"cannot be written ({reason})", str(out), "choose another --out") from error


def write_page(out: Path, page: Page) -> Path:
    """Write page, pictures and numbers into the folder ``out``, each beside first and then renamed.

    Returns:
        The path of the HTML page.

    Raises:
        UserError: see `check_out`.
    """
    check_out(out)
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    drawings: dict[str, str] = {}
    pictures: dict[str, bytes] = {}
    for section in page.sections:
        for picture in section.pictures:
            svg, png = plots.render(
                picture.draw, rows=picture.rows, columns=picture.columns, size=picture.size, png=True
            )
            drawings[picture.name] = svg
            pictures[picture.name] = png
    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, REPORT_TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html").render(
        page=page,
        drawings=drawings,
        versions=versions(),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )
    try:  # everything is made: now write
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made ({error.strerror})", str(out), "choose another --out") from error
    for name, png in pictures.items():
        write_bytes(out / f"{page.name}_{name}.png", png)
    numbers = {"facts": dict(page.facts), "command": page.command, **page.numbers}
    write_text(out / f"{page.name}.json", json.dumps(_finite(numbers), indent=1))
    path = out / f"{page.name}.html"
    write_text(path, html)
    return path


def _finite(value: Any) -> Any:
    """As JSON can hold it: arrays as lists, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
