"""What the runs of a study left behind, and how sure their differences are.

Two things vary, so there are two intervals. Over seeds: another initialisation and order would have given
another model (Student's t, n runs). Over identities: other people would have given another figure for
these very models (bootstrap over identities of the mean over the runs). A difference to the baseline is
paired in both: by seed, and by drawing the same people for both. It is called one only where no
interval covers zero.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.functional.bootstrap import Replicates, difference_intervals, drawn_figures, percentile_interval
from topoface.recipe.yaml_files import read_mapping

REPLICATES = 1000
Floats = NDArray[np.float64]
Interval = tuple[float, float]
NO_INTERVAL: Interval = (math.nan, math.nan)


class Figure(NamedTuple):
    """A figure of one run with its interval over identities."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The run directory of one variant and seed, and what is read from it."""

    variant: str
    seed: int
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.folder / "evaluation.json").is_file()

    def figures(self) -> dict[str, dict[str, Figure]]:
        """Figure by protocol and metric (``accuracy``, ``auc``, ``eer``, ``tar@<far>``)."""
        return {judged["name"]: _figures(judged) for judged in self._judged()}

    def warnings(self) -> dict[str, list[str]]:
        """What limits the figures of each protocol."""
        return {judged["name"]: judged.get("warnings", []) for judged in self._judged()}

    def images_per_s(self) -> float:
        """Median over the lines of the log."""
        from topoface.training.logs import read_metrics  # needs torch, which tables do not

        rates = [
            line["images_per_s"]
            for line in read_metrics(self.folder / "metrics.jsonl")
            if "images_per_s" in line
        ]
        return float(np.median(rates)) if rates else math.nan

    def step_ms(self) -> float:
        """Median time of an optimizer step."""
        batch_size = read_mapping(self.folder / "recipe.yaml", "recipe")["training"]["batch_size"]
        return float(1000 * batch_size / self.images_per_s())

    def wall_s(self) -> float:
        """Time of all attempts together, with start, judging and report."""
        path = self.folder / "study.json"
        return float(json.loads(path.read_text(encoding="utf-8"))["wall_s"]) if path.is_file() else math.nan

    def replicates(self, protocol: str) -> Replicates | None:
        """Every metric under the identity bootstrap, or None without score file; the same people for every run."""
        path = self.folder / "scores" / f"{protocol}.npz"
        fars = tuple(float(name[4:]) for name in self.figures()[protocol] if name.startswith("tar@"))
        return _replicates(path, path.stat().st_mtime_ns, fars) if path.is_file() else None

    def pairs(self, protocol: str) -> bytes:
        """What must be equal for a comparison pair by pair."""
        with np.load(self.folder / "scores" / f"{protocol}.npz") as file:
            return b"".join(file[name].tobytes() for name in ("same", "folds", "identities"))

    def _judged(self) -> list[dict[str, Any]]:
        content = json.loads((self.folder / "evaluation.json").read_text(encoding="utf-8"))
        judged: list[dict[str, Any]] = content["protocols"]
        return judged


class Comparison(NamedTuple):
    """One variant on one protocol and metric; NaN where an interval cannot be given.

    Attributes:
        seeds: how many runs.
        mean: over the runs.
        over_seeds: 95 % t-interval of the mean.
        over_identities: 95 % bootstrap interval of the mean.
        difference: mean over the seeds that both have, variant minus baseline.
        difference_over_seeds: its paired t-interval.
        difference_over_identities: its paired interval.
    """

    seeds: int
    mean: float
    over_seeds: Interval
    over_identities: Interval
    difference: float
    difference_over_seeds: Interval
    difference_over_identities: Interval


def compare(runs: Sequence[RunFiles], baseline: Sequence[RunFiles], protocol: str, metric: str) -> Comparison:
    """The finished runs of a variant beside those of the baseline; empty lists are fine."""
    values = {run.seed: run.figures()[protocol][metric].value for run in runs}
    references = {run.seed: run.figures()[protocol][metric].value for run in baseline}
    common = sorted(values.keys() & references.keys())
    gaps = [values[seed] - references[seed] for seed in common]
    ours = [run for run in runs if run.seed in common]
    theirs = [run for run in baseline if run.seed in common]
    own, other = (_replicates_of(some, protocol, metric) for some in (ours, theirs))
    paired = NO_INTERVAL
    if own and other and ours[0].pairs(protocol) == theirs[0].pairs(protocol):
        paired = difference_intervals(own, other)[metric]
    every = [replicates.settled()[metric] for replicates in _replicates_of(runs, protocol, metric)]
    return Comparison(
        seeds=len(values),
        mean=float(np.mean(list(values.values()))) if values else math.nan,
        over_seeds=t_interval(list(values.values())),
        over_identities=percentile_interval(np.mean(every, axis=0)) if every else NO_INTERVAL,
        difference=float(np.mean(gaps)) if gaps else math.nan,
        difference_over_seeds=t_interval(gaps),
        difference_over_identities=paired,
    )


def reading(comparison: Comparison) -> str:
    """The difference in words, no stronger than the weaker of its intervals."""
    intervals = {
        "seeds": comparison.difference_over_seeds,
        "identities": comparison.difference_over_identities,
    }
    known = {name: interval for name, interval in intervals.items() if not math.isnan(interval[0])}
    if not known:
        return "no interval, so no claim"
    if (
        any(low <= 0 <= high for low, high in known.values())
        or len({low > 0 for low, _ in known.values()}) > 1
    ):
        return "difference not distinguishable from zero"
    direction = "higher" if comparison.difference > 0 else "lower"
    return (
        direction if len(known) == len(intervals) else f"{direction}, judged over {next(iter(known))} alone"
    )


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's interval of the mean; NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return NO_INTERVAL
    half = student_quantile(n - 1, level) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def student_quantile(freedom: int, level: float) -> float:
    """The t with P(|T| <= t) = level.

    With t = sqrt(freedom) tan(a), that probability is the share of the integral of cos^(freedom - 1)
    over [0, pi/2] that lies below a; the trapezoid sum is good to 1e-6 of t up to level 0.999.
    """
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    share = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(float(np.interp(level * share[-1], share, angles)))


def _figures(judged: Mapping[str, Any]) -> dict[str, Figure]:
    named = {name: judged[name] for name in ("accuracy", "auc", "eer")}
    named |= {f"tar@{point['target']:g}": point["tar"] for point in judged["tar_at_far"]}
    return {
        name: Figure(*(math.nan if figure[k] is None else figure[k] for k in Figure._fields))
        for name, figure in named.items()
    }


@functools.cache
def _replicates(path: Path, _changed: int, fars: tuple[float, ...]) -> Replicates:
    with np.load(path) as file:
        arrays = (file["scores"], file["same"], file["identities"], file["folds"])
    return drawn_figures(*arrays, fars, None, REPLICATES, 0)


def _replicates_of(runs: Sequence[RunFiles], protocol: str, metric: str) -> list[Replicates]:
    """Of all runs, or of none where one has no scores."""
    every = [run.replicates(protocol) for run in runs]
    known = [replicates for replicates in every if replicates is not None and metric in replicates.plain]
    return known if len(known) == len(runs) else []
