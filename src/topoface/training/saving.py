"""Saving while training goes on: the state is copied, a thread writes the copy, and its errors come out at the next step."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

import torch.distributed as dist

from topoface.errors import UserError
from topoface.functional.collectives import rank, world_size
from topoface.training.checkpoint import Checkpoint, finish, newest, step_folder, write_part
from topoface.training.distributed import gather_objects
from topoface.training.run import Run
from topoface.training.state import Snapshot, snapshot

# The writers speak to each other in a group of their own: on the group of training their operations and those of the
# steps would wait for each other (torch 2.13 deadlocks). A slow disk must not end the run by a time-out: neither by
# theirs nor by that of the watch, which is told when a process waits for them.
_PATIENCE = timedelta(days=1)
T = TypeVar("T")


class Saver:
    """Writes and finds the checkpoints of a run; all processes make one and call it together.

    Leaving it waits for what is still being written.

    Args:
        folder: of the checkpoints.
        keep_last: how many are kept.
        waiting: entered while a process waits for what is written; see :meth:`topoface.training.watch.Watch.excused`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_last: int,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.folder, self._keep_last, self._waiting = folder, keep_last, waiting
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE) if world_size() > 1 else None
        self._writing: Future[None] | None = None
        self._came_from: Path | None = None  # the checkpoint restored or finished last

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(*([Exception] if error else [])):  # the first error is the one to tell
            self.wait()

    @property
    def failed(self) -> bool:
        """Whether writing has ended with an error, which :meth:`wait` raises."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def save(self, run: Run) -> None:
        """Copy the state of a run and begin to write it; waits first for the checkpoint before, if that is not done."""
        self.wait()
        copied = snapshot(run)
        path = step_folder(self.folder, run.step)
        self._writing = _in_background(lambda: self._write(path, copied))

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            UserError: it could not be, on this process or another; alike on all of them.
        """
        if self._writing is not None:
            try:
                with self._waiting():
                    self._writing.result()
            finally:
                self._writing = None

    def newest(self, say: Callable[[str], None]) -> Checkpoint | None:
        """See :func:`topoface.training.checkpoint.newest`."""
        found = newest(self.folder, say, group=self._group)
        self._came_from = found.path if found else None
        return found

    def _write(self, path: Path, copied: Snapshot) -> None:
        part = self._all_or_none(lambda: write_part(path, copied.tensors, copied.first_rows))
        parts = gather_objects(part, self._group)

        def finish_on_main() -> None:
            if rank() == 0:
                finish(path, copied.facts, parts, keep_last=self._keep_last, came_from=self._came_from)

        self._all_or_none(finish_on_main)
        self._came_from = path

    def _all_or_none(self, work: Callable[[], T]) -> T:
        """What ``work`` returns, if it succeeds on every process; else the first one's error on all."""
        result: T | None = None
        error: tuple[str, str, str] | None = None
        try:
            result = work()
        except UserError as raised:
            error = (raised.what, raised.where, raised.remedy)
        for other in gather_objects(error, self._group):
            if other is not None:
                raise UserError(*other)
        return cast(T, result)


def _in_background(work: Callable[[], None]) -> Future[None]:
    """Like a pool's, but no thread that the interpreter waits for at its end: a file half written is worth nothing."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
            future.set_result(None)
        except BaseException as error:  # whatever it is belongs to who waits
            future.set_exception(error)

    threading.Thread(target=run, name="topoface-saver", daemon=True).start()
    return future
