"""The report: one self-contained HTML page about one or several models, to be read by people."""

import base64
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from topoface.data.decode import Pixels
from topoface.errors import UserError, missing_extra
from topoface.evaluation.figures import Figure
from topoface.evaluation.groups.figures import GroupJudgement
from topoface.evaluation.pairs.comparing import compare
from topoface.evaluation.pairs.verification import FARS, Verification
from topoface.evaluation.report import curves, plots
from topoface.evaluation.report.calibration import calibration_section
from topoface.evaluation.report.groups import group_sections
from topoface.evaluation.report.sets import SetResult, set_sections
from topoface.files import write_text

TEMPLATES = Path(__file__).parent / "html"
PAIRS_SHOWN = 6  # of each kind of error
FACES_IN_ALL = 200  # keeps the page under 2 MB, whatever is compared


@dataclass(frozen=True, kw_only=True, eq=False)
class TopologySnapshot:
    """H0 persistence of one fixed batch at one time.

    Attributes:
        label: when, for example ``before training``.
        source_deaths: ``[n - 1]``, of the input space; births are all 0.
        latent_deaths: ``[n - 1]``, of the embeddings.
        overlap: share of the edges of the two spanning trees that they have in common.
        chance_overlap: the share that unrelated trees would have.
    """

    label: str
    source_deaths: NDArray[np.floating[Any]]
    latent_deaths: NDArray[np.floating[Any]]
    overlap: float
    chance_overlap: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelEntry:
    """One model of the report.

    Attributes:
        name: as it stands in tables.
        verifications: what it reached on lists of pairs, one a protocol.
        sets: what it reached on templates and on all pairs of a set, one a protocol.
        groups: its error rates by group, one a protocol.
        metrics: ``metrics.jsonl`` of its run, or its rows, or None.
        topology: snapshots in order of time.
        settings: its recipe as YAML, or empty.
        facts: further facts, for example ``{"parameters": "1.1 M", "training time": "12 min"}``.
    """

    name: str
    verifications: Sequence[Verification] = ()
    sets: Sequence[SetResult] = ()
    groups: Sequence[GroupJudgement] = ()
    metrics: Path | Sequence[Mapping[str, Any]] | None = None
    topology: Sequence[TopologySnapshot] = ()
    settings: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportInput:
    """Everything that a report shows.

    Attributes:
        title: heading of the page.
        models: the first is the one the report is about, the others stand beside it.
        data: facts about the training data, for example its path, size and fingerprint.
        command: the command that made the run, or empty.
    """

    title: str
    models: Sequence[ModelEntry]
    data: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def write_report(path: Path, content: ReportInput) -> None:
    """Write the page to ``path`` (beside first, then renamed).

    Raises:
        UserError: matplotlib or jinja2 is not installed, or the metrics cannot be read.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise missing_extra("jinja2", "report", str(path)) from None
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, interval=_interval, points=_points, span=_span)
    page = environment.get_template("report.html").render(
        report=content,
        protocols=_protocol_sections(content.models),
        sets=set_sections({model.name: model.sets for model in content.models}),
        groups=group_sections({model.name: model.groups for model in content.models}),
        training=_training_plots(content.models),
        topology=_topology_plots(content.models),
        versions=versions(),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        real_faces=any(not v.protocol.synthetic for model in content.models for v in model.verifications),
        fars=FARS,
    )
    write_text(path, page)


def _protocol_sections(models: Sequence[ModelEntry]) -> list[dict[str, Any]]:
    """One section a protocol: rows of its table, differences, plots and worst pairs."""
    by_protocol: dict[str, dict[str, Verification]] = {}
    for model in models:
        for verification in model.verifications:
            by_protocol.setdefault(verification.name, {})[model.name] = verification
    results = sum(map(len, by_protocol.values()))
    shown = min(PAIRS_SHOWN, max(2, FACES_IN_ALL // max(4 * results, 1)))
    colours = plots.colour_of([model.name for model in models])
    return [_protocol_section(name, judged, colours, shown) for name, judged in by_protocol.items()]


def _protocol_section(
    name: str, judged: Mapping[str, Verification], colours: Mapping[str, str], shown: int
) -> dict[str, Any]:
    main_name, main = next(iter(judged.items()))
    protocol = main.protocol
    differences = {
        other: compare(main, verification)["accuracy"]
        for other, verification in judged.items()
        if other != main_name and verification.protocol.fingerprint == protocol.fingerprint
    }
    ends = [end for v in judged.values() for end in v.accuracy if np.isfinite(end)]
    low, high = min(ends), max(ends)
    margin = max(high - low, 0.01) * 0.1
    return {
        "name": name,
        "main": main_name,
        "judged": judged,
        "protocol": protocol,
        "pairs": len(protocol.same),
        "genuine": int(protocol.same.sum()),
        "people": len(np.unique(protocol.identities)),
        "differences": differences,
        "banded": any(v.curve.band.size for v in judged.values()),
        "scale": (low - margin, high + margin),
        "roc": curves.roc_plot({model: v.curve for model, v in judged.items()}, colours),
        "det": curves.det_plot({model: v.curve for model, v in judged.items()}, colours),
        "histograms": {
            model: curves.histogram_plot(v.histogram, colours[model], float(np.median(v.fold_thresholds)))
            for model, v in judged.items()
        },
        "colours": colours,
        "calibration": calibration_section(judged, colours),
        "worst": {
            model: {
                "accepts": [_face_pair(v, i) for i in v.worst_accepts[:shown]],
                "rejects": [_face_pair(v, i) for i in v.worst_rejects[:shown]],
            }
            for model, v in judged.items()
        },
    }


def _face_pair(verification: Verification, pair: int) -> dict[str, Any]:
    images = verification.protocol.images
    return {
        "score": float(verification.scores[pair]),
        "faces": [(images.names[i], jpeg_of(images[i])) for i in verification.protocol.pairs[pair].tolist()],
    }


def jpeg_of(image: Pixels) -> str:
    """A face as base64 JPEG, about 4 kB."""
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=75, colorspace="RGB")
    return base64.b64encode(encoded).decode()


def _training_plots(models: Sequence[ModelEntry]) -> list[tuple[str, str]]:
    """(caption, SVG) of what ``metrics.jsonl`` holds."""
    rows = {model.name: _metrics(model.metrics) for model in models if model.metrics is not None}
    colours = plots.colour_of([model.name for model in models])
    result = []
    if loss := _lines(rows, "loss"):
        caption = "Loss of the logged steps; in a long run the single values are faint and their running mean is bold."
        result.append((caption, plots.line_plot(loss, colours, "loss", smooth=True)))
    terms = {
        key for records in rows.values() for record in records for key in record if key.startswith("loss/")
    }
    for term in sorted(terms - {"loss/class"}):
        name = term.removeprefix("loss/")
        if values := _lines(rows, term):
            result.append(
                (f"The term “{name}” of the loss.", plots.line_plot(values, colours, name, smooth=True))
            )
    if accuracy := _accuracy_over_steps(rows):
        own = plots.colour_of(list(accuracy))
        result.append(("Accuracy while training.", plots.line_plot(accuracy, own, "accuracy", marker="o")))
    if rate := _lines(rows, "lr"):
        result.append(("Learning rate.", plots.line_plot(rate, colours, "learning rate")))
    return result


def _lines(rows: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> dict[str, plots.Line]:
    """One value of the metrics over the steps, of each model that has it."""
    points = {
        name: [
            (record["step"], record[key]) for record in records if isinstance(record.get(key), int | float)
        ]
        for name, records in rows.items()
    }
    return _as_lines(points)


def _accuracy_over_steps(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, plots.Line]:
    points: dict[str, list[tuple[float, float]]] = {}
    for name, records in rows.items():
        for record in records:
            for protocol, figures in record.get("evaluation", {}).items():
                points.setdefault(f"{name}, {protocol}", []).append((record["step"], figures["accuracy"]))
    return _as_lines(points)


def _as_lines(points: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, plots.Line]:
    """Arrays of those with at least two points; one point makes no line."""
    arrays = {name: np.array(line, dtype=np.float64) for name, line in points.items() if len(line) > 1}
    return {name: (line[:, 0], line[:, 1]) for name, line in arrays.items()}


def _metrics(source: Path | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if not isinstance(source, Path):
        return source
    try:
        lines = source.read_bytes().splitlines()
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", str(source), "give the run's metrics.jsonl"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
        elif number < len(lines):  # a run that was killed may leave half a last line
            raise UserError(
                "is no JSON object with a step", f"{source}:{number}", "restore the file or remove the line"
            )
    return rows


def _topology_plots(models: Sequence[ModelEntry]) -> list[dict[str, Any]]:
    return [
        {
            "model": model.name,
            "snapshot": snapshot,
            "svg": plots.barcode_plot(
                np.asarray(snapshot.source_deaths, dtype=np.float64),
                np.asarray(snapshot.latent_deaths, dtype=np.float64),
                plots.COLOURS[number % len(plots.COLOURS)],
            ),
        }
        for number, model in enumerate(models)
        for snapshot in model.topology
    ]


def versions() -> dict[str, str]:
    """Of the packages that decide about figures."""
    found = {}
    for package in ("topoface", "torch", "numpy", "simplejpeg", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _interval(figure: Figure, digits: int = 1) -> str:
    """``86.3 to 88.5``, or nothing where no bootstrap was asked for."""
    if not np.isfinite([figure.low, figure.high]).all():
        return ""
    return f"{100 * figure.low:.{digits}f} to {100 * figure.high:.{digits}f}"


def _span(figure: Figure) -> str:
    """``0.123 to 0.145``, or nothing where no bootstrap was asked for."""
    return f"{figure.low:.3f} to {figure.high:.3f}" if np.isfinite([figure.low, figure.high]).all() else ""


def _points(value: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")
