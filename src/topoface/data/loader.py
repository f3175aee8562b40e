"""Batches from a source and an order, decoded by a few threads into buffers that are used again."""

import weakref
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.data.batch import Batch
from topoface.data.decode import FACE_SHAPE
from topoface.data.order import Order
from topoface.data.source import Source
from topoface.errors import UserError
from topoface.functional.draws import SampleDraws

Prepare = Callable[[Batch], Mapping[str, Tensor]]


class Loader:
    """Makes the batch of any step; what is in it depends on (source, order, seed, step, rank) alone.

    Threads and not processes: the decoders release the interpreter lock, and sending decoded images
    from a process costs as much as decoding them.

    Args:
        source: where images and labels come from; its images must be 112 x 112.
        order: which samples make up the global batch of a step.
        seed: of the run; draws the flips.
        rank: this process takes the ``rank``-th of ``world_size`` equal shares of each global batch.
        world_size: number of processes.
        accumulation: micro-batches of each step; a micro-batch of all ranks together is a contiguous part
            of the global batch.
        flip: mirror each image with probability 1/2.
        threads: how many batches are decoded at a time.
        prepare: called in the loader's threads with the finished batch; what they return becomes its
            ``extras``.

    Raises:
        UserError: the global batch does not divide by processes times micro-batches.
    """

    def __init__(
        self,
        source: Source,
        order: Order,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        flip: bool = True,
        threads: int = 2,
        prepare: Sequence[Prepare] = (),
    ) -> None:
        parts = world_size * accumulation
        if order.global_batch % parts:
            raise UserError(
                f"is {order.global_batch}, which {world_size} processes x {accumulation} micro-batches do not divide",
                "training.batch_size",
                f"choose a multiple of {parts}",
            )
        self.source, self.order, self.seed = source, order, seed
        self.flip, self.threads, self.prepare = flip, threads, tuple(prepare)
        self._share = order.global_batch // parts
        self._starts = [(micro * world_size + rank) * self._share for micro in range(accumulation)]
        self._buffers = BufferPool((self._share, *FACE_SHAPE))

    def batches(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """The batches of ``start_step .. stop_step - 1`` in order, each step as its micro-batches.

        The next few are made in advance.

        No thread outlives the iterator, whether it was used up, closed, dropped or left by an exception.

        Raises:
            UserError: from the step whose sample cannot be read, naming the file or record.
        """
        steps = ((step, micro) for step in range(start_step, stop_step) for micro in range(len(self._starts)))
        ahead: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="topoface-loader")
        try:
            while True:
                while len(ahead) < 2 * self.threads and (step := next(steps, None)) is not None:
                    ahead.append(pool.submit(self.batch, *step))
                if not ahead:
                    return
                # No name for the batch here: it would keep the buffer from being used again.
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, step: int, micro: int = 0) -> Batch:
        """One (micro-)batch, made in the calling thread. UserError if a sample cannot be read."""
        start = self._starts[micro]
        draws = SampleDraws(
            seed=self.seed,
            step=step,
            global_size=self.order.global_batch,
            start=start,
            stop=start + self._share,
        )
        indices = self.order.indices(step)[draws.start : draws.stop]
        mirror = draws.uniform("flip") < 0.5 if self.flip else np.zeros(len(indices), dtype=np.bool_)
        buffer, storage = self._buffers.take()
        for row, i, mirrored in zip(buffer, indices.tolist(), mirror.tolist(), strict=True):
            self.source.read_into(i, row, mirror=mirrored)
        batch = Batch(
            images=torch.from_numpy(storage).permute(0, 3, 1, 2),
            labels=torch.from_numpy(self.source.labels[indices]),
            indices=torch.from_numpy(indices.copy()),
            draws=draws,
        )
        return replace(batch, extras=self._extras(batch)) if self.prepare else batch

    @torch.no_grad()
    def _extras(self, batch: Batch) -> dict[str, Tensor]:
        extras: dict[str, Tensor] = {}
        for prepare in self.prepare:
            for name, value in prepare(batch).items():
                if name in extras:
                    raise UserError(
                        f"two methods prepare an array {name!r}", "recipe methods", "rename one of them"
                    )
                extras[name] = value
        return extras


class BufferPool:
    """Arrays that come back by themselves once no tensor made from them is left.

    A fresh buffer costs page faults (4 us an image, 5 % of decoding one). Reuse is safe because it is
    tied to the life of the memory, not to a promise of the reader: ``torch.from_numpy(storage)`` holds ``storage`` until the
    last tensor, view or NumPy array that shares its memory is gone, and only then is the buffer free again.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: deque[NDArray[np.uint8]] = deque()

    def take(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Two arrays over one memory: the buffer to fill, and the storage to make one tensor of.

        The buffer must be dropped once filled. Slices of it are safe to hand out to a decoder meanwhile, slices of
        the storage are not: NumPy ties those to the buffer.
        """
        try:
            buffer = self._free.popleft()
        except IndexError:
            buffer = np.empty(self._shape, dtype=np.uint8)
        storage = buffer.view()
        weakref.finalize(storage, self._free.append, buffer).atexit = False
        return buffer, storage
