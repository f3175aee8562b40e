"""How often 95 % intervals hold the truth, when people differ and the truth is known.

python benchmarks/intervals.py [--trials N] [--only DESIGN ...]

Scores are normal: a genuine pair's mean depends on its person, an impostor pair's on both people and on the couple. Each trial draws
other people and pairs, and asks whether the interval holds what endless people would give. Designs differ in how people meet.
"""

import argparse
import math
import os
import time
from typing import NamedTuple

import numpy as np

from topoface.functional.bootstrap import drawn_figures, percentile_interval
from topoface.functional.tail_bootstrap import ScoredPairs, tail_bootstrap
from topoface.functional.verification import DetectionCost

COST = DetectionCost(prior=0.3)  # so that the lowest cost rests on more than a few impostor pairs


class Design(NamedTuple):
    """People, pairs and what makes scores differ (standard deviations; within a pair: 1)."""

    people: int
    genuine: int
    impostor: int
    mean: float  # of genuine scores; impostor scores have mean 0
    person: float  # of a person's genuine pairs
    wolf: float  # what a person brings to each impostor pair
    couple: float
    fars: tuple[float, ...]
    once: bool = False  # people meet once or twice, as in LFW
    per_couple: int = 1
    tail: bool = False  # by tail_bootstrap


DESIGNS = {
    "once, people alike": Design(2000, 1000, 1000, 3.5, 0, 0, 0, (0.1, 0.03), once=True),
    "once, people differ": Design(2000, 1000, 1000, 3.5, 0.7, 0.5, 0.5, (0.1, 0.03), once=True),
    "everyone meets everyone, alike": Design(60, 240, 1770, 3.5, 0, 0, 0, (0.1, 0.01)),
    "everyone meets everyone, differ": Design(60, 240, 1770, 3.5, 0.7, 0.4, 0.4, (0.1, 0.01)),
    "lists, alike": Design(300, 1000, 1000, 3.5, 0, 0, 0, (0.1, 0.03)),
    "lists, differ": Design(300, 1000, 1000, 3.5, 0.7, 0.5, 0.5, (0.1, 0.03)),
    "templates, alike": Design(400, 2500, 150_000, 4.5, 0, 0, 0, (1e-1, 1e-2, 1e-3, 1e-4), per_couple=2, tail=True),
    "templates, differ": Design(
        400, 2500, 150_000, 4.5, 1.0, 0.3, 0.7, (1e-1, 1e-2, 1e-3, 1e-4), per_couple=2, tail=True
    ),
}  # fmt: skip


class Pairs(NamedTuple):
    """As `drawn_figures` takes them."""

    scores: np.ndarray
    same: np.ndarray
    who: np.ndarray
    folds: np.ndarray


def draw(design: Design, rng: np.random.Generator) -> Pairs:
    """Other people, other pairs."""
    n, couples = design.people, design.impostor // design.per_couple
    ease, wolf = design.person * rng.standard_normal(n), design.wolf * rng.standard_normal(n)
    own = rng.permutation(np.arange(design.genuine) % n)
    if design.once:
        left, right = rng.permutation(n)[: 2 * couples].reshape(2, -1) if 2 * couples <= n else (None, None)
    elif couples == n * (n - 1) // 2:
        left, right = np.triu_indices(n, 1)
    else:
        left = rng.integers(0, n, couples)
        right = (left + 1 + rng.integers(0, n - 1, couples)) % n
    shared = wolf[left] + wolf[right] + design.couple * rng.standard_normal(couples)
    left, right, shared = (np.repeat(column, design.per_couple) for column in (left, right, shared))
    scores = np.concatenate(
        [
            design.mean + ease[own] + rng.standard_normal(design.genuine),
            shared + rng.standard_normal(len(left)),
        ]
    )
    who = np.concatenate([np.stack([own, own], 1), np.stack([left, right], 1)])
    folds = np.concatenate([np.arange(design.genuine) % 10, np.arange(len(left)) % 10])
    return Pairs(scores, np.arange(len(scores)) < design.genuine, who, folds)


def truth(design: Design) -> dict[str, float]:
    """Figures of endless people."""
    above = np.vectorize(lambda z: 0.5 * math.erfc(z / math.sqrt(2)))
    genuine = math.hypot(1, design.person)
    impostor = math.sqrt(1 + 2 * design.wolf**2 + design.couple**2)
    t = np.linspace(-6, 12, 180_001)
    tar, far = above((t - design.mean) / genuine), above(t / impostor)
    weight = design.genuine / (design.genuine + design.impostor)
    values = {
        "auc": float(above(-design.mean / math.hypot(genuine, impostor))),
        "eer": float(far[np.argmin(np.abs(far - (1 - tar)))]),
        "min_dcf": float(COST.of(far, tar).min()),
        "accuracy": float((weight * tar + (1 - weight) * (1 - far)).max()),
    }
    return values | {f"tar@{f:g}": float(np.interp(-f, -far, tar)) for f in design.fars}


def intervals(
    design: Design, pairs: Pairs, replicates: int, seed: int
) -> dict[str, dict[str, tuple[float, float]]]:
    """By way of drawing: people and couples as they should count, and people alone."""
    if design.tail:
        kinds = [ScoredPairs(pairs.scores[k], *pairs.who[k].T) for k in (pairs.same, ~pairs.same)]
        drawn = tail_bootstrap(*kinds, design.people, design.fars, COST, replicates=replicates, seed=seed)
        named = {f"tar@{far:g}": drawn.tar[:, k] for k, far in enumerate(design.fars)}
        return {
            "settled": {n: percentile_interval(v) for n, v in (named | {"min_dcf": drawn.min_dcf}).items()}
        }
    found = drawn_figures(*pairs, design.fars, COST, replicates, seed)
    return {
        way: {name: percentile_interval(values) for name, values in drawn.items()}
        for way, drawn in (("settled", found.settled()), ("people alone", found.people))
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    arguments = parser.parse_args()
    print(f"{arguments.trials} trials, {arguments.replicates} replicates; by chance alone 95 +- {100 * 1.96 * math.sqrt(0.95 * 0.05 / arguments.trials):.1f} %", flush=True)  # fmt: skip
    for name in arguments.only:
        design, start = DESIGNS[name], time.process_time()
        right = truth(design)
        held: dict[str, dict[str, list[int]]] = {}
        for trial in range(arguments.trials):
            pairs = draw(design, np.random.default_rng((7, trial)))
            for way, found in intervals(design, pairs, arguments.replicates, trial).items():
                for figure, (low, high) in found.items():
                    sides = held.setdefault(way, {}).setdefault(figure, [0, 0, 0])
                    sides[1 if right[figure] < low else 2 if right[figure] > high else 0] += 1
        print(f"\n### {name} ({time.process_time() - start:.0f} CPU s)\n")
        columns = list(next(iter(held.values())))
        print("| interval holds the truth, % | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
        for way, figures in held.items():
            cells = [f"{100 * a / sum((a, b, c)):.1f} ({100 * b / sum((a, b, c)):.1f} too high, {100 * c / sum((a, b, c)):.1f} too low)" for a, b, c in figures.values()]  # fmt: skip
            print(f"| {way} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
