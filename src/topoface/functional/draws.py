"""Random numbers as pure functions of (seed, purpose, step, sample): no generator is ever carried along."""

import hashlib
from dataclasses import dataclass

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
