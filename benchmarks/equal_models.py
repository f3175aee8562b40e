"""How often two models that are equally good are called different, by how many misses they have.

python benchmarks/equal_models.py [--trials N] [--seed N]

300 genuine pairs of one person each and 300 impostor pairs of two, everyone once; scores of both models share a third of their variance.
"""

import argparse
import os
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from measuring import Blank, table
from topoface.evaluation.embedding import PairScores
from topoface.evaluation.pairs.comparing import compare
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.evaluation.pairs.verification import Verification, judge

PAIRS = 300
FIGURES = "accuracy", "auc", "eer", "tar@0.1"


def judged(scores: np.ndarray) -> Verification:
    same = np.arange(2 * PAIRS) < PAIRS
    pairs = np.arange(4 * PAIRS).reshape(-1, 2)
    identities = np.arange(4 * PAIRS)
    identities[: 2 * PAIRS] //= 2  # two images of each person in a genuine pair
    protocol = PairProtocol(
        name="drawn", uri="drawn", images=Blank([None] * 4 * PAIRS), pairs=pairs, same=same, folds=np.arange(2 * PAIRS) % 10,
        identities=identities, interval_unit="identity", fingerprint="",
    )  # fmt: skip
    known = PairScores(scores=scores, failed=np.zeros(len(scores), bool), failures=())
    return judge(known, protocol, flip=False, bootstrap=60)


def called(misses: int, rng: np.random.Generator) -> list[bool]:
    """Whether each figure differs clearly; genuine scores are so high that so many of them miss on average where as many are accepted wrongly."""
    mean = -2 * NormalDist().inv_cdf(misses / PAIRS)
    common, *own = rng.standard_normal((3, 2 * PAIRS))
    scores = [0.6 * common + 0.8 * each + mean * (np.arange(2 * PAIRS) < PAIRS) for each in own]
    found = compare(*map(judged, scores))
    return [found[name].low > 0 or found[name].high < 0 for name in FIGURES]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()

    def rows() -> Iterator[list[str]]:
        for misses in (1, 2, 5, 20):
            every = [
                called(misses, np.random.default_rng((arguments.seed, misses, trial)))
                for trial in range(arguments.trials)
            ]
            yield [f"{misses}", *(f"{100 * share:.1f}" for share in np.mean(every, axis=0))]

    table(["misses", *FIGURES], rows())


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
