"""Two machines for tests: network namespaces joined by a cable where this system allows them, else twice this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# each line is one that an administrator would type; the namespaces and all in them end with the last process
_SETUP = """
set -e
ip link set lo up
unshare -n sleep 600 & other=$!
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add left type veth peer name right netns $other
ip addr add 10.99.0.1/24 dev left
ip link set left up
nsenter -t $other -n ip addr add 10.99.0.2/24 dev right
nsenter -t $other -n ip link set right up
nsenter -t $other -n ip link set lo up
echo $other
exec sleep 600
"""


@dataclass(kw_only=True)
class Node:
    """A torchrun on one of the machines."""

    process: subprocess.Popen[bytes]
    said: Path

    def text(self) -> str:
        """What it and its processes printed."""
        return self.said.read_text(errors="replace")

    def lose_power(self) -> None:
        """The machine goes down: torchrun and its processes at once."""
        for number in [self.process.pid, *_children(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait(30)


class Machines:
    """The two of them.

    Attributes:
        apart: whether they have networks of their own.
    """

    def __init__(self, folder: Path, prefixes: list[list[str]], addresses: list[str]) -> None:
        self.apart = bool(prefixes[0])
        self._folder, self._prefixes, self._addresses = folder, prefixes, addresses
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._endpoint = f"{addresses[0]}:{free.getsockname()[1]}"
        self._nodes: list[Node] = []

    def torchrun(self, machine: int, nodes: str, *command: str) -> Node:
        """Start one process on a machine, 0 or 1, as docs/scale.md says it."""
        launcher = [
            *(sys.executable, "-m", "torch.distributed.run"),
            *(f"--nnodes={nodes}", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d"),
            *(f"--rdzv-endpoint={self._endpoint}", f"--local-addr={self._addresses[machine]}"),
            f"--rdzv-conf=is_host={int(machine == 0)},last_call_timeout=2,keep_alive_interval=1",
        ]
        said = self._folder / f"machine_{machine}_{len(self._nodes)}.txt"
        out: IO[bytes]
        with said.open("wb") as out:
            process = subprocess.Popen(
                [*self._prefixes[machine], *launcher, "-m", *command],
                stdout=out,
                stderr=subprocess.STDOUT,
                # with the store shared over the rounds, a machine that joins later waits for ever for its address (torch 2.13)
                env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            )
        self._nodes.append(Node(process=process, said=said))
        return self._nodes[-1]

    def stop(self) -> None:
        """End what still runs."""
        for node in self._nodes:
            if node.process.poll() is None:
                node.lose_power()


@contextmanager
def two_machines(folder: Path) -> Iterator[Machines]:
    """Machines until the end of the block."""
    wanted = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", _SETUP]
    try:
        holder = subprocess.Popen(wanted, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        holder = None
    other = holder.stdout.readline().strip() if holder and holder.stdout else ""
    if holder and other:
        enter = ["nsenter", "-U", "--preserve-credentials", "-n", "-t"]
        prefixes, addresses = [[*enter, str(holder.pid)], [*enter, other]], ["10.99.0.1", "10.99.0.2"]
    else:
        prefixes, addresses = [[], []], ["127.0.0.1"] * 2
    machines = Machines(folder, prefixes, addresses)
    try:
        yield machines
    finally:
        machines.stop()
        if holder:
            for number in [*([int(other)] if other else []), holder.pid]:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            holder.wait(30)
            if holder.stdout:
                holder.stdout.close()


def wait_until(holds: Callable[[], bool], node: Node, seconds: float = 120) -> None:
    """Until something holds while a node runs; what it said if it ends or time runs out."""
    end = time.monotonic() + seconds
    while not holds():
        assert node.process.poll() is None, node.text()[-3000:]
        assert time.monotonic() < end, node.text()[-3000:]
        time.sleep(0.1)


def _children(process: int) -> list[int]:
    """Of a process, and of these."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for number in map(int, path.read_text().split()):
                found += [number, *_children(number)]
    return found
