"""A count of all pairs that is cut off, at any place and by SIGKILL too, goes on to the same figures."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from topoface.errors import UserError
from topoface.evaluation.all_pairs import counts as pair_counts
from topoface.evaluation.all_pairs import people as pair_people
from topoface.evaluation.all_pairs.bookmark import Bookmark
from topoface.evaluation.all_pairs.judging import LabelledSet, judge_all_pairs
from topoface.evaluation.features import Features

SET = """
import numpy as np
from topoface.evaluation.all_pairs import bookmark
from topoface.evaluation.all_pairs import counts as pair_counts
from topoface.evaluation.all_pairs import people as pair_people
pair_counts._TILE = pair_people._TILE = 16, 32
bookmark.Bookmark.__init__.__kwdefaults__["every_s"] = 0.0
"""


class CutError(Exception):
    """Plays the end of a process."""


def small_set(seed: int = 0) -> tuple[Features, LabelledSet]:
    g = np.random.default_rng(seed)
    labels = np.sort(g.integers(0, 25, 120))
    rows = g.standard_normal((25, 8))[labels] + g.standard_normal((120, 8))
    faces = LabelledSet(name="a set", uri="here", images=[], labels=labels, fingerprint="f")
    return Features(rows=rows.astype(np.float32), origin="drawn"), faces


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(pair_counts, "_TILE", (16, 32))
    monkeypatch.setattr(pair_people, "_TILE", (16, 32))
    monkeypatch.setitem(Bookmark.__init__.__kwdefaults__, "every_s", 0.0)


def calls(tmp_path) -> int:
    seen = []
    judge_all_pairs(
        *small_set(), bootstrap=20, keep=tmp_path, progress=lambda done, total: seen.append((done, total))
    )
    return len(seen)


def test_a_count_cut_off_anywhere_goes_on_to_the_same_figures(small_tiles, tmp_path):
    whole = judge_all_pairs(*small_set(), bootstrap=20)
    total = calls(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for cut in range(1, total, 11):
        seen = []

        def stop(done: int, of: int, cut: int = cut, seen: list[int] = seen) -> None:
            seen.append(done)
            if len(seen) == cut:
                raise CutError

        with pytest.raises(CutError):
            judge_all_pairs(*small_set(), bootstrap=20, keep=tmp_path, progress=stop)
        after = []
        again = judge_all_pairs(
            *small_set(),
            bootstrap=20,
            keep=tmp_path,
            progress=lambda done, of, after=after: after.append(done),
        )
        assert again.to_json() == whole.to_json()
        assert len(after) == total - cut  # nothing is counted twice, nothing left out
        assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_a_count_that_another_goes_on_with(small_tiles, tmp_path):
    code = SET + (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.unit.evaluation.test_bookmark import judge_all_pairs, small_set\n"
        "kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 25 else None\n"
        "judge_all_pairs(*small_set(), bootstrap=20, keep=Path(sys.argv[1]), progress=kill)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir())
    done = []
    again = judge_all_pairs(
        *small_set(), bootstrap=20, keep=tmp_path, progress=lambda at, total: done.append(at)
    )
    assert done[0] == 26
    assert again.to_json() == judge_all_pairs(*small_set(), bootstrap=20).to_json()


@pytest.mark.parametrize("damage", [b"", b"no table", None])
def test_a_damaged_bookmark_is_counted_anew(small_tiles, tmp_path, damage):
    mark, sums = Bookmark(tmp_path, [np.arange(3)]), {"sums": np.arange(4)}
    mark.step("pass0", sums, 2, 9)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5] if damage is None else damage)
    fresh = {"sums": np.zeros(4, np.int64)}
    assert mark.open("pass0", fresh) == 0
    assert not fresh["sums"].any()


def test_another_set_does_not_go_on_with_it(small_tiles, tmp_path):
    sums = {"sums": np.arange(4)}
    Bookmark(tmp_path, [np.arange(3)]).step("pass0", sums, 2, 9)
    assert Bookmark(tmp_path, [np.arange(1, 4)]).open("pass0", {"sums": np.zeros(4, np.int64)}) == 0
    assert Bookmark(tmp_path, [np.arange(3)]).open("pass0", {"sums": np.zeros(4, np.int64)}) == 2


def test_a_folder_that_cannot_be_written_is_one_line(small_tiles, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        judge_all_pairs(*small_set(), bootstrap=0, keep=tmp_path / "file")
