"""What error rates by group are told as: cells, tables, how far groups are apart, and the accuracies of RFW."""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from topoface.evaluation.figures import Figure, without_nan

SHOWN: Final = 6  # differences told in words; all are in the JSON
ENOUGH: Final = 10  # errors that make a rate known to about a third of itself
MEANING: Final = (
    "A group is a label that somebody gave to pictures. It is no property that the model or this page found in a person, and a "
    "difference between groups does not say where it comes from: pictures, people and the choice of pairs differ with it."
)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """An error rate of a group.

    Attributes:
        rate: share of the pairs, with its interval; NaN without pairs.
        errors: pairs told wrong.
        pairs: of its kind.
    """

    rate: Figure
    errors: int
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The pairs of one group, or those between two.

    Attributes:
        groups: of the two images.
        fmr: of impostor pairs: false match rate.
        fnmr: of genuine pairs: false non-match rate.
    """

    groups: tuple[str, str]
    fmr: Rate
    fnmr: Rate

    @property
    def name(self) -> str:
        """As it stands in tables."""
        return self.groups[0] if self.groups[0] == self.groups[1] else " × ".join(self.groups)


class Difference(NamedTuple):
    """Of two groups whose rates differ by more than chance explains.

    Attributes:
        first: has the higher rate.
        second: the other one.
        points: first minus second, with the 95 % interval of this one difference.
        of_many: whether it also holds when all differences of this table are to hold at 95 % together (Bonferroni).
    """

    first: str
    second: str
    points: Figure
    of_many: bool


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far the groups of a table are apart in one rate.

    Attributes:
        worst: the group with the highest rate; None where fewer than two groups have pairs.
        ratio: highest rate over the geometric mean of all (P. Grother, NISTIR 8429, 2022); NaN where a group made no error or there
            are fewer than two. No interval where a group made fewer than ten errors.
        compared: differences looked at.
        differences: those that leave out zero.
    """

    worst: Cell | None
    ratio: Figure
    compared: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """The groups of an attribute at one threshold.

    Attributes:
        target: largest FMR of all impostor pairs together.
        threshold: accept at or above it.
        fmr: of all pairs of the protocol.
        fnmr: of all pairs of the protocol.
        rows: every group; and two groups between which there are genuine pairs.
        map: every two groups, whatever pairs there are; empty where the rule gives a pair one group.
        spreads: ``fmr`` and ``fnmr``, of the rows that have such pairs.
        warnings: what limits these figures.
    """

    target: float
    threshold: float
    fmr: float
    fnmr: float
    rows: tuple[Cell, ...]
    map: tuple[Cell, ...]
    spreads: dict[str, Spread]
    warnings: tuple[str, ...]


class ModelDifference(NamedTuple):
    """Of a row's rates between two models, each at its own threshold: the first model minus the second, NaN without pairs."""

    name: str
    fmr: Figure
    fnmr: Figure


@dataclass(frozen=True, kw_only=True)
class GroupedFigures:
    """All about one attribute.

    Attributes:
        name: of the attribute.
        rule: how a pair comes to its groups.
        labels: of the groups.
        ungrouped: genuine and impostor pairs in no group, since a value is unknown.
        tables: one for each of ``FARS``.
        beside: for each row of the table that is shown, the model judged first minus this one; empty for that one.
    """

    name: str
    rule: str
    labels: tuple[str, ...]
    ungrouped: tuple[int, int]
    tables: tuple[GroupTable, ...]
    beside: tuple[ModelDifference, ...] = ()


class Accuracies(NamedTuple):
    """Accuracy of each list of RFW as papers print it: its own ten folds, its own thresholds.

    Attributes:
        of: by the name of the list.
        mean: over the lists.
        std: over the lists, as of a sample (n - 1).
        error_ratio: highest error over the lowest; NaN where a list has none.
    """

    of: dict[str, Figure]
    mean: float
    std: float
    error_ratio: float


@dataclass(frozen=True, kw_only=True)
class GroupJudgement:
    """What `judge_groups` found on one protocol.

    Attributes:
        protocol: its name.
        attributes: in the order of the file.
        shown: position in ``FARS`` of the lowest one that lets ten impostor pairs of all through: what people are shown first.
        accuracies: of the lists of RFW; None for other protocols.
        notes: what a reader should know.
        contract: how the figures came about, in words.
    """

    protocol: str
    attributes: tuple[GroupedFigures, ...]
    shown: int
    accuracies: Accuracies | None
    notes: tuple[str, ...]
    contract: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """In types that ``json`` can write; NaN becomes null."""
        content: dict[str, Any] = without_nan(_plain(self))
        return content


def _plain(value: Any) -> Any:
    """Dataclasses and named tuples as dictionaries."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def spread_in_words(spread: Spread) -> str:
    """Who fares worst, how far groups are apart, and which differences chance does not explain."""
    if not spread.compared:
        return "there are no two groups to compare."
    parts = ["no group made an error"]
    if spread.worst:
        parts = [f"worst is {spread.worst.name}"]
        if np.isfinite(spread.ratio.value):
            within = (
                f" ({spread.ratio.low:.2f} to {spread.ratio.high:.2f})"
                if np.isfinite(spread.ratio.low)
                else ""
            )
            parts.append(f"highest rate over the geometric mean of all {spread.ratio.value:.2f}{within}")
        else:
            parts.append("highest rate over geometric mean not defined, since a group made no error")
    looked = "one difference" if spread.compared == 1 else f"{spread.compared} differences"
    if not spread.differences:
        return "; ".join([*parts, f"{looked} looked at, none that chance alone cannot explain"]) + "."
    clear = [
        f"{d.first} over {d.second} by {100 * d.points.value:.3g} points ({100 * d.points.low:.3g} to {100 * d.points.high:.3g})"
        + ("" if d.of_many else ", but not if all are to hold together")
        for d in spread.differences[:SHOWN]
    ]
    more = len(spread.differences) - SHOWN
    return (
        "; ".join([*parts, f"{looked} looked at", *clear] + ([f"and {more} more"] if more > 0 else [])) + "."
    )


def difference_in_words(attribute: GroupedFigures, rate: str) -> str:
    """In which groups the model judged first differs from this one by more than chance explains; empty for that one."""
    every = [(row.name, getattr(row, rate)) for row in attribute.beside]
    known = [(name, points) for name, points in every if np.isfinite(points.value)]
    if known and not any(np.isfinite(points.low) for _, points in known):
        return "; ".join(f"{name} {100 * points.value:+.3g}" for name, points in known) + "; no interval"
    clear = [
        f"{name} {100 * points.value:+.3g} ({100 * points.low:+.3g} to {100 * points.high:+.3g})"
        for name, points in every
        if points.low > 0 or points.high < 0
    ]
    if not every:
        return ""
    looked = f"{len(every)} looked at" if len(every) > 1 else "one looked at"
    return "; ".join([*(clear or ["nothing that chance alone cannot explain"]), looked])
