"""Which samples make up the batch of a step: pure functions of (seed, step), so a run resumes at any step."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.functional.draws import generator


class Order(Protocol):
    """Which samples make up each global batch.

    Attributes:
        global_batch: samples of one step, over all ranks.
        steps_per_epoch: steps in which as many samples are drawn as the source has.
    """

    global_batch: int
    steps_per_epoch: float

    def indices(self, step: int) -> NDArray[np.int64]:
        """int64 ``[global_batch]``, positions in the source; may be called from any thread."""
        ...


class UniformOrder:
    """Shuffled epochs one after the other: every image once an epoch, batches may straddle two epochs.

    Args:
        size: number of images.
        global_batch: samples of one step, over all ranks.
        seed: of the run.
    """

    def __init__(self, size: int, global_batch: int, seed: int) -> None:
        _require_positive(global_batch, "batch size")
        self.size, self.global_batch, self.seed = size, global_batch, seed
        self.steps_per_epoch = size / global_batch
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def indices(self, step: int) -> NDArray[np.int64]:
        """int64 ``[global_batch]``: this step's piece of the endless sequence of shuffled epochs."""
        start = step * self.global_batch
        stop = start + self.global_batch
        epochs = range(start // self.size, (stop - 1) // self.size + 1)
        # Shuffling tens of millions takes a second, so the epochs in use are kept. Threads may race to
        # replace the dict; each would put the same numbers there.
        known = self._epochs
        self._epochs = known = {
            epoch: known[epoch] if epoch in known else self._shuffled(epoch) for epoch in epochs
        }
        first = epochs.start * self.size
        return np.concatenate([known[epoch] for epoch in epochs])[start - first : stop - first]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return generator(self.seed, "order", epoch).permutation(self.size)


class IdentityBalancedOrder:
    """Batches of P identities with K images each, whatever the number of images an identity has.

    Identities come in rounds: a shuffle of all of them, cut into batches of P different ones; the fewer than P
    that are left over sit that round out, others each time. So an identity is seen at most once a round and all equally
    often on average. An identity's images come in cycles in the same way: a shuffle of its images, cut into
    visits of K different ones, and no image again before the next cycle. Only an identity with fewer than
    K images repeats some within one batch.

    Args:
        labels: int64 ``[n]``, of the source.
        identities_per_batch: P.
        images_per_identity: K.
        seed: of the run.

    Raises:
        UserError: P or K is not positive, or there are fewer than P identities.
    """

    def __init__(
        self, labels: NDArray[np.int64], identities_per_batch: int, images_per_identity: int, seed: int
    ) -> None:
        _require_positive(identities_per_batch, "identities per batch")
        _require_positive(images_per_identity, "images per identity")
        self._by_label = np.argsort(labels, kind="stable")
        _, self._starts, self._counts = np.unique(
            labels[self._by_label], return_index=True, return_counts=True
        )
        if identities_per_batch > len(self._starts):
            raise UserError(
                f"{identities_per_batch} identities per batch are asked for, the data has {len(self._starts)}",
                "identity-balanced order",
                "lower the identities per batch",
            )
        self.seed = seed
        self._identities, self._images = identities_per_batch, images_per_identity
        self.global_batch = identities_per_batch * images_per_identity
        self.steps_per_epoch = len(labels) / self.global_batch

    def indices(self, step: int) -> NDArray[np.int64]:
        """int64 ``[P * K]``, the K images of an identity side by side."""
        P = self._identities
        round_, batch = divmod(step, len(self._starts) // P)
        shuffled = generator(self.seed, "identities", round_).permutation(len(self._starts))
        return np.concatenate(
            [self._visit(c, round_) for c in shuffled[batch * P : (batch + 1) * P].tolist()]
        )

    def _visit(self, identity: int, visit: int) -> NDArray[np.int64]:
        """int64 ``[K]``: the images of an identity's ``visit``-th visit."""
        K, count, start = self._images, int(self._counts[identity]), int(self._starts[identity])
        cycle, position = divmod(visit, max(1, count // K))
        shuffled = generator(self.seed, "identity images", identity, cycle).permutation(count)
        return self._by_label[start + np.take(shuffled, range(position * K, (position + 1) * K), mode="wrap")]


def _require_positive(value: int, name: str) -> None:
    if value < 1:
        raise UserError(f"{name} is {value}", "order of the samples", "give a number from 1")
