"""Figure 2c of TopoFR from the logs of runs: discrepancy, scale and tree overlap over training, and a verdict.

A raw discrepancy falls when the embeddings shrink, with nothing learned of the structure: the curve alone, as the paper
draws it, does not tell that from alignment.
"""

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from topoface.diagnostics.opening import short_names
from topoface.diagnostics.page import Page, Picture, Section, Table, check_out, write_page
from topoface.diagnostics.topology.training_log import (
    ENDS,
    LEAST_LINES,
    SURE,
    Log,
    Verdict,
    change,
    judge,
    read_log,
)
from topoface.errors import UserError
from topoface.evaluation.report.plots import COLOURS, INK, MUTED, colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

TOGETHER = len(COLOURS)  # runs in one picture
MOST_POINTS = 400  # of a line; a long log must not make a large page
DASHED = (0, (4, 2))
PANELS = {
    "discrepancy": "discrepancy",
    "paired": "discrepancy, free of scale",
    "scale": "scale",
    "overlap": "common edges, %",
    "gradient_ratio": "gradient ratio",
}


def curve(runs: Sequence[str], *, out: Path) -> None:
    """Draw what the logs of runs say about alignment, and judge each run. A run without alignment is passed over.

    Args:
        runs: run directories, or their metrics.jsonl.
        out: gets ``curve.html``, ``curve.json`` and the pictures.

    Raises:
        UserError: a log is missing or unreadable, no run logged alignment, or ``out`` cannot be written.
    """
    check_out(out)
    logs: dict[str, Log] = {}
    for name, path in zip(short_names(runs), runs, strict=True):
        try:
            logs[name] = read_log(path)
        except UserError as error:
            if len(runs) == 1 or "logged no alignment" not in error.what:
                raise
            print(f"passed over: {error}", file=sys.stderr)
    if not logs:
        raise UserError(
            "none of the runs logged an alignment", ", ".join(runs), "give runs with TopoFR and its isa on"
        )
    verdicts = {name: judge(log) for name, log in logs.items()}
    page = Page(
        name="curve",
        title="Alignment over training",
        lead=_lead(logs, verdicts),
        sections=[_curves(logs), _verdicts(logs, verdicts), _reading(logs)],
        numbers={
            "runs": {
                name: {
                    "path": log.path,
                    "verdict": verdicts[name].kind,
                    "reason": verdicts[name].reason,
                    "chance_overlap": log.chance_overlap,
                    "steps": log.steps,
                    **log.values,
                }
                for name, log in logs.items()
            }
        },
        facts={
            **{f"run {name}": f"{log.path}: {log.methods}" for name, log in logs.items()},
            "chance": "2 / n for the n images of a step in one process; more processes with scope rank have smaller trees",
        },
        command="topoface topology curve " + shlex.join([*runs, "--out", str(out)]),
    )
    written = write_page(out, page)
    print(page.lead)
    print(f"page: {written}")


def _lead(logs: Mapping[str, Log], verdicts: Mapping[str, Verdict]) -> str:
    """The verdicts, and how the runs classify at their ends: structure kept by learning nobody is a poor bargain."""
    if len(verdicts) == 1:
        ((name, verdict),) = verdicts.items()
        return f"{name}: {verdict.kind}. {verdict.reason}"
    kinds = dict.fromkeys(verdict.kind for verdict in verdicts.values())
    groups = {kind: [name for name, verdict in verdicts.items() if verdict.kind == kind] for kind in kinds}
    said = [f"{kind.capitalize()}: {', '.join(names)}." for kind, names in groups.items()]
    changes = {
        name: change(log.values["probability"], logarithmic=True)
        for name, log in logs.items()
        if "probability" in log.values
    }
    final = {name: change.last for name, change in changes.items() if change}
    if len(final) > 1:
        low, high = min(final, key=final.__getitem__), max(final, key=final.__getitem__)
        said.append(
            f"The probability of the own identity ends between {final[low]:.2g} ({low}) and {final[high]:.2g} ({high})."
        )
    without = sum("scale" not in log.values for log in logs.values())
    if without:
        said.append(f"The logs of {without} runs hold no scale, so shrinking cannot be told there.")
    return " ".join(said)


def _curves(logs: Mapping[str, Log]) -> Section:
    names = list(logs)
    groups = [names[start : start + TOGETHER] for start in range(0, len(names), TOGETHER)]
    keys = [key for key in PANELS if any(key in log.values for log in logs.values())]
    return Section(
        title="Over training",
        text="Read the panels together: a discrepancy that falls with the scale while the share of common edges stays is shrinking; one that falls "
        "while that share rises is alignment. Discrepancies of different forms have different units: compare their course, not their height.",
        pictures=[
            Picture(
                name=f"runs_{number}" if len(groups) > 1 else "runs",
                caption="From top: alignment loss before its weight"
                + (
                    ", paired discrepancy of unit embeddings with each space in its mean edge"
                    if "paired" in keys
                    else ""
                )
                + (
                    ", mean tree edge of the raw embeddings over that of the images (dashed: 1)"
                    if "scale" in keys
                    else ""
                )
                + ", share of edges that both trees, of images and of directions, have (dashed: independent trees)"
                + (
                    ", gradient of the weighted alignment over that of the class loss"
                    if "gradient_ratio" in keys
                    else ""
                )
                + ". Faint: single steps; strong: running mean.",
                draw=partial(_draw, logs={name: logs[name] for name in group}, keys=keys),
                rows=len(keys),
                size=(4.7, 0.7 + 1.95 * len(keys)),
            )
            for number, group in enumerate(groups, 1)
        ],
    )


def _verdicts(logs: Mapping[str, Log], verdicts: Mapping[str, Verdict]) -> Section:
    rows = []
    for name, log in logs.items():
        chance = "unknown" if math.isnan(log.chance_overlap) else f"{log.chance_overlap:.1%}"
        rows.append(
            [
                name,
                verdicts[name].kind,
                _ends(log, "discrepancy", ".3g"),
                _ends(log, "paired", ".3g"),
                _ends(log, "scale", ".2g"),
                _ends(log, "overlap", ".1%"),
                chance,
                _ends(log, "gradient_ratio", ".2g"),
                _ends(log, "probability", ".2g"),
            ]
        )
    return Section(
        title="Verdicts",
        text="\n\n".join(f"{name}: {verdict.kind}. {verdict.reason}" for name, verdict in verdicts.items()),
        table=Table(
            header=[
                "",
                "verdict",
                "discrepancy",
                "free of scale",
                "scale",
                "common edges",
                "chance",
                "gradient ratio",
                "probability of own identity, with margin",
            ],
            rows=rows,
            caption=f"First to last {100 // ENDS} % of the logged steps, means (geometric ones, but of common edges).",
        ),
    )


def _reading(logs: Mapping[str, Log]) -> Section:
    without = [name for name, log in logs.items() if "scale" not in log.values]
    missing = f"\n\nNo scale in the log, from before it was written: {', '.join(without)}." if without else ""
    return Section(
        title="How to read this page",
        text=f"A run is aligning if the share of common edges rose, by more than {SURE} standard errors of the difference between the first and the last "
        f"fifth of its logged steps (at least {LEAST_LINES} steps); shrinking if that share did not rise while discrepancy and scale fell; not aligning otherwise. "
        "Steps are taken for independent; a share that swings slowly can be judged too surely. The share is measured on perturbed training images in training mode: topoface topology discrepancy "
        "measures it on any images, beside other models.\n\n"
        "A share that falls is no defect of a run: an untrained network passes much of the pixels' structure on, and to learn identities is to leave it. "
        "And one that rises is no merit by itself: see the probability of the own identity." + missing,
    )


def _ends(log: Log, key: str, spec: str) -> str:
    if key not in log.values:
        return "not logged"
    ends = change(log.values[key], logarithmic=key != "overlap")
    return f"{ends.first:{spec}} to {ends.last:{spec}}" if ends else "–"


def _draw(*panels: "Axes", logs: Mapping[str, Log], keys: Sequence[str]) -> None:
    colours = colour_of(list(logs))
    for axes, key in zip(panels, keys, strict=True):
        unit = 100 if key == "overlap" else 1
        for name, log in logs.items():
            if key in log.values:
                known = np.isfinite(log.values[key])
                steps, values = log.steps[known], log.values[key][known] * unit
                axes.plot(*_thinned(steps, values), color=colours[name], alpha=0.3, linewidth=0.8)
                axes.plot(*_thinned(*_running_mean(steps, values)), color=colours[name], label=name)
        if key == "overlap":
            for chance in {log.chance_overlap for log in logs.values()}:
                axes.axhline(100 * chance, color=INK, linewidth=1, linestyle=DASHED)
            axes.set_ylim(0, None)
        else:
            axes.set_yscale("log")
        if key == "scale":
            axes.axhline(1, color=MUTED, linewidth=1, linestyle=DASHED)
        axes.set(ylabel=PANELS[key])
        axes.label_outer()
    panels[-1].set(xlabel="step")
    columns = 1 if sum(map(len, logs)) > 30 else len(logs)
    panels[0].legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0, handlelength=1.4
    )


def _running_mean(steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Mean over a twelfth of the lines, at the middle of them."""
    kernel = np.full(max(1, len(values) // 12), 1.0)
    kernel /= len(kernel)
    return np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid")


def _thinned(steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    every = max(1, len(steps) // MOST_POINTS)
    return steps[::every], values[::every]
