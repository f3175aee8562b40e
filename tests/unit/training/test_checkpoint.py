"""Checkpoints as files: what lies on the disk when, which are kept, and that no damage is read or ends in a traceback."""

import errno
import itertools
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.training.tiny import tiny_recipe
from topoface.errors import UserError
from topoface.files import write_text
from topoface.training import saving
from topoface.training.checkpoint import Checkpoint, checkpoints, finish, newest, step_folder, write_part
from topoface.training.run import build_run
from topoface.training.saving import Saver


def write(folder: Path, step: int, keep_last: int = 3) -> Path:
    """A small checkpoint, as one process writes it."""
    path = step_folder(folder, step)
    tensors = {"head.weight": torch.randn(4, 3), "model.bias": torch.randn(3)}
    finish(path, {"step": step}, [write_part(path, tensors, {"head.weight": 0})], keep_last=keep_last)
    return path


def damage(checkpoint: Path) -> None:
    """Turn a bit of the tensors over."""
    (part,) = checkpoint.glob("part_*")
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)


def steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in checkpoints(folder)]


def test_a_table_cut_in_any_way_is_read_in_any_way(tmp_path: Path) -> None:
    """Uneven and empty parts, scalars, and rows that lie across several parts."""
    table = torch.randn(7, 3)
    parts = []
    for first, stop in ((0, 3), (3, 6), (6, 7), (7, 7)):
        tensors = {"head.table": table[first:stop].clone()}
        if first == 0:
            tensors["head.scalar"] = torch.tensor(2.5)
        parts.append(write_part(tmp_path / "step_000000001", tensors, {"head.table": first}))
    finish(tmp_path / "step_000000001", {"step": 1}, parts, keep_last=1)
    opened = Checkpoint(tmp_path / "step_000000001")
    opened.check()
    assert opened.shapes == {"head.table": (7, 3), "head.scalar": ()}
    assert opened.tensor("head.table").equal(table)
    for first, stop in itertools.combinations_with_replacement(range(8), 2):
        target = torch.full((stop - first, 3), torch.nan)
        opened.read_into(target, "head.table", first)
        assert target.equal(table[first:stop])
    scalar = torch.zeros(())
    opened.read_into(scalar, "head.scalar")
    assert scalar == 2.5


def test_bits_turned_over_in_any_byte_of_the_header_of_a_part_let_the_one_before_be_taken(
    tmp_path: Path,
) -> None:
    write(tmp_path, 1)
    (part,) = write(tmp_path, 2).glob("part_*")
    sound = part.read_bytes()
    for place in range(8 + int.from_bytes(sound[:8], "little")):
        for bit in (0, 1, 2, 5):
            content = bytearray(sound)
            content[place] ^= 1 << bit
            part.write_bytes(content)
            said: list[str] = []
            found = newest(tmp_path, said.append)
            assert found is not None
            assert found.facts["step"] == 1, (place, bit)
            assert "step_000000002: is damaged" in said[0]


def test_what_a_later_step_left_neither_stays_nor_pushes_out_what_is_sound(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        write(tmp_path, step)
    assert steps(tmp_path) == [20, 30, 40]
    for step in (30, 40):
        damage(step_folder(tmp_path, step))
    for step, kept in ((25, [20, 25]), (26, [20, 25, 26]), (27, [25, 26, 27])):
        write(tmp_path, step)
        assert steps(tmp_path) == kept


@pytest.mark.parametrize("next_step", [5, 6, 9])
def test_a_resumed_run_keeps_what_it_was_restored_from_and_drops_what_it_passed_over(
    next_step: int, tmp_path: Path
) -> None:
    """Whether its next checkpoint lies before those, on one, or behind them, as with another checkpoint_every."""
    for step in (2, 4, 6, 8):
        write(tmp_path, step, keep_last=9)
    damage(step_folder(tmp_path, 6))
    damage(step_folder(tmp_path, 8))
    run = build_run(tiny_recipe(methods=[]), torch.device("cpu"))
    with Saver(tmp_path, keep_last=2) as saver:
        restored = saver.newest(lambda _: None)
        assert restored is not None
        assert restored.facts["step"] == 4
        for run.step, kept in ((next_step, [4, next_step]), (next_step + 1, [next_step, next_step + 1])):
            saver.save(run)
            saver.wait()
            assert steps(tmp_path) == kept


def test_a_single_checkpoint_kept_is_the_one_just_written(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step, keep_last=1)
        assert steps(tmp_path) == [step]


def test_content_and_names_are_on_the_disk_before_anything_older_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that forgets at a power cut all that was not synced: what was renamed or deleted meanwhile must not need it."""
    old = write(tmp_path, 1, keep_last=1)
    synced: list[int] = []  # inodes, in order
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def noted_fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def checked_replace(self: Path, target: Path) -> Path:
        assert self.stat().st_ino in synced
        synced.append(-1)
        return replace(self, target)

    def checked_unlink(self: Path, missing_ok: bool = False) -> None:
        if self.parent == old:
            new = step_folder(tmp_path, 2)
            renamed = synced.index(-1)
            assert {file.stat().st_ino for file in new.iterdir()} <= set(synced[:renamed])
            assert new.stat().st_ino in synced[renamed:]
            assert tmp_path.stat().st_ino in synced[renamed:]
        unlink(self, missing_ok)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", checked_replace)
    monkeypatch.setattr(Path, "unlink", checked_unlink)
    write(tmp_path, 2, keep_last=1)
    assert steps(tmp_path) == [2]


def test_a_file_system_that_cannot_sync_folders_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refusing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    write(tmp_path, 1)
    assert steps(tmp_path) == [1]


def test_a_disk_that_does_not_take_a_file_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "figures", "before")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_text(tmp_path / "figures", "after")
    assert (tmp_path / "figures").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_the_watch_is_told_whenever_a_process_waits_for_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()

    @contextmanager
    def waiting() -> Iterator[None]:
        may_end.set()
        yield

    def slow(*arguments: Any) -> Any:
        assert may_end.wait(60)
        may_end.clear()
        return write_part(*arguments)

    monkeypatch.setattr(saving, "write_part", slow)
    run = build_run(tiny_recipe(methods=[]), torch.device("cpu"))
    with Saver(tmp_path, keep_last=2, waiting=waiting) as saver:
        for run.step in (1, 2):
            saver.save(run)
    assert steps(tmp_path) == [1, 2]
