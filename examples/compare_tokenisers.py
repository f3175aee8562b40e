"""What the tokens of each kind of identity code say about the vectors they were made from, at equal size.

python examples/compare_tokenisers.py --identities 2000 --shape 13x3
python examples/compare_tokenisers.py --table runs/codes --shape 64x8

Code vectors are drawn around 100 directions, or taken from a table that ``topoface codes build`` wrote. For each kind: the mean cosine of two
identities that share their first token; the share of the vectors' variance that all tokens tell, each by its own mean,
whatever the prefix; how much more frequent the most frequent token is than the mean; seconds.
"""

import argparse
import time

import numpy as np
from numpy.typing import NDArray

from topoface.codes.description import shape_text
from topoface.codes.residual import fit_books
from topoface.codes.shape import parse_shape
from topoface.codes.table import open_table
from topoface.codes.tokenise import KINDS, tokenise
from topoface.codes.vectors import unit
from topoface.errors import UserError
from topoface.functional.draws import generator


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", help="take the code vectors of this table")
    parser.add_argument("--identities", type=int, default=2000, help="drawn, without a table (default 2000)")
    parser.add_argument("--shape", default="13x3", help="K, KxL or K1,K2,.. (default 13x3)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    vectors = stored(arguments.table) if arguments.table else drawn(arguments.identities, arguments.seed)
    alphabets = parse_shape(arguments.shape, len(vectors))
    print(f"{len(vectors):,} identities, {shape_text(alphabets)} tokens")
    print(
        f"{'kind':<10} {'cosine, token shared':>21} {'variance told':>14} {'most / mean':>12} {'seconds':>8}"
    )
    for kind in KINDS:
        start = time.perf_counter()
        try:
            codes = tokenise(vectors, alphabets, kind=kind, seed=arguments.seed).codes.astype(np.int64)
        except UserError as error:
            print(f"{kind:<10} {error}")
            continue
        seconds = time.perf_counter() - start
        print(
            f"{kind:<10} {shared_cosine(vectors, codes[:, 0]):>21.3f} {told(vectors, codes, alphabets):>14.1%} "
            f"{most_frequent(codes, alphabets):>12.2f} {seconds:>8.1f}"
        )


def drawn(identities: int, seed: int) -> NDArray[np.float32]:
    rng = generator(seed, "example vectors")
    groups = rng.standard_normal((100, 64))
    rows = groups[rng.integers(0, 100, identities)] + 0.7 * rng.standard_normal((identities, 64))
    return unit(rows).astype(np.float32)


def stored(path: str) -> NDArray[np.float32]:
    table = open_table(path)
    return table.unit_vectors(np.arange(table.num_identities))


def shared_cosine(vectors: NDArray[np.float32], tokens: NDArray[np.int64]) -> float:
    sums, pairs = 0.0, 0
    for token in np.unique(tokens):
        inside = vectors[tokens == token]
        sums += float((inside.sum(0) ** 2).sum()) - len(inside)
        pairs += len(inside) * (len(inside) - 1)
    return sums / max(pairs, 1)


def told(vectors: NDArray[np.float32], codes: NDArray[np.int64], alphabets: tuple[int, ...]) -> float:
    books = fit_books(vectors, codes, alphabets)
    offsets = np.cumsum((0, *alphabets[:-1]))
    rest = vectors - vectors.mean(0) - books[codes + offsets].sum(1)
    return 1 - float((rest**2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())


def most_frequent(codes: NDArray[np.int64], alphabets: tuple[int, ...]) -> float:
    use = [np.bincount(codes[:, j], minlength=k) for j, k in enumerate(alphabets)]
    return max(float(counts.max() / counts.mean()) for counts in use)


if __name__ == "__main__":
    main()
