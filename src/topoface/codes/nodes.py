"""The nodes of one level of a tree of codes: which identities share a prefix, in batches of nodes of equal size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from topoface.codes.assign import Integers

Progress = Callable[[int, int], None]
BATCH = 2**22
"""Numbers that one batch of nodes works on at a time: what stays in the cache, more or less."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """A partition of C identities into the nodes of a level, in the order of their prefixes.

    Attributes:
        order: int64 ``[C]``, the identities, node by node.
        starts: int64 ``[nodes + 1]``, where each begins in the order, and where the last ends.
    """

    order: Integers
    starts: Integers

    @staticmethod
    def root(identities: int) -> "Nodes":
        """All in one."""
        return Nodes(order=np.arange(identities), starts=np.array([0, identities]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batches(self, width: int) -> Iterator[tuple[Integers, Integers]]:
        """Nodes of equal size: their numbers ``[B]``, and members ``[B, m]``.

        A balanced tree has nodes of at most two sizes on a level, so these are few batches of many nodes.

        Args:
            width: numbers that the work on a member takes.
        """
        sizes = np.diff(self.starts)
        for size in np.unique(sizes):
            numbers = np.flatnonzero(sizes == size)
            at_once = max(BATCH // (int(size) * width), 1)
            for start in range(0, len(numbers), at_once):
                some = numbers[start : start + at_once]
                yield some, self.order[self.starts[some, None] + np.arange(size)]

    def split(self, tokens: Integers) -> "Nodes":
        """The nodes one level below, given the token ``[C]`` of each identity."""
        node = np.repeat(np.arange(len(self)), np.diff(self.starts))
        token = tokens[self.order]
        by_token = np.lexsort((token, node))
        node, token = node[by_token], token[by_token]
        first = np.flatnonzero(np.r_[True, (node[1:] != node[:-1]) | (token[1:] != token[:-1])])
        return Nodes(order=self.order[by_token], starts=np.r_[first, len(self.order)])
