"""From code vectors to codes: seconds for 10^5 and 10^6 identities, and what the codes are like.

    python benchmarks/codes.py [--identities 100000 1000000] [--kinds rq arbitrary] [--dimension 512]

The vectors are drawn: groups within groups, with a spectrum that falls like that of face embeddings. The shape is the one that `topoface codes build` chooses.
One thread; the encoder's pass over the images comes on top of it.
"""

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray

from measuring import machine, peak_growth, table
from topoface.codes.shape import choose_shape
from topoface.codes.tokenise import KINDS, Tokenised, tokenise


def code_vectors(identities: int, dimension: int) -> NDArray[np.float32]:
    """Unit rows ``[identities, dimension]``: a hundred groups, people around them, axes that matter less and less."""
    g = np.random.Generator(np.random.Philox(0))
    spectrum = (np.arange(1, dimension + 1) ** -0.5).astype(np.float32)
    groups = g.standard_normal((100, dimension), np.float32)
    rows = g.standard_normal((identities, dimension), np.float32)
    rows += 0.7 * groups[g.integers(0, 100, identities)]
    rows *= spectrum
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def row(identities: int, kind: str, dimension: int) -> list[str]:
    vectors, alphabets = code_vectors(identities, dimension), choose_shape(identities, dimension)
    made: list[Tokenised] = []
    cpu, wall = time.process_time(), time.perf_counter()
    growth = peak_growth(lambda: made.append(tokenise(vectors, alphabets, kind=kind)))  # type: ignore[arg-type]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    codes = made[0].codes.astype(np.int64)
    numbers = np.ravel_multi_index(tuple(codes.T), alphabets)
    fullest = [np.bincount(codes[:, j], minlength=k).max() * k / identities for j, k in enumerate(alphabets)]
    return [
        f"{identities:,}",
        kind,
        " x ".join(map(str, alphabets)),
        f"{cpu:.1f}",
        f"{wall:.1f}",
        f"{growth:,.0f}",
        "yes" if len(np.unique(numbers)) == identities else "NO",
        ", ".join(f"{share:.2f}" for share in fullest),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--identities", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["arbitrary", "rq"], choices=KINDS)
    parser.add_argument("--dimension", type=int, default=512)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(machine("numpy", "numba"))
    table(
        [
            "identities",
            "kind",
            "shape",
            "CPU s",
            "wall s",
            "extra MiB",
            "all different",
            "fullest token / mean",
        ],
        (row(n, kind, given.dimension) for n in given.identities for kind in given.kinds),
    )


if __name__ == "__main__":
    main()
