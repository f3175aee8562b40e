"""What every judgement is made of: a figure with its interval, operating points, curves, and what limits them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.functional.bootstrap import Floats, percentile_interval
from topoface.functional.sign_flips import FEW, flip_margin
from topoface.functional.verification import NIST_COST, allowed_false_accepts

TEMPLATE_FARS: Final = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
COST: Final = NIST_COST
BINS: Final = 100  # of a histogram of scores, over [-1, 1]
_UNKNOWN: Final = float("nan")


class Figure(NamedTuple):
    """A figure and its 95 % interval, NaN where no bootstrap was asked for."""

    value: float
    low: float = _UNKNOWN
    high: float = _UNKNOWN

    def within(self, replicates: Floats | None, trials: int = 0) -> "Figure":
        """The same with the interval of its replicates.

        Args:
            replicates: None: no interval.
            trials: of which the figure is a share. Drawing people anew never shows an error that nobody made: where fewer than
                ten were made, the interval reaches at least as far as Wilson's for independent trials (1927).
        """
        if replicates is None:
            return self
        return self.between(*percentile_interval(replicates), trials)

    def between(self, low: float, high: float, trials: int = 0) -> "Figure":
        """The same with this interval; of a share of so many trials, see `within`."""
        if trials > 0 and min(self.value, 1 - self.value) * trials < 10:
            z2 = 1.959964**2
            middle = (self.value + z2 / (2 * trials)) / (1 + z2 / trials)
            half = np.sqrt(z2 * (self.value * (1 - self.value) + z2 / (4 * trials)) / trials) / (
                1 + z2 / trials
            )
            low, high = min(low, max(0.0, middle - half)), max(high, min(1.0, middle + half))
        return Figure(self.value, low, high)


@dataclass(frozen=True, kw_only=True)
class TarAtFar:
    """TAR at the lowest threshold whose FAR does not exceed the target.

    Attributes:
        target: the FAR asked for.
        tar: share of genuine pairs accepted.
        far: share of impostor pairs accepted, at most ``target``.
        false_accepts: how many those are.
        allowed: how many ``target`` would allow.
        threshold: accept at or above it.
        warning: empty, or why the figure says little.
    """

    target: float
    tar: Figure
    far: float
    false_accepts: int
    allowed: int
    threshold: float
    warning: str


class Curve(NamedTuple):
    """What ROC and DET are drawn from.

    Attributes:
        roc: float64 ``[3, points]``: FAR, TAR, threshold; exact points, some of all.
        band: float64 ``[3, points]``: FAR, and the ends of the interval of TAR there; no points without a bootstrap.
        impostors: how many pairs of two people there are.
    """

    roc: Floats
    band: Floats
    impostors: int

    def to_json(self) -> dict[str, Any]:
        """Named lists."""
        return {
            "roc": dict(zip(("far", "tar", "threshold"), self.roc.tolist(), strict=True)),
            "roc_band": dict(zip(("far", "low", "high"), self.band.tolist(), strict=True)),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class PairFigures:
    """What scores of many pairs gave.

    Attributes:
        genuine: pairs of one person.
        impostors: pairs of two people.
        tar: one for each FAR in ``TEMPLATE_FARS``.
        min_dcf: lowest detection cost at ``COST``; None where it was not computed.
        curve: for ROC and DET.
        histogram: int64 ``[2, BINS]``, genuine and impostor pairs by score.
        replicates: by the names of `named`, for comparing models; empty without a bootstrap.
    """

    genuine: int
    impostors: int
    tar: tuple[TarAtFar, ...]
    min_dcf: Figure | None
    curve: Curve
    histogram: NDArray[np.int64]
    replicates: Mapping[str, Floats]

    def named(self) -> dict[str, Figure]:
        """The figures by name, for tables."""
        cost = {"min_dcf": self.min_dcf} if self.min_dcf else {}
        return {f"tar@{point.target:g}": point.tar for point in self.tar} | cost

    def comparable(self) -> dict[str, Floats]:
        """The replicates of what models can be compared by: no TAR that a few impostor pairs move."""
        vague = {f"tar@{point.target:g}" for point in self.tar if point.warning}
        return {name: drawn for name, drawn in self.replicates.items() if name not in vague}

    def trials(self) -> dict[str, int]:
        """Of how many trials each figure that is a share is one, by name."""
        return {f"tar@{point.target:g}": self.genuine for point in self.tar}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits these figures, a sentence each."""
        every = [*(point.warning for point in self.tar), cost_warning(self.min_dcf, bool(self.replicates))]
        return tuple(warning for warning in every if warning)

    def to_json(self) -> dict[str, Any]:
        """All but the replicates."""
        return {
            "genuine": self.genuine,
            "impostors": self.impostors,
            "tar_at_far": [{**vars(point), "tar": point.tar._asdict()} for point in self.tar],
            "min_dcf": self.min_dcf and self.min_dcf._asdict(),
            **self.curve.to_json(),
            "histogram": dict(zip(("genuine", "impostor"), self.histogram.tolist(), strict=True)),
        }


def tar_at(
    target: float, threshold: float, accepted: int, genuine: int, false: int, impostors: int, failed: int = 0
) -> TarAtFar:
    """The record of a threshold from the counts of pairs that it accepts; without an interval.

    Args:
        target: the FAR asked for.
        threshold: accept at or above it.
        accepted: genuine pairs that it accepts.
        genuine: of so many.
        false: impostor pairs that it accepts.
        impostors: of so many.
        failed: how many of these count as accepted whatever the threshold, since an image could not be judged.
    """
    allowed = allowed_false_accepts(impostors, target)
    return TarAtFar(
        target=target,
        tar=Figure(accepted / genuine),
        far=false / impostors,
        false_accepts=false,
        allowed=allowed,
        threshold=threshold,
        warning=failure_warning(failed, allowed, target) or resolution_warning(impostors, allowed, target),
    )


def with_intervals(
    points: list[TarAtFar], replicates: Mapping[str, Floats], genuine: int
) -> tuple[TarAtFar, ...]:
    """Each with the interval of the replicates of its name, where there are any; shares of so many genuine pairs."""
    return tuple(replace(p, tar=p.tar.within(replicates.get(f"tar@{p.target:g}"), genuine)) for p in points)


def difference(
    one: Figure, two: Figure, interval: tuple[float, float] | None = None, margin: float = 0.0
) -> Figure:
    """One minus two, with an interval where both have one: else what was left out of one's stands in this.

    Args:
        one: a figure.
        two: the same of another model.
        interval: of the difference.
        margin: how far on either side the interval reaches at least, for what replicates of few errors do not know.
    """
    value = one.value - two.value
    if interval is None or not np.isfinite([one.low, two.low]).all():
        return Figure(value)
    low, high = interval
    # Where nothing differs, the ends are zero but for rounding, and zero belongs to the interval.
    ends = [0.0 if abs(end) < 1e-9 else end for end in (min(low, value - margin), max(high, value + margin))]
    return Figure(value, *ends)


def differences(
    first: Mapping[str, Figure],
    second: Mapping[str, Figure],
    intervals: Mapping[str, tuple[float, float]],
    trials: Mapping[str, int],
) -> dict[str, Figure]:
    """First minus second by name, with the interval of the difference.

    Args:
        first: the figures of a model.
        second: those of another.
        intervals: of the differences, of what can be compared.
        trials: by name, of how many trials a figure is a share. At least as many were decided differently as the difference says; where these
            are fewer than ten, the interval reaches as far as `flip_margin` of them does.
    """
    found = {}
    for name in (name for name in first if name in second):
        value, of = first[name].value - second[name].value, trials.get(name, 0)
        deciding = round(abs(value) * of) if np.isfinite(value) else 0
        margin = flip_margin(np.full(deciding, 1 / of), np.arange(deciding)) if 0 < deciding < FEW else 0.0
        found[name] = difference(first[name], second[name], intervals.get(name), margin)
    return found


def band_fars(impostors: int, top: float = 1.0) -> list[float]:
    """Four FARs a decade, from one false accept up."""
    lowest = int(np.floor(-4 * np.log10(1 / impostors)))
    return [float(10.0 ** (-k / 4)) for k in range(lowest, -1, -1) if 10.0 ** (-k / 4) <= top * (1 + 1e-9)]


def band(fars: list[float], replicates: Mapping[str, Floats]) -> Floats:
    """``[3, points]``: FAR, low, high; of replicates named ``tar@...``."""
    ends = [percentile_interval(replicates[f"tar@{far:g}"]) for far in fars]
    return np.array([(far, *end) for far, end in zip(fars, ends, strict=True)]).reshape(-1, 3).T


def failure_warning(failed: int, allowed: int, far: float) -> str:
    """Empty, or that failures leave no threshold to find: more impostor pairs count as accepted than may be."""
    if failed <= allowed:
        return ""
    return (
        f"TAR at FAR {far:g} is what failures alone leave: {count_of(failed, 'impostor pair')} with an image that could not be "
        f"judged {'counts' if failed == 1 else 'count'} as accepted, and {allowed:,} may be. Repair or remove these images."
    )


def resolution_warning(impostors: int, allowed: int, far: float) -> str:
    """A rate needs about ten errors to be known to a third of itself."""
    if far == 0 or impostors >= 10 / far * (1 - 1e-9):
        return ""
    return (
        f"TAR at FAR {far:g} rests on {count_of(allowed, 'false accept')}: {impostors:,} impostor pairs "
        f"are few for this rate (at least {round(10 / far):,} would be needed)."
    )


def cost_figure(value: float, false_accepts: int, replicates: Floats | None) -> Figure:
    """minDCF, with an interval only where enough false accepts carry it: else it is too low by more than can be told."""
    return Figure(value).within(replicates if false_accepts >= 10 else None)


def cost_warning(figure: Figure | None, intervals: bool) -> str:
    """Empty, or why a minDCF has no interval."""
    if figure is None or not intervals or np.isfinite(figure.low):
        return ""
    return "minDCF is lowest where fewer than 10 impostor pairs are accepted: it is too low, and has no interval."


def cost_in_words() -> str:
    """How minDCF is counted."""
    return (
        f"lowest of all thresholds: prior of one person {COST.prior:g}, cost of a miss {COST.miss:g}, of a false accept "
        f"{COST.false_accept:g}; 1 is the cost of accepting nobody"
    )


def interval_in_words(bootstrap: int, unit: str, seed: int) -> str:
    """How intervals came about."""
    return f"95 %, {bootstrap} bootstrap replicates over {unit}, seed {seed}" if bootstrap else "not computed"


def count_of(number: int, noun: str) -> str:
    """``1 image``, ``3 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def without_nan(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    match value:
        case dict():
            return {key: without_nan(item) for key, item in value.items()}
        case list() | tuple():
            return [without_nan(item) for item in value]
        case float() if not np.isfinite(value):
            return None
        case _:
            return value
