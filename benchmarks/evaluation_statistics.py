"""Time of intervals and of accuracy over folds beside the obvious ways, in one run; one thread, CPU time, interleaved.

python benchmarks/evaluation_statistics.py [--quick] [--rounds N] [--only bootstrap|folds]

Intervals: 1,000 replicates of a generated list of pairs of the size of IJB-C's, beside weighing all sorted pairs in NumPy in each
replicate (of which a few are timed, and scaled). Folds: ten of 600 pairs, beside the 400 thresholds that the field's scripts try.
"""

import argparse
import os
import statistics
import sys

import numpy as np

from evaluation import IJBC, ONE_THREAD, seconds
from measuring import machine, median_ms, median_ratio, memory_free, peak_growth, ratios, table
from topoface.functional.bootstrap import identity_counts
from topoface.functional.tail_bootstrap import ScoredPairs, tail_bootstrap
from topoface.functional.verification import DetectionCost, allowed_false_accepts, kfold, kfold_accuracy

FARS = tuple(10.0**-k for k in range(1, 7))
REPLICATES = 1000


def drawn_pairs(share: float) -> tuple[ScoredPairs, ScoredPairs, int]:
    rng = np.random.default_rng(0)
    people, genuine = round(share**0.5 * IJBC["people"]), round(share * IJBC["genuine"])
    impostors = round(share * (IJBC["pairs"] - IJBC["genuine"]))
    wolf = 0.3 * rng.standard_normal(people, dtype=np.float32)
    left, right = rng.integers(0, people, (2, impostors), dtype=np.int32)
    right[left == right] = (right[left == right] + 1) % people
    scores = 0.07 * (rng.standard_normal(impostors, dtype=np.float32) + wolf[left] + wolf[right])
    own = rng.integers(0, people, genuine, dtype=np.int32)
    good = 0.45 + 0.1 * (rng.standard_normal(genuine, dtype=np.float32) + 2 * wolf[own])
    return ScoredPairs(good, own, own), ScoredPairs(scores, left, right), people


def weigh_all(genuine: ScoredPairs, impostor: ScoredPairs, counts: np.ndarray) -> np.ndarray:
    """TAR at each FAR of one replicate, from the weights of all pairs; both kinds sorted, best first."""
    weights = counts[impostor.left] * counts[impostor.right]
    accepted = np.cumsum(weights)
    own = np.cumsum(counts[genuine.left])
    places = [
        np.searchsorted(accepted, allowed_false_accepts(int(accepted[-1]), far), side="right") for far in FARS
    ]
    above = np.searchsorted(-genuine.scores, -impostor.scores[places], side="left")
    return np.append(0, own)[above] / own[-1]


def bootstrap(quick: bool, rounds: int) -> None:
    genuine, impostor, people = drawn_pairs(0.01 if quick else 1.0)
    print(
        f"\n### {REPLICATES:,} replicates over {people:,} people of {len(impostor.scores) + len(genuine.scores):,} pairs\n"
    )
    sorted_pairs = [
        ScoredPairs(*(column[np.argsort(-kind.scores, kind="stable")] for column in kind))
        for kind in (genuine, impostor)
    ]
    few, some = 4, identity_counts(people, range(4), 0)

    def ours() -> object:
        return tail_bootstrap(genuine, impostor, people, FARS, DetectionCost(), replicates=REPLICATES)

    small = drawn_pairs(0.001)
    tail_bootstrap(*small, FARS, DetectionCost(), replicates=8)  # compiles
    slow, fast = [], []
    for _ in range(rounds):
        slow.append(
            seconds(lambda: [weigh_all(*sorted_pairs, counts) for counts in some])[0] * REPLICATES / few
        )
        fast.append(seconds(ours)[0])
    table(
        ["way", "CPU s", "ratio", "extra MiB"],
        [
            [
                f"all pairs weighed in NumPy ({few} replicates, scaled)",
                f"{statistics.median(slow):.0f}",
                "1",
                "",
            ],
            [
                "topoface, with preparation",
                f"{statistics.median(fast):.1f}",
                median_ratio(ratios(slow, fast)),
                f"{peak_growth(ours):.0f}",
            ],
        ],
    )


def grid_folds(scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> float:
    """Ten-fold accuracy as released: 400 thresholds tried on nine folds, the best on the tenth."""
    found = []
    for fold in range(10):
        train, test = folds != fold, folds == fold
        right = [((scores[train] > bar) == same[train]).mean() for bar in np.arange(-1, 1, 0.005)]
        best = np.arange(-1, 1, 0.005)[int(np.argmax(right))]
        for bar in np.arange(-1, 1, 0.005):  # the scripts compute these too, for the ROC
            predicted = scores[test] > bar
            _ = (predicted & same[test]).sum(), (predicted & ~same[test]).sum()
        found.append(((scores[test] > best) == same[test]).mean())
    return float(np.mean(found))


def folds(quick: bool, rounds: int) -> None:
    rng = np.random.default_rng(1)
    same = np.tile(np.repeat([True, False], 300), 10)
    scores = 0.12 * rng.normal(size=6000) + 0.5 * same
    fold = np.repeat(np.arange(10), 600)
    print("\n### Accuracy over ten folds of 600 pairs\n")
    kfold(scores, same, fold)
    slow, fast = [], []
    for _ in range(rounds if quick else 3 * rounds):
        slow.append(seconds(lambda: grid_folds(scores, same, fold))[0])
        fast.append(seconds(lambda: [kfold(scores, same, fold) for _ in range(100)])[0] / 100)
    exact = kfold_accuracy(scores, same, fold)[0]
    table(
        ["way", "CPU ms", "ratio", "accuracy"],
        [
            ["400 thresholds", median_ms(slow), "1", f"{grid_folds(scores, same, fold):.5f}"],
            ["topoface: every threshold", median_ms(fast), median_ratio(ratios(slow, fast)), f"{exact:.5f}"],
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("bootstrap", "folds"))
    arguments = parser.parse_args()
    if any(os.environ.get(variable) != "1" for variable in ONE_THREAD):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | dict.fromkeys(ONE_THREAD, "1"))
    if not arguments.quick and memory_free() < 3:
        sys.exit("needs 3 GiB of free memory; --quick needs little")
    print(machine("torch", "numpy", "numba"))
    for name, part in {"folds": folds, "bootstrap": bootstrap}.items():
        if arguments.only in (None, name):
            part(arguments.quick, arguments.rounds)


if __name__ == "__main__":
    main()
