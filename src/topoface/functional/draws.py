"""Random numbers as pure functions of (seed, purpose, step, sample): no generator is ever carried along."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A fresh generator for one purpose, e.g. ``generator(seed, "order", epoch)``.

    The same arguments give the same numbers on every machine, in every process and after every
    resume; any two different argument lists give unrelated streams (Philox keyed by a hash).
    """
    text = ":".join([str(seed), purpose, *map(str, counters)])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


_AT_ONCE = 1 << 14  # rows of one generator: part of what a seed means


def rows_in_blocks(
    rows: range,
    draw: Callable[[np.random.Generator, int], NDArray[Any]],
    seed: int,
    purpose: str,
    *counters: int,
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Random rows of a long table, a block at a time, the same whoever draws which range.

    Each block of 16,384 rows has a generator of its own (the first one that of the purpose itself), so that a process neither holds nor
    draws the table of all, but for the block where its range begins.

    Args:
        rows: those that are wanted.
        draw: makes the first so many rows of a block.
        seed: as in `generator`, like the rest.
        purpose: as there.
        counters: as there.

    Yields:
        Where a block's rows lie among those wanted, and the rows.
    """
    for block in range(rows.start // _AT_ONCE, -(-rows.stop // _AT_ONCE)):
        first = block * _AT_ONCE
        start, stop = max(rows.start, first), min(rows.stop, first + _AT_ONCE)
        drawn = draw(generator(seed, purpose, *counters, *([block] if block else [])), stop - first)
        yield slice(start - rows.start, stop - rows.start), drawn[start - first :]


@dataclass(frozen=True, kw_only=True)
class SampleDraws:
    """Random numbers of one step: a row for each sample of the *global* batch, of which rows start..stop are ours.

    Every process draws the rows of the whole global batch and keeps its own, so that one process,
    several processes and accumulated micro-batches all see the same numbers for the same sample.
    """

    seed: int
    step: int
    global_size: int
    start: int
    stop: int

    def uniform(self, purpose: str, *shape: int) -> NDArray[np.float64]:
        """Float64 [stop - start, *shape], uniform in [0, 1)."""
        rows = generator(self.seed, purpose, self.step).random((self.global_size, *shape))
        return rows[self.start : self.stop]
