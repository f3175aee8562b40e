"""A folder of arrays is whole or not there, also after a kill; what has changed in it is found out by name."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from topoface.codes.folder import open_folder, write_folder
from topoface.errors import UserError

ARRAYS = {"a": np.arange(5), "b": np.ones((3, 2))}

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from topoface.codes import folder

save = folder._write_array
def write(file, array):
    if file.name == "b.npy":
        file.write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    return save(file, array)
folder._write_array = write
folder.write_folder(Path(sys.argv[1]), {"a": np.arange(5), "b": np.ones((3, 2))}, {})
"""


def test_a_kill_leaves_no_half_folder_and_the_next_one_clears_away_what_it_left(tmp_path: Path) -> None:
    out = tmp_path / "codes"
    for _ in range(2):  # the second time it finds what the first kill has left
        ended = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False, timeout=60)
        assert ended.returncode == -signal.SIGKILL
        assert [path.name for path in tmp_path.iterdir()] == ["codes.partial"]
    with pytest.raises(UserError, match="is no code table"):
        open_folder(out)
    write_folder(out, ARRAYS, {"fact": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]
    found = open_folder(out)
    assert (found.array("b") == 1).all()
    found.verify()


def test_a_folder_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    partial = tmp_path / "codes.partial"
    partial.mkdir()
    (partial / "a.npy").write_bytes(b"half of it")
    held = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="codes: is being written by another process"):
            write_folder(tmp_path / "codes", ARRAYS, {})
        assert (partial / "a.npy").read_bytes() == b"half of it"
    finally:
        os.close(held)
    write_folder(tmp_path / "codes", ARRAYS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["codes"]


def test_a_file_system_without_locks_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_folder(tmp_path / "one", ARRAYS, {})
    monkeypatch.setitem(sys.modules, "fcntl", None)
    write_folder(tmp_path / "two", ARRAYS, {})
    assert open_folder(tmp_path / "one").digest == open_folder(tmp_path / "two").digest


def test_only_the_arrays_that_are_named_are_verified(tmp_path: Path) -> None:
    write_folder(tmp_path / "codes", ARRAYS, {})
    found, file = open_folder(tmp_path / "codes"), tmp_path / "codes" / "b.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    found.verify("a")
    for names in (("b",), ("a", "b"), ()):
        with pytest.raises(UserError, match=r"b\.npy: has changed"):
            found.verify(*names)
    file.unlink()
    with pytest.raises(UserError, match=r"b\.npy: cannot be read"):
        found.verify()
