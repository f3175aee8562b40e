"""How often the intervals of `topoface calibrate` hold the truth, when people differ and the truth is known.

python benchmarks/calibration_intervals.py [--trials N] [--seed N]

Scores as in intervals.py. A threshold's truth is that of endless people; what of other people's pairs is accepted or missed
has the rates of endless people at the thresholds that the halves chose.
"""

import argparse
import math
import os
import statistics
from collections.abc import Iterator

import numpy as np

from intervals import DESIGNS, Design, draw, truth
from measuring import table
from topoface.errors import UserError
from topoface.evaluation.calibration.known_pairs import KnownPairs, halves
from topoface.evaluation.calibration.threshold import choose
from topoface.evaluation.figures import Figure
from topoface.functional.verification import threshold_at_far

LISTS = {
    "everyone once or twice": DESIGNS["once, people differ"],
    "300 people, 1,000 impostor pairs": DESIGNS["lists, differ"],
    "200 people, 3,000": Design(200, 1000, 3000, 3.5, 0.7, 0.5, 0.5, (0.1, 0.03)),
    "60 people, 1,000": Design(60, 300, 1000, 3.5, 0.7, 0.5, 0.5, (0.1, 0.03, 0.01)),
    "60 people, everyone meets everyone": DESIGNS["everyone meets everyone, differ"],
}
COLUMNS = "threshold", "bar of misses", "FAR of other people", "missed of other people"


def above(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


def held(design: Design, far: float, right: float, seed: int, trial: int) -> list[bool] | None:
    """Whether the interval of each column holds; None where half of the people have too few pairs."""
    genuine, impostor = math.hypot(1, design.person), math.sqrt(1 + 2 * design.wolf**2 + design.couple**2)
    drawn = draw(design, np.random.default_rng((seed, trial)))
    pairs = KnownPairs(drawn.scores, drawn.same, drawn.who, np.zeros(len(drawn.same), np.int64))
    try:
        chosen = choose(pairs, far, where="drawn", seed=trial)
    except UserError:
        return None
    half, _ = halves(pairs, trial, "drawn")
    accepted, missed = np.zeros((2, len(half)))
    for k in (0, 1):
        bar = threshold_at_far(*pairs.among(half == 1 - k)[:2], far).threshold
        accepted[half == k], missed[half == k] = (
            above(bar / impostor),
            1 - above((bar - design.mean) / genuine),
        )
    truths = (
        right,
        design.mean + genuine * statistics.NormalDist().inv_cdf(chosen.miss_rate),
        accepted[(half >= 0) & ~pairs.same].mean(),
        missed[(half >= 0) & pairs.same].mean(),
    )
    figures: tuple[Figure, ...] = (*chosen.bars, chosen.honest_far, chosen.honest_miss)
    return [figure.low <= value <= figure.high for figure, value in zip(figures, truths, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=13)
    arguments = parser.parse_args()

    def rows() -> Iterator[list[str]]:
        for name, design in LISTS.items():
            for far in design.fars:
                right = truth(design)[f"threshold@{far:g}"]
                every = [held(design, far, right, arguments.seed, trial) for trial in range(arguments.trials)]
                share = 100 * np.mean([one for one in every if one is not None], axis=0)
                yield [f"{name}, FAR {far:g}", *(f"{value:.1f}" for value in share)]

    table(["interval holds, %", *COLUMNS], rows())


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
