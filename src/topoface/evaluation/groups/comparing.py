"""Two models on the same groups: how their error rates differ, on the same people."""

from dataclasses import replace

import numpy as np

from topoface.evaluation.figures import Figure
from topoface.evaluation.groups.attributes import Groupings
from topoface.evaluation.groups.figures import ENOUGH, GroupJudgement, ModelDifference, Rate
from topoface.evaluation.groups.judging import cell_codes
from topoface.evaluation.pairs.verification import FARS, Verification
from topoface.functional.group_rates import group_rates


def beside(
    first: tuple[Verification, GroupJudgement],
    second: tuple[Verification, GroupJudgement],
    groupings: Groupings,
    *,
    intervals: bool,
) -> GroupJudgement:
    """The second judgement, in which every attribute has the first model minus this one.

    Each model stands at its own threshold of the same FMR of all pairs, the one that is shown.

    Args:
        first: a model's figures and what `judge_groups` made of them.
        second: another model's, of the same protocol.
        groupings: of both.
        intervals: whether differences have any.
    """
    (one, of_one), (two, of_two) = first, second
    protocol, shown = one.protocol, of_one.shown
    who = protocol.identities[protocol.pairs]
    codes = [cell_codes(grouping) for grouping in groupings.groupings]
    found = [group_rates(v.scores, protocol.same, who, codes, FARS) for v in (one, two)]
    attributes = []
    for k, grouping in enumerate(groupings.groupings):
        a, b = of_one.attributes[k], of_two.attributes[k]
        rows = []
        for first_cell, second_cell in zip(a.tables[shown].rows, b.tables[shown].rows, strict=True):
            low, high = sorted(map(grouping.labels.index, first_cell.groups))
            code = low * len(grouping.labels) + high

            def minus(kind: int, of_first: Rate, of_second: Rate, k: int = k, code: int = code) -> Figure:
                if not of_first.pairs or not intervals:
                    return Figure(of_first.rate.value - of_second.rate.value)
                both = [model[k][kind] for model in found]
                off, other = (rates.influence(shown, {code: 1.0}) for rates in both)
                return _difference(of_first, of_second, both[0].meetings.error(off - other).reach)

            fmr = minus(0, first_cell.fmr, second_cell.fmr)
            fnmr = minus(1, first_cell.fnmr, second_cell.fnmr)
            rows.append(ModelDifference(first_cell.name, fmr, fnmr))
        attributes.append(replace(b, beside=tuple(rows)))
    return replace(of_two, attributes=tuple(attributes))


def _difference(one: Rate, two: Rate, reach: float) -> Figure:
    plain = one.rate.value - two.rate.value
    if min(one.errors, two.errors) >= ENOUGH:
        return Figure(plain, plain - reach, plain + reach)
    # Few errors know nothing of those that nobody made; the two intervals do (R. Newcombe, 1998, method 10, as if unpaired).
    low = plain - np.hypot(one.rate.value - one.rate.low, two.rate.high - two.rate.value)
    high = plain + np.hypot(one.rate.high - one.rate.value, two.rate.value - two.rate.low)
    return Figure(plain, min(plain - reach, float(low)), max(plain + reach, float(high)))
