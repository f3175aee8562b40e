"""How often 95 % intervals of groups' error rates hold the truth, and how often equal groups are called different.

python benchmarks/group_intervals.py [--trials N] [--seed N]

Everyone has four pairs with himself and meets twelve others. People differ in how easy they are and whom they resemble; from group to group
genuine pairs score lower and impostor pairs within the group higher, by ``step``.
"""

import argparse
import math
import os
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from measuring import Blank, table
from topoface.evaluation.embedding import PairScores
from topoface.evaluation.groups.attributes import Grouping, Groupings
from topoface.evaluation.groups.figures import GroupTable
from topoface.evaluation.groups.judging import judge_groups
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.evaluation.pairs.verification import FARS, judge

GROUPS, LABELS = 4, "abcd"
WOLF, EASE, MEAN = 0.4, 0.5, 3.0
IMPOSTOR, GENUINE = NormalDist(0, math.sqrt(1 + 2 * WOLF**2)), NormalDist(MEAN, math.hypot(1, EASE))


def tables(rng: np.random.Generator, people: int, step: float) -> tuple[GroupTable, ...]:
    """One for each of ``FARS``."""
    group = np.arange(people) % GROUPS
    own, left = np.repeat(np.arange(people), 4), np.repeat(np.arange(people), 12)
    right = (left + 1 + rng.integers(0, people - 1, len(left))) % people
    ease, wolf = EASE * rng.standard_normal(people), WOLF * rng.standard_normal(people)
    within = np.where(group[left] == group[right], group[left], 0)
    genuine = MEAN - step * group[own] + ease[own] + rng.standard_normal(len(own))
    impostor = step * within + wolf[left] + wolf[right] + rng.standard_normal(len(left))
    pairs = np.append(np.stack([own, own], 1), np.stack([left, right], 1), axis=0)
    scores, same = np.append(genuine, impostor), np.arange(len(pairs)) < len(own)
    protocol = PairProtocol(
        name="drawn", uri="drawn", images=Blank([None] * people), pairs=pairs, same=same, folds=np.arange(len(pairs)) % 10,
        identities=np.arange(people), interval_unit="identity", fingerprint="",
    )  # fmt: skip
    known = PairScores(scores=scores, failed=np.zeros(len(scores), bool), failures=())
    result = judge(known, protocol, flip=False, bootstrap=0)
    grouping = Grouping(name="group", rule="", labels=tuple(LABELS), sides=group[pairs], unknown=0)
    return judge_groups(result, Groupings((grouping,)), bootstrap=1).attributes[0].tables


def truths(people: int, step: float, far: float) -> tuple[list[float], list[float]]:
    """FMR and FNMR of each group of endless people at the threshold that all impostor pairs together have."""
    each = people / GROUPS
    share = each * (each - 1) / (people * (people - 1))  # of impostor pairs within one group

    def accepted(bar: float) -> float:
        within = sum(share * (1 - IMPOSTOR.cdf(bar - step * k)) for k in range(GROUPS))
        return within + (1 - GROUPS * share) * (1 - IMPOSTOR.cdf(bar))

    low, high = -5.0, 10.0
    for _ in range(60):
        bar = (low + high) / 2
        low, high = (bar, high) if accepted(bar) > far else (low, bar)
    return (
        [1 - IMPOSTOR.cdf(bar - step * k) for k in range(GROUPS)],
        [GENUINE.cdf(bar + step * k) for k in range(GROUPS)],
    )


def ratio(rates: list[float]) -> float:
    return max(rates) / math.exp(sum(map(math.log, rates)) / len(rates))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()

    def rows() -> Iterator[list[str]]:
        for people in (60, 240):
            for step in (0.2, 0.0):
                every = [
                    tables(np.random.default_rng((arguments.seed, trial)), people, step)[:2]
                    for trial in range(arguments.trials)
                ]
                for k, far in enumerate(FARS[:2]):
                    right = truths(people, step, far)
                    cells = [f"{people} people, {'equal' if step == 0 else 'unequal'} groups, FMR {far:g}"]
                    for kind, truth in zip(("fmr", "fnmr"), right, strict=True):
                        cells += columns([one[k] for one in every], kind, truth, equal=step == 0)
                    yield cells

    kinds = ("FMR", "FNMR")
    heads = ("of a: held", "of d: held", "highest over mean: held", "any difference", "of many")
    table(["in % of trials", *(f"{kind} {head}" for kind in kinds for head in heads)], rows())


def columns(told: list[GroupTable], kind: str, truth: list[float], *, equal: bool) -> list[str]:
    shares = []
    for group in (0, GROUPS - 1):
        rates = [getattr(one.rows[group], kind).rate for one in told]
        shares.append(np.mean([rate.low <= truth[group] <= rate.high for rate in rates]))
    known = [one.spreads[kind].ratio for one in told if np.isfinite(one.spreads[kind].ratio.low)]
    shares.append(np.mean([r.low <= ratio(truth) <= r.high for r in known]) if known else np.nan)
    if equal:
        differences = [one.spreads[kind].differences for one in told]
        shares += [
            np.mean([bool(d) for d in differences]),
            np.mean([any(x.of_many for x in d) for d in differences]),
        ]
    return [
        f"{100 * share:.1f}" if np.isfinite(share) else ""
        for share in [*shares, *[np.nan] * (5 - len(shares))]
    ]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
