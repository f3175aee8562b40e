"""Code heads in data parallel: nothing is sharded, and several processes are one."""

import json
from pathlib import Path

import pytest

from tests.code_tables import CodesOf
from tests.distributed.fork_server import forked


@pytest.mark.dist
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_equal_one_in_float64(processes: int, tmp_path: Path) -> None:
    CodesOf(folder=tmp_path / "codes", identities=40, alphabets=(4, 4, 4), dimension=16)
    forked(processes, "tests.distributed.code_heads", str(tmp_path / "codes"), str(tmp_path / "worst"))
    for rank in range(processes):
        worst = json.loads((tmp_path / f"worst.{rank}").read_text())
        assert max(worst) < 1e-12, worst
