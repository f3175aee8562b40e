"""The tables of a study: a tidy CSV line for each figure, and Markdown that claims no more than its intervals."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from topoface.files import write_text
from topoface.study.results import REPLICATES, Interval, RunFiles, compare, reading


def write_tables(
    runs: Sequence[RunFiles], *, title: str, baseline: str, failed: Sequence[str], folder: Path
) -> None:
    """Write ``table.csv`` and ``table.md`` from the runs that are finished, however few."""
    finished = [run for run in runs if run.finished]
    write_text(folder / "table.csv", _csv(finished))
    write_text(folder / "table.md", _markdown(runs, finished, title, baseline, failed))


def _csv(runs: Sequence[RunFiles]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        "variant seed protocol metric value low high step_ms images_per_s wall_s".split()  # noqa: SIM905
    )
    for run in runs:
        cost = (run.step_ms(), run.images_per_s(), run.wall_s())
        for protocol, figures in run.figures().items():
            for metric, figure in figures.items():
                numbers = ("" if math.isnan(number) else f"{number:.10g}" for number in (*figure, *cost))
                rows.writerow([run.variant, run.seed, protocol, metric, *numbers])
    return text.getvalue()


def _markdown(
    runs: Sequence[RunFiles], finished: Sequence[RunFiles], title: str, baseline: str, failed: Sequence[str]
) -> str:
    variants = {run.variant: [r for r in finished if r.variant == run.variant] for run in runs}
    lines = [f"# {title}", "", f"{len(finished)} of {len(runs)} runs are finished."]
    lines += [f"Failed: {', '.join(failed)}."] if failed else []
    lines += [
        "",
        "All figures in %, differences in percentage points, intervals 95 %. Over seeds: t-interval of the mean over",
        "the runs. Over identities: bootstrap of that mean over the people judged on, "
        f"{REPLICATES} replicates. Differences are",
        f"to `{baseline}`, paired by seed and by people. Where many are read, one in twenty misleads by chance.",
    ]
    names = {
        (protocol, metric): None for run in finished for protocol, f in run.figures().items() for metric in f
    }
    warnings = {protocol: w for run in finished for protocol, w in run.warnings().items()}
    for protocol in dict.fromkeys(protocol for protocol, _ in names):
        lines += ["", f"## {protocol}", "", *(f"- {warning}" for warning in warnings[protocol])]
        for metric in (m for p, m in names if p == protocol):
            lower = " (lower is better)" if metric == "eer" else ""
            lines += ["", f"### {protocol}: {metric}{lower}", "", *_header(f"minus {baseline}")]
            lines += [_row(name, variants, baseline, protocol, metric) for name in variants]
    lines += ["", "## Cost", "", "| variant | step, ms | images/s | wall, s |", "|---|---|---|---|"]
    for name, members in variants.items():
        costs = [
            [f(run) for run in members] for f in (RunFiles.step_ms, RunFiles.images_per_s, RunFiles.wall_s)
        ]
        lines.append(f"| {name} | " + " | ".join(_number(_median(cost), 1) for cost in costs) + " |")
    return "\n".join([*lines, "", "Median over the runs; a step is the median over the run's log.", ""])


def _header(difference: str) -> list[str]:
    columns = ["variant", "seeds", "mean", "over seeds", "over identities"]
    columns += [difference, "over seeds", "over identities", "reading"]
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def _row(
    name: str, variants: Mapping[str, Sequence[RunFiles]], baseline: str, protocol: str, metric: str
) -> str:
    def judged(variant: str) -> list[RunFiles]:
        return [run for run in variants.get(variant, ()) if metric in run.figures().get(protocol, {})]

    c = compare(judged(name), judged(baseline), protocol, metric)
    cells = [name, str(c.seeds), _number(100 * c.mean), _span(c.over_seeds), _span(c.over_identities)]
    if name == baseline:
        cells += ["", "", "", "baseline"]
    else:
        signed = "" if math.isnan(c.difference) else f"{100 * c.difference:+.2f}"
        cells += [signed, _span(c.difference_over_seeds), _span(c.difference_over_identities), reading(c)]
    return f"| {' | '.join(cells)} |"


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan


def _number(value: float, digits: int = 2) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _span(interval: Interval) -> str:
    return "" if math.isnan(interval[0]) else f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}"
