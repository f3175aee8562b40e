"""JLCC's center memory on real processes equals that of one (oracle 16 of jlcc.md), however the classes fall."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import centers
from tests.distributed.centers import SETTINGS
from tests.distributed.fork_server import forked

TABLES = ("directions", "lengths", "psi", "visits", "last_step", "assigned")  # bit for bit


def results(folder: Path, processes: int, classes: int, head: str) -> dict[str, Any]:
    out = folder / f"{processes}_{classes}_{head}.pt"
    if processes == 1:
        centers.main(str(out), str(classes), head)
    else:
        forked(processes, "tests.distributed.centers", str(out), str(classes), head)
    found: dict[str, Any] = torch.load(out, weights_only=True)
    return found


@pytest.mark.dist
@pytest.mark.parametrize(
    ("processes", "classes", "head"),
    [(2, 11, "dense"), (3, 11, "sharded"), (5, 11, "sharded")],
    ids=str,
)
def test_a_memory_in_shards_equals_the_whole(processes: int, classes: int, head: str, tmp_path: Path) -> None:
    """With 5 processes the classes fall 3, 3, 3, 2 and none."""
    one = results(tmp_path, 1, classes, "dense")
    several = results(tmp_path, processes, classes, head)
    for name in SETTINGS:
        alone, together = one[name], several[name]
        assert alone["state"].keys() == together["state"].keys()
        for table, value in alone["state"].items():
            exact = 0.0 if table in TABLES else 1e-14
            torch.testing.assert_close(
                together["state"][table], value, rtol=0, atol=exact, equal_nan=True, msg=f"{name}: {table}"
            )
        for part in ("step", "log"):
            assert alone[part].keys() == together[part].keys()
            for key, value in alone[part].items():
                torch.testing.assert_close(
                    together[part][key], value, rtol=0, atol=2e-14, equal_nan=True, msg=f"{name}: {key}"
                )
        torch.testing.assert_close(together["centers"], alone["centers"], rtol=0, atol=1e-14, msg=name)
    assert all(one[name]["step"]["by rows"].abs().sum() > 0 for name in SETTINGS)
    assert all((one[name]["step"]["by centers"].abs().sum() > 0) == ("copy" not in name) for name in SETTINGS)
