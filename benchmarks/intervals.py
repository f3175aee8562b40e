"""How often 95 % intervals hold the truth, when people differ and the truth is known.

python benchmarks/intervals.py [--trials N] [--replicates N] [--seed N] [--only DESIGN ...]

Scores are normal: a genuine pair's mean depends on its person, an impostor pair's on both people and on the couple. Each trial draws
other people and pairs, and asks whether the interval holds what endless people would give. Designs differ in how people meet. The second model
of a difference sees the same people and pairs and separates them less. All pairs of a set are judged from drawn features, of which the
second model has the first 21 of 24; searches are drawn as what they find.
"""

import argparse
import math
import os
import time
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from topoface.evaluation.all_pairs.judging import LabelledSet, judge_all_pairs, unit_rows
from topoface.evaluation.calibration.counted import People, choose_bars, impostor_pairs
from topoface.evaluation.calibration.known_pairs import KnownPairs
from topoface.evaluation.features import Features
from topoface.evaluation.figures import Figure
from topoface.functional.bootstrap import difference_intervals, drawn_figures, percentile_interval
from topoface.functional.error_rates import bar_interval
from topoface.functional.identification import Searches, point_at_fpir, shares_within
from topoface.functional.search_bootstrap import search_bootstrap
from topoface.functional.tail_bootstrap import ScoredPairs, tail_bootstrap
from topoface.functional.verification import DetectionCost, tar_at_far

COST = DetectionCost(prior=0.3)  # so that the lowest cost rests on more than a few impostor pairs
WORSE = 0.4  # the second model's genuine scores are so much lower
SET = "all pairs of 200 people, five images each"
SET_FARS = (1e-1, 1e-2, 1e-3, 1e-4)
SET_FEATURES = 24, 21
SEARCHES = "searches of 60 people and 60 strangers, four each"
FPIRS = (1e-1, 3e-2)
Intervals = dict[str, dict[str, tuple[float, float]]]  # by way of drawing and name


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
EVERY = [*DESIGNS, SET, SEARCHES]


class Pairs(NamedTuple):
    """As `drawn_figures` takes them."""

    scores: np.ndarray
    others: np.ndarray  # of the second model
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
    same = np.arange(design.genuine + len(left)) < design.genuine
    expected = np.concatenate([design.mean + ease[own], shared])
    common, first, second = rng.standard_normal((3, len(same)))
    scores, others = (
        expected + 0.6 * common + 0.8 * first,
        expected + 0.6 * common + 0.8 * second - WORSE * same,
    )
    who = np.concatenate([np.stack([own, own], 1), np.stack([left, right], 1)])
    folds = np.concatenate([np.arange(design.genuine) % 10, np.arange(len(left)) % 10])
    return Pairs(scores, others, same, who, folds)


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
    values |= {f"tar@{f:g}": float(np.interp(-f, -far, tar)) for f in design.fars}
    return values | {f"threshold@{f:g}": float(np.interp(-f, -far, t)) for f in design.fars}


def truths(name: str) -> dict[str, dict[str, float]]:
    """By way of drawing and name, as `intervals`."""
    if name == SET:
        ways = [truth_of_set(np.random.default_rng(1), features) for features in SET_FEATURES]
    elif name == SEARCHES:
        ways = [truth_of_searches(mean) for mean in (3.0, 3.0 - WORSE)]
    else:
        design = DESIGNS[name]
        ways = [truth(each) for each in (design, design._replace(mean=design.mean - WORSE))]
    first, second = ways
    return {"settled": first, "people alone": first, "difference": {n: first[n] - second[n] for n in first}}


def intervals(name: str, rng: np.random.Generator, replicates: int, seed: int) -> Intervals:
    """By way of drawing (people and couples as they should count, people alone, difference of two models) and name."""
    if name == SET:
        return intervals_of_set(rng, replicates, seed)
    if name == SEARCHES:
        return intervals_of_searches(rng, replicates, seed)
    design = DESIGNS[name]
    pairs = draw(design, rng)
    if design.tail:
        return intervals_of_templates(design, pairs, replicates, seed)
    one, other = (
        drawn_figures(scores, *pairs[2:], design.fars, COST, replicates, seed)
        for scores in (pairs.scores, pairs.others)
    )
    rare, impostor = design.fars[-1], ~pairs.same
    found = {
        way: {figure: percentile_interval(values) for figure, values in drawn.items()}
        for way, drawn in (("settled", one.settled()), ("people alone", one.people))
    }
    found["settled"][f"threshold@{rare:g}"] = bar_interval(pairs.scores[impostor], pairs.who[impostor], rare)
    return found | {"difference": difference_intervals([one], [other])}


def intervals_of_templates(design: Design, pairs: Pairs, replicates: int, seed: int) -> Intervals:
    drawn = []
    for scores in (pairs.scores, pairs.others):
        kinds = [ScoredPairs(scores[k], *pairs.who[k].T) for k in (pairs.same, ~pairs.same)]
        found = tail_bootstrap(*kinds, design.people, design.fars, COST, replicates=replicates, seed=seed)
        every = {f"tar@{far:g}": values for far, values in zip(design.fars, found.tar.T, strict=True)}
        drawn.append(every | {"min_dcf": found.min_dcf})
    held = {}
    for far in design.fars:
        value = tar_at_far(pairs.scores, pairs.same, far)
        figure = Figure(value).within(drawn[0][f"tar@{far:g}"], design.genuine)
        held[f"tar@{far:g}"] = figure.low, figure.high
    held["min_dcf"] = percentile_interval(drawn[0]["min_dcf"])
    minus = {name: percentile_interval(drawn[0][name] - drawn[1][name]) for name in held}
    return {"settled": held, "difference": minus}


def intervals_of_searches(rng: np.random.Generator, replicates: int, seed: int) -> Intervals:
    who = np.repeat(np.arange(120), 4)
    mated, own = who < 60, (0.7 * rng.standard_normal(120))[who]
    common, *noise = rng.standard_normal((3, len(who)))
    drawn, held = [], {}
    for mean, each in zip((3.0, 3.0 - WORSE), noise, strict=True):
        score = own + 0.6 * common + 0.8 * each
        mate, stranger = np.where(mated, score + mean, -np.inf), np.where(mated, -np.inf, score)
        asked = Searches(mated, mate, stranger, np.where(mate > 1, 1, 2))
        found = search_bootstrap(asked, who, 120, (1,), FPIRS, replicates=replicates, seed=seed)
        drawn.append(
            {"rank-1": found[0][:, 0]} | {f"tpir@{f:g}": found[1][:, k] for k, f in enumerate(FPIRS)}
        )
        if not held:
            values = [shares_within(asked, (1,))[0], *(point_at_fpir(asked, f).tpir for f in FPIRS)]
            for value, (name, replicas) in zip(values, drawn[0].items(), strict=True):
                figure = Figure(value).within(replicas, int(mated.sum()))
                held[name] = figure.low, figure.high
    minus = {name: percentile_interval(drawn[0][name] - drawn[1][name]) for name in held}
    return {"settled": held, "difference": minus}


def truth_of_searches(mean: float) -> dict[str, float]:
    scores, spread = NormalDist(mean, math.hypot(1, 0.7)), NormalDist(0, math.hypot(1, 0.7))
    shares = {f"tpir@{f:g}": 1 - scores.cdf(spread.inv_cdf(1 - f)) for f in FPIRS}
    return {"rank-1": 1 - scores.cdf(1), **shares}


def drawn_faces(rng: np.random.Generator, people: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Features ``[people, images, 24]`` and labels: people differ in how much their images vary, and in how common a face they have."""
    centres = rng.standard_normal((people, 1, 24)) + 0.7 * rng.standard_normal((people, 1, 1))
    spread = np.exp(0.2 * rng.standard_normal((people, 1, 1)))
    return centres + spread * rng.standard_normal((people, images, 24)), np.repeat(np.arange(people), images)


def intervals_of_set(rng: np.random.Generator, replicates: int, seed: int) -> Intervals:
    rows, labels = drawn_faces(rng, 200, 5)
    rows = rows.reshape(len(labels), -1).astype(np.float32)
    faces = LabelledSet(name="", uri="", images=[None] * len(labels), labels=labels, fingerprint="")
    one, other = (
        judge_all_pairs(
            Features(rows=rows[:, :kept].copy(), origin=""), faces, bootstrap=replicates, seed=seed
        )
        for kept in SET_FEATURES
    )
    judged, minus = one.named(), one.minus(other)
    names = [f"tar@{far:g}" for far in SET_FARS]
    units, _ = unit_rows(rows)
    unasked = KnownPairs(np.arange(40.0), np.ones(40, bool), np.zeros((40, 2), int), np.zeros(40, int))
    set_ = People(
        units, labels.astype(np.int32), impostor_pairs(labels), unasked, SET_FARS, [0.5] * len(SET_FARS)
    )
    bars, _ = choose_bars(set_, "drawn", lambda *_: None)
    thresholds = {
        f"threshold@{far:g}": (bar.accept.low, bar.accept.high)
        for far, bar in zip(SET_FARS, bars, strict=True)
    }
    return {
        "settled": {name: (judged[name].low, judged[name].high) for name in names} | thresholds,
        "difference": {name: (minus[name].low, minus[name].high) for name in names},
    }


def truth_of_set(rng: np.random.Generator, kept: int) -> dict[str, float]:
    """From eight million pairs of either kind, no two of the same people."""
    scores = []
    for _ in range(40):
        faces = drawn_faces(rng, 200_000, 2)[0][..., :kept]
        faces /= np.linalg.norm(faces, axis=-1, keepdims=True)
        genuine, impostor = (
            (faces[:, 0] * faces[:, 1]).sum(1),
            (faces[:, 0] * np.roll(faces[:, 1], 1, 0)).sum(1),
        )
        scores.append((genuine, impostor))
    genuine, impostor = (np.concatenate(kind) for kind in zip(*scores, strict=True))
    bars = dict(zip(SET_FARS, np.quantile(impostor, 1 - np.array(SET_FARS)), strict=True))
    return {f"tar@{far:g}": float((genuine > bar).mean()) for far, bar in bars.items()} | {
        f"threshold@{far:g}": float(bar) for far, bar in bars.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=EVERY, default=EVERY)
    arguments = parser.parse_args()
    print(f"{arguments.trials} trials, {arguments.replicates} replicates; by chance alone 95 +- {100 * 1.96 * math.sqrt(0.95 * 0.05 / arguments.trials):.1f} %", flush=True)  # fmt: skip
    for name in arguments.only:
        right, start = truths(name), time.process_time()
        held: dict[str, dict[str, list[int]]] = {}
        for trial in range(arguments.trials):
            rng = np.random.default_rng((arguments.seed, trial))
            for way, found in intervals(name, rng, arguments.replicates, trial).items():
                for figure, (low, high) in found.items():
                    sides = held.setdefault(way, {}).setdefault(figure, [0, 0, 0])
                    sides[1 if right[way][figure] < low else 2 if right[way][figure] > high else 0] += 1
        print(f"\n### {name} ({time.process_time() - start:.0f} CPU s)\n")
        columns = list(next(iter(held.values())))
        print("| interval holds the truth, % | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
        for way, figures in held.items():
            cells = [cell(*figures[column]) if column in figures else "" for column in columns]
            print(f"| {way} | " + " | ".join(cells) + " |", flush=True)


def cell(held: int, above: int, below: int) -> str:
    trials = held + above + below
    return (
        f"{100 * held / trials:.1f} ({100 * above / trials:.1f} too high, {100 * below / trials:.1f} too low)"
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
