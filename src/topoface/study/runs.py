"""The processes of a study: so many at a time, each on its own cores, all allowed to save before the end."""

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from topoface.errors import UserError
from topoface.recipe import Recipe
from topoface.study.results import RunFiles

_NICENESS = 10  # a study runs for hours beside somebody's work
_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a study.

    Attributes:
        files: variant, seed and folder.
        recipe_file: what ``topoface train`` is given.
        overrides: likewise.
        recipe: what that amounts to.
    """

    files: RunFiles
    recipe_file: Path
    overrides: tuple[str, ...]
    recipe: Recipe

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.files.variant}/{self.files.folder.name}"

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.files.folder.with_suffix(".log")


def run_all(
    waiting: Sequence[PlannedRun],
    *,
    workers: int,
    threads: int,
    train: Sequence[str],
    ended: Callable[[PlannedRun, str], None],
) -> None:
    """Run everything; returns when nothing runs any more, whatever happens.

    Args:
        waiting: in this order.
        workers: how many at a time.
        threads: of each.
        train: the command that trains.
        ended: called with each run that ended, and the reason of its failure or nothing.
    """
    queue = list(waiting)
    free = _core_sets(workers, threads)
    running: list[_Running] = []
    try:
        while queue or running:
            while queue and free:
                running.append(_start(queue.pop(0), train, free.pop(), threads))
            for process in [process for process in running if process.popen.poll() is not None]:
                running.remove(process)
                free.append(process.cores)
                ended(process.run, process.close())
            time.sleep(_POLL_S)
    finally:  # nothing runs any more unless somebody pressed CTRL-C, or we failed: let the runs save
        for process in running:
            process.popen.terminate()  # heard even where CTRL-C is ignored, as in a shell's background
        for process in running:
            process.popen.wait()
            process.close()


@dataclass(frozen=True, kw_only=True)
class _Running:
    run: PlannedRun
    popen: "subprocess.Popen[bytes]"
    cores: frozenset[int]
    started: float

    def close(self) -> str:
        """Book the time of a process that has ended; returns why it failed, or nothing."""
        folder = self.run.files.folder
        if folder.is_dir():
            before = self.run.files.wall_s()
            seconds = time.monotonic() - self.started + (0 if math.isnan(before) else before)
            (folder / "study.json").write_text(json.dumps({"wall_s": seconds}), encoding="utf-8")
        if self.popen.returncode == 0 and self.run.files.finished:
            return ""
        said = self.run.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
        return f"failed with exit code {self.popen.returncode}: {last} (log: {self.run.log})"


def _start(run: PlannedRun, train: Sequence[str], cores: frozenset[int], threads: int) -> _Running:
    folder = run.files.folder
    command = [*train, str(run.recipe_file), *run.overrides, "--run-dir", str(folder), "--quiet"]
    if folder.is_dir():
        command.append("--resume")
    folder.parent.mkdir(parents=True, exist_ok=True)
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    with run.log.open("ab") as log:
        # A session of its own: CTRL-C on the terminal reaches it through us alone, so exactly once.
        popen = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **limits},
            start_new_session=True,
            close_fds=False,  # it holds the folder's lock too, in case it outlives us
        )
    _be_modest(popen.pid, cores)
    return _Running(run=run, popen=popen, cores=cores, started=time.monotonic())


def _core_sets(workers: int, threads: int) -> list[frozenset[int]]:
    """Cores of each worker; empty sets (any core) where there are too few, or the system does not tell."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if workers * threads > len(cores):
        return [frozenset()] * workers
    return [frozenset(cores[w * threads : (w + 1) * threads]) for w in range(workers)]


def _be_modest(pid: int, cores: frozenset[int]) -> None:
    """Low priority and own cores; set from outside, before the process has started any thread."""
    try:
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)
        if cores:
            os.sched_setaffinity(pid, cores)
    except ProcessLookupError:
        pass  # it has ended already


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a lock on ``folder`` while a study or any of its runs lives.

    Raises:
        UserError: another one holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks here
        yield
        return
    with (folder / ".lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)  # runs that outlive a killed study keep the lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                "another study is at work there", str(folder), "wait for it, or end it"
            ) from error
        yield


@contextmanager
def ends_like_ctrl_c(*names: str) -> Iterator[None]:
    """Let these signals do what CTRL-C does, so that the runs save and no process is left behind.

    A signal that is ignored (nohup) stays so, and one that this system lacks does not matter.
    """
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    heard = [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
