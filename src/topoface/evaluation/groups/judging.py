"""Error rates by group at one threshold for all: FMR and FNMR with intervals, how far groups differ, and who fares worst."""

from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.figures import Figure
from topoface.evaluation.groups.attributes import AttributeTable, Grouping, Groupings, group_pairs
from topoface.evaluation.groups.figures import (
    ENOUGH,
    Accuracies,
    Cell,
    Difference,
    GroupedFigures,
    GroupJudgement,
    GroupTable,
    Rate,
    Spread,
)
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.evaluation.pairs.rfw import RfwProtocol
from topoface.evaluation.pairs.verification import FARS, Verification
from topoface.functional import bootstrap as resample
from topoface.functional import verification as exact
from topoface.functional.group_rates import Rates, group_rates


def groupings_of(protocol: PairProtocol, table: AttributeTable | None) -> Groupings:
    """The groupings that come with a protocol and those of a table, if there is one.

    Raises:
        UserError: as ``attributes.group_pairs``.
    """
    own = (protocol.race,) if isinstance(protocol, RfwProtocol) else ()
    listed = group_pairs(table, protocol) if table else Groupings(())
    return Groupings((*own, *listed.groupings), listed.notes)


def judge_groups(
    result: Verification, groupings: Groupings, *, bootstrap: int = 1000, seed: int = 0
) -> GroupJudgement:
    """Error rates of the groups of a judged protocol, at the thresholds that all its impostor pairs together give.

    Args:
        result: from ``verify``.
        groupings: from ``attributes.group_pairs``, of the same protocol.
        bootstrap: replicates for the accuracies of RFW; 0 for no intervals at all.
        seed: of these.
    """
    protocol = result.protocol
    who = protocol.identities[protocol.pairs]
    codes = [cell_codes(grouping) for grouping in groupings.groupings]
    rates = group_rates(result.scores, protocol.same, who, codes, FARS)
    impostors = int((~protocol.same).sum())
    lowest = [k for k, far in enumerate(FARS) if exact.allowed_false_accepts(impostors, far) >= ENOUGH]
    unit = "people" if protocol.interval_unit == "identity" else "groups of linked images"
    return GroupJudgement(
        protocol=protocol.name,
        attributes=tuple(
            _attribute(result, *parts, bootstrap > 0)
            for parts in zip(groupings.groupings, codes, rates, strict=True)
        ),
        shown=lowest[-1] if lowest else 0,
        accuracies=_accuracies(result, protocol.race, bootstrap, seed)
        if isinstance(protocol, RfwProtocol)
        else None,
        notes=groupings.notes,
        contract={
            "threshold": "one for all groups: the lowest whose FMR over all impostor pairs of the protocol does not exceed the target (exact)",
            "intervals": f"95 %, from what each of the {unit} does to a rate and to the threshold"
            if bootstrap
            else "not computed",
            "max over geometric mean": "highest rate of the groups over the geometric mean of all (NISTIR 8429); not defined where a group made no "
            "error, without interval where one made fewer than ten; the interval is that of a band that holds all groups at once",
            "differences": "wider of Student's interval and Newcombe's of the two rates; each holds for its own difference, so where many are "
            "looked at, one in twenty leaves out zero by chance: those that stay when all are to hold together (Bonferroni) are told apart",
        },
    )


def _accuracies(result: Verification, grouping: Grouping, bootstrap: int, seed: int) -> Accuracies:
    protocol, found = result.protocol, {}
    for number, label in enumerate(grouping.labels):
        own = np.flatnonzero((grouping.sides == number).all(axis=1))
        scores, same, folds = result.scores[own], protocol.same[own], protocol.folds[own]
        drawn = None
        if bootstrap:
            who = protocol.identities[protocol.pairs[own]]
            drawn = resample.identity_bootstrap(scores, same, who, folds, replicates=bootstrap, seed=seed)[
                "accuracy"
            ]
        found[label] = Figure(float(exact.kfold(scores, same, folds).accuracy.mean())).within(drawn)
    values = np.array([figure.value for figure in found.values()])
    errors = 1 - values
    ratio = float(errors.max() / errors.min()) if errors.min() > 0 else float("nan")
    return Accuracies(found, float(values.mean()), float(values.std(ddof=1)), ratio)


def cell_codes(grouping: Grouping) -> NDArray[np.int64]:
    """The cell of each pair: ``low * groups + high``, or -1 where a group is unknown."""
    low, high = np.sort(grouping.sides, axis=1).T
    return np.where(low < 0, -1, low * len(grouping.labels) + high)


class _Kind(NamedTuple):
    """One of the two rates at one target: its cells, and what intervals of figures made of them need."""

    cells: dict[int, Rate]
    rates: Rates
    far: int
    intervals: bool


def _attribute(
    result: Verification,
    grouping: Grouping,
    codes: NDArray[np.int64],
    rates: tuple[Rates, Rates],
    intervals: bool,
) -> GroupedFigures:
    same = result.protocol.same
    return GroupedFigures(
        name=grouping.name,
        rule=grouping.rule,
        labels=grouping.labels,
        ungrouped=(int((same & (codes < 0)).sum()), int((~same & (codes < 0)).sum())),
        tables=tuple(
            _table(result, grouping, codes, [_Kind({}, r, k, intervals) for r in rates])
            for k in range(len(FARS))
        ),
    )


def _table(
    result: Verification, grouping: Grouping, codes: NDArray[np.int64], kinds: list[_Kind]
) -> GroupTable:
    same, point = result.protocol.same, result.tar[kinds[0].far]
    wrong = np.where(same, result.scores < point.threshold, result.scores >= point.threshold)
    size = len(grouping.labels)
    for kind, of in zip(kinds, (~same, same), strict=True):
        pairs, errors = (
            np.bincount(codes[kept & (codes >= 0)], minlength=size**2) for kept in (of, of & wrong)
        )
        for code in (low * size + high for low in range(size) for high in range(low, size)):
            kind.cells[code] = _rate(kind, code, int(errors[code]), int(pairs[code]))
    fmr, fnmr = kinds
    cells = {
        code: Cell(groups=(grouping.labels[code // size], grouping.labels[code % size]), fmr=fmr.cells[code], fnmr=fnmr.cells[code])
        for code in fmr.cells
    }  # fmt: skip
    rows = {c: cell for c, cell in cells.items() if c // size == c % size or cell.fnmr.pairs}
    rows = dict(sorted(rows.items(), key=lambda item: item[0] // size != item[0] % size))
    crossed = size > 1 and bool((grouping.sides[:, 0] != grouping.sides[:, 1]).any())
    wrongly_rejected = float(wrong[same].mean())
    return GroupTable(
        target=point.target,
        threshold=point.threshold,
        fmr=point.far,
        fnmr=wrongly_rejected,
        rows=tuple(rows.values()),
        map=tuple(cells.values()) if crossed else (),
        spreads={"fmr": _spread(fmr, rows), "fnmr": _spread(fnmr, rows)},
        warnings=_warnings(list(rows.values()), point.target, wrongly_rejected),
    )


def _rate(kind: _Kind, code: int, errors: int, pairs: int) -> Rate:
    value = Figure(errors / pairs) if pairs else Figure(float("nan"))
    if pairs and kind.intervals:
        low, high = kind.rates.error(kind.far, {code: 1.0}).around(value.value)
        value = value.between(low, min(1.0, high), pairs)
    return Rate(rate=value, errors=errors, pairs=pairs)


def _spread(kind: _Kind, rows: dict[int, Cell]) -> Spread:
    codes = [code for code in rows if kind.cells[code].pairs]
    pairs = list(combinations(codes, 2))
    if not pairs:
        return Spread(worst=None, ratio=Figure(float("nan")), compared=0, differences=())
    cells = kind.cells
    worst = max(codes, key=lambda code: cells[code].rate.value)
    found = [_difference(kind, rows, pair, len(pairs)) for pair in pairs] if kind.intervals else []
    clear = sorted((d for d in found if d.points.low > 0), key=lambda d: -d.points.value)
    return Spread(
        worst=rows[worst] if cells[worst].errors else None,
        ratio=_ratio(kind, codes),
        compared=len(pairs),
        differences=tuple(clear),
    )


def _ratio(kind: _Kind, codes: list[int]) -> Figure:
    """Highest over geometric mean. Its interval is what a band that holds every group's own ratio at once leaves possible: the
    highest of several is too high by chance, so that its own interval would shut out equal groups.
    """
    errors = [kind.cells[code].errors for code in codes]
    if not all(errors):
        return Figure(float("nan"))
    rates = {code: kind.cells[code].rate.value for code in codes}
    logs = np.log(list(rates.values()))
    plain = logs - logs.mean()
    value = float(np.exp(plain.max()))
    if not kind.intervals or min(errors) < ENOUGH:
        return Figure(value)
    mean = {code: -1 / (len(codes) * rate) for code, rate in rates.items()}
    own = [kind.rates.error(kind.far, mean | {c: mean[c] + 1 / rate}) for c, rate in rates.items()]
    reach = np.array([error.reach_of_one_of(len(codes)) for error in own])
    return Figure(value, max(1.0, float(np.exp((plain - reach).max()))), float(np.exp((plain + reach).max())))


def _difference(kind: _Kind, rows: dict[int, Cell], pair: tuple[int, int], compared: int) -> Difference:
    first, second = sorted(pair, key=lambda code: -kind.cells[code].rate.value)
    one, two = kind.cells[first], kind.cells[second]
    plain = one.rate.value - two.rate.value
    reach = kind.rates.error(kind.far, {first: 1.0, second: -1.0}).reach
    # Few errors know nothing of those that nobody made; the two intervals do (R. Newcombe, 1998, method 10).
    low = plain - np.hypot(one.rate.value - one.rate.low, two.rate.high - two.rate.value)
    high = plain + np.hypot(one.rate.high - one.rate.value, two.rate.value - two.rate.low)
    points = Figure(plain, min(plain - reach, float(low)), max(plain + reach, float(high)))
    wider = NormalDist().inv_cdf(1 - 0.025 / compared) / NormalDist().inv_cdf(0.975)
    return Difference(rows[first].name, rows[second].name, points, plain - wider * (plain - points.low) > 0)


def _warnings(rows: Sequence[Cell], target: float, fnmr: float) -> tuple[str, ...]:
    found = []
    none = [cell.name for cell in rows if not cell.fmr.pairs]
    if none:
        found.append(f"No impostor pair: {_listed(none)}; no FMR is known there.")
    few = [cell.name for cell in rows if cell.fmr.pairs and target * cell.fmr.pairs < ENOUGH * (1 - 1e-9)]
    if few:
        found.append(
            f"FMR {target:g} is resolved by {round(ENOUGH / target):,} impostor pairs of a group; fewer have: {_listed(few)}."
        )
    none = [cell.name for cell in rows if not cell.fnmr.pairs]
    if none:
        found.append(f"No genuine pair: {_listed(none)}; no FNMR is known there.")
    few = [cell.name for cell in rows if cell.fnmr.pairs and fnmr * cell.fnmr.pairs < ENOUGH * (1 - 1e-9)]
    if few:
        found.append(f"At the FNMR of all pairs fewer than {ENOUGH} errors would be seen in: {_listed(few)}.")
    return tuple(found)


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
