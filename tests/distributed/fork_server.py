"""Several processes that start at once: a Python that has imported torch, one for each worker of pytest, forks them on demand.

What is computed on them does not depend on who started them. Tests about torchrun itself start that (`test_torchrun.python`).
"""

import atexit
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.distributed.forked import Forked

LIMIT_S = 240


def forked(count: int, module: str, *arguments: str) -> None:
    """Call ``main`` of a module on so many processes of one group; one alone knows of no group."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps([count, module, arguments]) + "\n")
    server.stdin.flush()
    codes, said = json.loads(server.stdout.readline())
    assert codes == [0] * count, "\n".join(said)[-6000:]


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.distributed.fork_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    atexit.register(server.communicate)  # it ends where its input ends
    return server


def _call(module: str, arguments: list[str]) -> None:
    importlib.import_module(module).main(*arguments)


def prepare() -> None:
    """Do once what each forked process would do anew: import what is imported late, read the docstrings of what recipes name."""
    import torch._dynamo

    import topoface.training  # noqa: F401
    from topoface.recipe.components import describe

    torch.set_num_threads(1)
    with suppress(ImportError):
        importlib.import_module("numba")
    for name in ("ArcFace", "TopoFR", "UNPG", "JLCC"):
        describe(name)


def main() -> None:
    prepare()
    for line in sys.stdin:
        count, module, arguments = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            processes = Forked(count, functools.partial(_call, module, arguments), Path(folder))
            answer = [processes.wait(LIMIT_S), processes.said]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
