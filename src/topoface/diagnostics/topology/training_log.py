"""What the log of a run says about alignment, and the verdict: did the discrepancy fall by alignment or by shrinking?"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.recipe.files import load_recipe
from topoface.training.logs import read_metrics

Floats = NDArray[np.float64]
Trend = Literal["rose", "fell", "did not change"]

KEYS = {
    "discrepancy": "TopoFR/alignment",
    "paired": "TopoFR/discrepancy_paired",
    "scale": "TopoFR/scale_ratio",
    "overlap": "TopoFR/tree_overlap",
    "gradient_ratio": "TopoFR/gradient_ratio",
    "probability": "class/target_probability",
    "chance": "TopoFR/chance_overlap",
}
LEAST_LINES = 6  # below that, noise cannot be told from change
ENDS = 5  # the beginning and the end of a run are a fifth of its lines each
SURE = 2  # standard errors


@dataclass(frozen=True, kw_only=True, eq=False)
class Log:
    """A run's figures, NaN where a line lacks one.

    Attributes:
        path: as given.
        steps: float64 ``[lines]``.
        values: by key of `KEYS`, float64 ``[lines]``; a key that no line has is absent.
        points: images whose trees were compared; for older logs from the recipe beside them, None where there is none.
        methods: what the recipe says of them.
    """

    path: str
    steps: Floats
    values: dict[str, Floats]
    points: int | None
    methods: str

    @property
    def chance_overlap(self) -> float:
        """What independent trees share, about; NaN if the number of points is not known."""
        return 2 / self.points if self.points else math.nan


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure at both ends of a run: means (geometric ones of what is positive) over a fifth of the lines."""

    first: float
    last: float
    trend: Trend

    @property
    def ratio(self) -> float:
        """Last over first."""
        return self.last / self.first if self.first else math.nan


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What happened in a run.

    Attributes:
        kind: ``aligning``, ``aligning and shrinking``, ``shrinking``, ``not aligning`` or ``too short to tell``.
        reason: a sentence with the figures.
    """

    kind: str
    reason: str


def read_log(path: str) -> Log:
    """The log of a run directory, or a metrics.jsonl itself.

    Raises:
        UserError: there is none, it holds nothing, or the run logged no alignment.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "metrics.jsonl"
    if not file.is_file():
        raise UserError("there is no metrics.jsonl", path, "give a run directory that train wrote")
    try:
        lines = read_metrics(file)
    except OSError as error:
        raise UserError(f"cannot be read ({error})", str(file), "give the metrics.jsonl of a run") from error
    if not lines:
        raise UserError(
            "holds no logged step", str(file), "train longer, or log more often (training.log_every)"
        )
    values = {key: np.array([_number(line.get(name)) for line in lines]) for key, name in KEYS.items()}
    values = {key: column for key, column in values.items() if np.isfinite(column).any()}
    if "discrepancy" not in values:
        raise UserError(
            "logged no alignment, since TopoFR or its isa was off",
            path,
            "give a run with alignment; topoface topology discrepancy compares models of any run",
        )
    points, methods = _from_recipe(file.with_name("recipe.yaml"))
    if "chance" in values:
        chance = float(np.nanmedian(values.pop("chance")))
        points = round(2 / chance) if chance > 0 else points
    steps = np.array([_number(line["step"]) for line in lines])
    return Log(path=path, steps=steps, values=values, points=points, methods=methods)


def change(values: Floats, *, logarithmic: bool) -> Change | None:
    """What a figure did between the first and the last fifth of its lines; None for too few lines.

    It changed if the two means lie more than two standard errors of their difference apart.
    """
    known = values[np.isfinite(values) & (values > 0)] if logarithmic else values[np.isfinite(values)]
    if len(known) < LEAST_LINES:
        return None
    count = max(len(known) // ENDS, 2)
    scaled = np.log(known) if logarithmic else known
    first, last = scaled[:count], scaled[-count:]
    error = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / count)
    gap = float(last.mean() - first.mean())
    trend: Trend = "did not change" if abs(gap) <= SURE * error else "rose" if gap > 0 else "fell"
    ends = (float(np.exp(end.mean())) if logarithmic else float(end.mean()) for end in (first, last))
    return Change(first=next(ends), last=next(ends), trend=trend)


def judge(log: Log) -> Verdict:
    """Whether the trees came together, and if not, what made the discrepancy fall."""
    discrepancy = change(log.values["discrepancy"], logarithmic=True)
    overlap = change(log.values["overlap"], logarithmic=False) if "overlap" in log.values else None
    scale = change(log.values["scale"], logarithmic=True) if "scale" in log.values else None
    if discrepancy is None or overlap is None:
        what = (
            f"fewer than {LEAST_LINES} logged steps" if discrepancy is None else "no tree overlap in the log"
        )
        return Verdict(kind="too short to tell", reason=f"{what}.")
    words = [f"The discrepancy {_told(discrepancy, '.3g')}"]
    shrank = scale is not None and scale.trend == "fell"
    if scale is not None:
        words.append(f"the embeddings' edges, in lengths of the images' edges, {_told(scale, '.2g')}")
    else:
        words.append("the log holds no scale (an older run)")
    words.append(f"the share of common edges {_told(overlap, '.1%')}")
    if log.points:
        words.append(f"independent trees share {log.chance_overlap:.1%}")
    if overlap.trend == "rose":
        kind = "aligning and shrinking" if shrank else "aligning"
    elif discrepancy.trend == "fell" and shrank:
        kind = "shrinking"
    else:
        kind = "not aligning"
    reason = "; ".join(words) + "."
    if kind == "not aligning" and discrepancy.trend == "fell" and scale is None:
        reason += " Without the scale it cannot be told whether shrinking made the discrepancy fall."
    return Verdict(kind=kind, reason=reason)


def _told(change: Change, spec: str) -> str:
    first, last = format(change.first, spec), format(change.last, spec)
    if change.trend == "did not change":
        return f"did not change ({first} to {last})"
    return f"{change.trend} from {first} to {last}"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _from_recipe(file: Path) -> tuple[int | None, str]:
    """Images of a tree in a run of one process, and the methods, from the recipe beside a log."""
    if not file.is_file():
        return None, "unknown, no recipe beside the log"
    recipe = load_recipe(file)
    methods = [
        " ".join(
            [
                method.class_path.rpartition(".")[2],
                method.preset or "",
                json.dumps(method.init_args) if method.init_args else "",
            ]
        )
        for method in recipe.methods
    ]
    return recipe.training.batch_size // recipe.training.accumulation, "; ".join(
        " ".join(m.split()) for m in methods
    )
