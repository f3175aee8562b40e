"""Over the other processes' shoulders: a rank that hangs is named with its step and place, and nobody waits in vain.

A collective operation that never ends sits in C++ and cannot be interrupted, and the time-out of a backend names neither rank nor step.
So a thread of each process writes into the processes' common store where its process is, which Python's own stack tells.
"""

import itertools
import json
import math
import os
import re
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from topoface.errors import UserError
from topoface.functional.collectives import rank, world_size
from topoface.training.distributed import Store, is_main, shared_store, wait_for_all

T = TypeVar("T")
_LIBRARIES = (str(Path(torch.__file__).parent), sysconfig.get_paths()["stdlib"] + os.sep, "<frozen")
_SEEN_EVERY_S = 0.2
_LOST = re.compile(r"gloo|closed by peer|reset by peer|[Tt]imed out|NCCL|socket", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Whereabouts:
    """Where a process is.

    Attributes:
        step: of training.
        place: file, line and function outside of torch and Python's own library.
        collective: the operation with the other processes that it waits in, or nothing.
        count: how often it has reported.
    """

    step: int
    place: str
    collective: str
    count: int = 0


class Watch:
    """Ends a run in which nothing moves any more, and says who holds it up. Does nothing with one process.

    Args:
        timeout_s: how long a step may take; but for the first, which may import and compile.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._store = shared_store() if world_size() > 1 else None
        if self._store is not None:
            self._store.set_timeout(timedelta(seconds=timeout_s))
        self._period_s = min(timeout_s / 5, 10.0)
        self._trains = threading.get_ident()
        self._step, self._moved, self._excused = -1, math.inf, False
        self._count, self._turns = itertools.count(1), itertools.count()
        self._ended = threading.Event()

    def __enter__(self) -> "Watch":
        if self._store is not None:
            threading.Thread(target=self._run, name="topoface-watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def moved(self, step: int) -> None:
        """This process has come to a step."""
        first = self._step < 0
        self._step, self._moved = step, math.inf if first else time.monotonic()

    @contextmanager
    def excused(self) -> Iterator[None]:
        """While all processes wait for something that may take as long as it takes, and for no collective of training."""
        self._excused = True
        try:
            yield
        finally:
            self._moved = time.monotonic()
            self._excused = False

    def on_main(self, work: Callable[[], T]) -> T | None:
        """Let the first process do something alone, for as long as it takes; the others wait here, outside of any collective.

        Returns:
            What it made of it; None on the others.

        Raises:
            UserError: on the others, if the first one failed.
        """
        if world_size() == 1:
            return work()
        with self.excused():
            result = work() if self._store is None and is_main() else None
            if self._store is not None:
                result = self._in_turn(self._store, work)
            wait_for_all()  # a short one: all are here
        return result

    def _in_turn(self, store: Store, work: Callable[[], T]) -> T | None:
        key = f"turn/{next(self._turns)}"
        if is_main():
            outcome = "failed"
            try:
                result = work()
                outcome = "done"
            finally:
                store.set(key, outcome)
            return result
        while not store.check([key]):
            time.sleep(_SEEN_EVERY_S)
        if store.get(key) != b"done":
            raise UserError("the first process failed", f"rank {rank()}", "its own message says why")
        return None

    def _run(self) -> None:
        while not self._ended.wait(self._period_s):
            try:
                self._report()
                if self._stuck():
                    self._give_up()
            except (
                RuntimeError
            ):  # no answer from the store, which lives in the launcher or in the first process
                if self._stuck():
                    self._leave("the launcher or the first process does not answer")

    def _stuck(self) -> bool:
        still = time.monotonic() - self._moved
        return still > self.timeout_s and not self._excused and not self._ended.is_set()

    def _report(self) -> None:
        assert self._store is not None
        found = whereabouts(sys._current_frames().get(self._trains))
        text = json.dumps({"step": self._step, "count": next(self._count), **found})
        self._store.set(f"whereabouts/{rank()}", text)

    def _give_up(self) -> None:
        """Say who hangs, once for all processes, and leave."""
        assert self._store is not None
        before = self._read()
        self._ended.wait(1.5 * self._period_s)
        self._report()
        after = self._read()
        if not self._stuck():
            return
        first = self._store.add("said", 1) == 1
        silent = {who for who in after if who != rank() and after[who] == before.get(who)}
        self._leave(verdict(after, silent) if first else "")

    def _leave(self, what: str) -> NoReturn:
        """End this process from here: the thread that trains cannot be reached where it is."""
        if what:
            where, remedy = (
                f"rank {rank()}, step {self._step}",
                "raise --timeout if a step may take that long",
            )
            error = UserError(f"nothing has moved for {self.timeout_s:.0f} s; {what}", where, remedy)
            print(f"topoface: error: {error}", file=sys.stderr, flush=True)
        if is_main():
            time.sleep(2 * self._period_s)  # the store may live in this process: let the others read it
        os._exit(1)

    def _read(self) -> dict[int, Whereabouts]:
        assert self._store is not None
        keys = {who: f"whereabouts/{who}" for who in range(world_size())}
        return {
            who: Whereabouts(**json.loads(self._store.get(key)))
            for who, key in keys.items()
            if self._store.check([key])
        }


@contextmanager
def lost_processes_are_user_errors() -> Iterator[None]:
    """What torch raises where another process has ended says neither rank nor operation."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if world_size() == 1 or not (isinstance(error, dist.DistError) or _LOST.search(text)):
            raise
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        found = whereabouts(trace.tb_frame if trace else None)
        raise UserError(
            f"lost another process in {found['collective'] or 'an operation'} at {found['place']} ({text[:120]})",
            f"rank {rank()}",
            "its own message says why; with --max-restarts torchrun goes on from the last checkpoint",
        ) from error


def whereabouts(frame: FrameType | None) -> dict[str, Any]:
    """Place and collective of a stack, from its innermost frame outwards."""
    collective = ""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.endswith("distributed_c10d.py"):
            collective = code.co_name
        elif code.co_filename.endswith("nn/parallel/distributed.py"):
            collective = collective or code.co_qualname
        elif code.co_name == "_engine_run_backward":
            collective = collective or "the backward pass"
        elif not code.co_filename.startswith(_LIBRARIES):
            file = "/".join(Path(code.co_filename).parts[-2:])
            return {"collective": collective, "place": f"{file}:{frame.f_lineno} ({code.co_name})"}
        frame = frame.f_back
    return {"collective": collective, "place": "an unknown place"}


def verdict(seen: Mapping[int, Whereabouts], silent: set[int]) -> str:
    """Who hangs and who waits for it, in one line."""
    hang = {who: at for who, at in seen.items() if who not in silent and not at.collective}
    wait = {who: at for who, at in seen.items() if who not in silent and at.collective}
    shown = dict(itertools.islice(wait.items(), 4))
    said = [
        *(
            f"rank {who} does not answer, last seen in step {seen[who].step} at {seen[who].place}"
            for who in silent
        ),
        *(f"rank {who} hangs in step {at.step} at {at.place}" for who, at in hang.items()),
        *(
            f"rank {who} waits in {at.collective} of step {at.step} at {at.place}"
            for who, at in shown.items()
        ),
        *([f"{len(wait) - len(shown)} more wait"] if len(wait) > len(shown) else []),
    ]
    return "; ".join(said)
