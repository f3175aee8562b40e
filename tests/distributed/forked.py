"""Processes of one group without torchrun: forked after torch is imported, so that starting them takes no time."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from topoface.errors import UserError


class Forked:
    """Processes that all do the same work, each with its own rank; what they print goes to ``said.RANK`` in a folder.

    Args:
        count: how many; one process gets no rank and knows of no group.
        work: what each does; its exit code is 0, 2 for a UserError and 3 for another error.
        folder: for what they say.
    """

    def __init__(self, count: int, work: Callable[[], object], folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.pids = [self._fork(rank, count, port, work) for rank in range(count)]

    def _fork(self, rank: int, count: int, port: int, work: Callable[[], object]) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 3
        try:
            output = os.open(self.folder / f"said.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            if count > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            work()
            code = 0
        except UserError as error:
            print(f"topoface: error: {error}")
            code = 2
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def wait(self, timeout_s: float) -> list[int]:
        """Exit codes, negative for signals; whoever is left at the end of the time is killed and gets -9."""
        deadline = time.monotonic() + timeout_s
        codes: dict[int, int] = {}
        while len(codes) < len(self.pids):
            for pid in set(self.pids) - set(codes):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        return [codes[pid] for pid in self.pids]

    @property
    def said(self) -> list[str]:
        """By rank."""
        return [(self.folder / f"said.{rank}").read_text() for rank in range(len(self.pids))]


def run_forked(count: int, work: Callable[[], object], folder: Path, timeout_s: float = 120) -> Sequence[str]:
    """Run to the end, without errors; returns what each said."""
    processes = Forked(count, work, folder)
    codes = processes.wait(timeout_s)
    assert codes == [0] * count, (codes, processes.said)
    return processes.said
