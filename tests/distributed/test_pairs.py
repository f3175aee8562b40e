"""UNPG on two processes equals one also where one of them has no pair to show."""

import json
from pathlib import Path

import pytest

from tests.distributed import pairs
from tests.distributed.fork_server import forked


@pytest.mark.dist
def test_figures_and_fence_are_those_of_all_processes(tmp_path: Path) -> None:
    """A row without a pair is on one process alone; and without genuine pairs all cosines to class centers stand in for them."""
    pairs.main(str(tmp_path / "one.json"))
    alone = json.loads((tmp_path / "one.0").read_text())
    forked(2, "tests.distributed.pairs", str(tmp_path / "two.json"))
    for process in range(2):
        several = json.loads((tmp_path / f"two.{process}").read_text())
        assert several["fence"] == pytest.approx(alone["fence"], abs=1e-12)
        assert several["rows"] == pytest.approx(alone["rows"], abs=1e-12)
    assert alone["rows"]["virtual_logit"] > 0
