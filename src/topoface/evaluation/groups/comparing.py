"""Two models on the same groups: how their error rates differ, in the same replicates."""

from dataclasses import replace

import numpy as np

from topoface.evaluation.figures import Figure
from topoface.evaluation.groups.attributes import Groupings
from topoface.evaluation.groups.figures import ENOUGH, GroupJudgement, ModelDifference, Rate
from topoface.evaluation.groups.judging import cell_codes
from topoface.evaluation.pairs.verification import FARS, Verification
from topoface.functional.group_rates import Rates, group_rates


def beside(
    first: tuple[Verification, GroupJudgement],
    second: tuple[Verification, GroupJudgement],
    groupings: Groupings,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> GroupJudgement:
    """The second judgement, in which every attribute has the first model minus this one.

    Each model stands at its own threshold of the same FMR of all pairs, the one that is shown.

    Args:
        first: a model's figures and what `judge_groups` made of them.
        second: another model's, of the same protocol.
        groupings: of both.
        bootstrap: replicates; 0 for no intervals.
        seed: as that of `judge_groups`.
    """
    (one, of_one), (two, of_two) = first, second
    protocol, shown = one.protocol, of_one.shown
    who = protocol.identities[protocol.pairs]
    codes = [cell_codes(grouping) for grouping in groupings.groupings]
    drawn = [
        group_rates(v.scores, protocol.same, who, codes, FARS, replicates=bootstrap, seed=seed)
        for v in (one, two)
    ]
    attributes = []
    for k, grouping in enumerate(groupings.groupings):
        a, b = of_one.attributes[k], of_two.attributes[k]
        rates = [_minus(*of_models) for of_models in zip(drawn[0][k], drawn[1][k], strict=True)]
        rows = []
        for cells in zip(a.tables[shown].rows, b.tables[shown].rows, strict=True):
            low, high = sorted(map(grouping.labels.index, cells[0].groups))
            code = low * len(grouping.labels) + high
            own = codes[k] == code
            fmr, fnmr = (
                _difference(of, code, shown, len(np.unique(who[own & kind])), *ends)
                for of, kind, ends in (
                    (rates[0], ~protocol.same, [cell.fmr for cell in cells]),
                    (rates[1], protocol.same, [cell.fnmr for cell in cells]),
                )
            )
            rows.append(ModelDifference(cells[0].name, fmr, fnmr))
        attributes.append(replace(b, beside=tuple(rows)))
    return replace(of_two, attributes=tuple(attributes))


def _minus(one: Rates, two: Rates) -> Rates:
    return Rates(one.plain - two.plain, one.people - two.people, one.couples - two.couples)


def _difference(of: Rates, code: int, far: int, people: int, one: Rate, two: Rate) -> Figure:
    if not one.pairs:
        return Figure(float("nan"))
    plain = one.rate.value - two.rate.value
    if not len(of.people):
        return Figure(plain)
    _, drawn = of.settled(lambda rates: rates[:, code], far, people)
    points = Figure(plain).within(drawn)
    if min(one.errors, two.errors) >= ENOUGH:
        return points
    # Replicates know nothing of errors that nobody made; the two intervals do (R. Newcombe, 1998, method 10, as if unpaired).
    low = plain - np.hypot(one.rate.value - one.rate.low, two.rate.high - two.rate.value)
    high = plain + np.hypot(one.rate.high - one.rate.value, two.rate.value - two.rate.low)
    return Figure(plain, min(points.low, float(low)), max(points.high, float(high)))
