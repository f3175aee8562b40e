"""Checkpoints on disk: a folder a step, a safetensors file of each process, and a manifest that is renamed into place last.

Nothing is pickled and nothing is gathered: a process writes the rows that it holds and reads the rows that it needs, whatever number
of processes wrote them. `torch.distributed.checkpoint` was tried and measured (docs/scale.md): its own format keeps a pickle, and its
safetensors writer copies each shard into one more buffer under the interpreter's lock, leaves no manifest and warns without a process group.
"""

import errno
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from topoface.errors import UserError
from topoface.files import sync, write_text
from topoface.functional.collectives import rank, world_size
from topoface.training.distributed import gather_objects

Facts = dict[str, Any]
Part = tuple[str, str]
"""File name in the folder, and its sha256."""
_MANIFEST = "manifest.json"
_NAME = re.compile(r"step_(\d{9})")
_FIRST_ROWS = "first_rows"  # in the header of a part: where in the whole table its rows begin


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step_{step:09d}"


def checkpoints(folder: Path) -> list[Path]:
    """Folders of finished checkpoints, oldest first."""
    return sorted(
        path for path in folder.glob("step_*") if _NAME.fullmatch(path.name) and (path / _MANIFEST).is_file()
    )


def write_part(path: Path, tensors: Mapping[str, Tensor], first_rows: Mapping[str, int]) -> Part:
    """Write what one process holds into the checkpoint folder ``path``, down to the disk, under a name never used before.

    Args:
        path: folder of the step; made if it is not there.
        tensors: contiguous, on the CPU; of a table that is cut the rows of this process.
        first_rows: of the tables that are cut, where these rows begin.

    Raises:
        UserError: the disk is full or cannot be written; no file is left behind.
    """
    file = path / f"part_{rank():05d}_{secrets.token_hex(4)}.safetensors"
    try:
        path.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), file, {_FIRST_ROWS: json.dumps(dict(first_rows))})
        sync(file)
        return file.name, _digest(file)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            file.unlink()
        raise _unwritable(path, error) from error


def finish(
    path: Path, facts: Facts, parts: Sequence[Part], *, keep_last: int, came_from: Path | None = None
) -> None:
    """Make the parts in ``path`` a checkpoint by renaming its manifest into place, then delete what is not needed any more.

    Args:
        path: folder of the step.
        facts: plain values; see :func:`topoface.training.state.facts_of`.
        parts: of all processes.
        keep_last: checkpoints left; unfinished ones go too, and those after ``came_from``: the run passed them over as damaged and
            made its steps anew, so they must neither be resumed from nor take the place of a sound one.
        came_from: the checkpoint that the run wrote or was restored from before this one; if not given, ``path``.

    Raises:
        UserError: a part of another process is not there, or the manifest cannot be written.
    """
    for name, _ in parts:
        if not (path / name).is_file():
            raise UserError(
                f"{name} of another process is not there",
                f"checkpoint {path}",
                "put --run-dir on a disk that all machines share",
            )
    content = json.dumps({"facts": facts, "parts": dict(parts)})
    checksum = hashlib.sha256(content.encode()).hexdigest()
    write_text(path / _MANIFEST, f"{checksum}\n{content}\n")
    names = {_MANIFEST, *(name for name, _ in parts)}
    try:
        sync(path.parent)  # the name of the folder; those in it are on the disk as the manifest is
        for left_over in path.iterdir():  # by an attempt that was killed
            if left_over.name not in names:
                left_over.unlink()
        before = [old for old in checkpoints(path.parent) if old <= (came_from or path) and old != path]
        kept = [path, *before[::-1][: keep_last - 1]]
        for old in path.parent.glob("step_*"):
            if _NAME.fullmatch(old.name) and old not in kept:
                (old / _MANIFEST).unlink(missing_ok=True)  # first: half a folder is no checkpoint then
                shutil.rmtree(old)
    except OSError as error:
        raise _unwritable(path, error) from error


class Checkpoint:
    """A finished checkpoint, opened: rows are read when asked for.

    Args:
        path: folder of the step.

    Attributes:
        facts: the plain values saved with it.
        shapes: of each tensor; tables that were cut have their rows in all.

    Raises:
        UserError: the manifest or the head of a part is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            checksum, content = (path / _MANIFEST).read_text(encoding="utf-8").split("\n")[:2]
            if hashlib.sha256(content.encode()).hexdigest() != checksum:
                raise _damaged(path, f"{_MANIFEST} differs from its checksum")
            manifest = json.loads(content)
            self.facts: Facts = manifest["facts"]
            self.parts: dict[str, str] = manifest["parts"]
            self._files: dict[str, Any] = {name: safe_open(path / name, "pt") for name in self.parts}
            self._read_heads()
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from error

    def _read_heads(self) -> None:
        """Where the rows of each tensor lie. The parts are not compared with their checksums yet: anything may stand there."""
        self._pieces: dict[str, list[tuple[int, str, list[int]]]] = {}
        for file, opened in self._files.items():
            first_rows = json.loads(opened.metadata()[_FIRST_ROWS])
            for name in opened.keys():  # noqa: SIM118
                shape = opened.get_slice(name).get_shape()
                self._pieces.setdefault(name, []).append((first_rows.get(name, 0), file, shape))
        self.shapes = {
            name: torch.Size([max(first + shape[0] for first, _, shape in pieces), *pieces[0][2][1:]])
            if pieces[0][2]
            else torch.Size([])
            for name, pieces in self._pieces.items()
        }

    def check(self, *, share: int = 0, shares: int = 1) -> None:
        """Compare every ``shares``-th part with its checksum, from ``share`` on.

        Raises:
            UserError: one differs or cannot be read.
        """
        for name, checksum in list(self.parts.items())[share::shares]:
            try:
                if _digest(self.path / name) != checksum:
                    raise _damaged(self.path, f"{name} differs from its checksum")
            except OSError as error:
                raise _damaged(self.path, f"{name}: {error.strerror}") from error

    @torch.no_grad()
    def read_into(self, target: Tensor, name: str, first: int = 0) -> None:
        """Fill ``target`` in place with the rows of a tensor from ``first`` on; of a scalar with the scalar."""
        for begin, file, shape in self._pieces[name]:
            opened = self._files[file]
            if not shape:
                target.copy_(opened.get_tensor(name))
                continue
            start, stop = max(first, begin), min(first + len(target), begin + shape[0])
            if start < stop:
                rows = opened.get_slice(name)[start - begin : stop - begin]
                target[start - first : stop - first].copy_(rows)

    def tensor(self, name: str) -> Tensor:
        """A tensor, all rows of it."""
        rows = [self._files[file].get_tensor(name) for _, file, _ in sorted(self._pieces[name])]
        return rows[0] if len(rows) == 1 else torch.cat(rows)


def load_newest(folder: Path, say: Callable[[str], None]) -> Facts | None:
    """The newest checkpoint that is undamaged with all its tensors whole, or None if there is none at all; for one process.

    Args:
        folder: of the checkpoints.
        say: told about each damaged checkpoint that is passed over.

    Returns:
        The facts, and under ``model``, ``head``, ``methods`` and ``optimizer`` their tensors by name.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    found = newest(folder, say)
    if found is None:
        return None
    state: dict[str, Any] = {"model": {}, "head": {}, "methods": {}, "optimizer": {}}
    for name in found.shapes:
        part, _, rest = name.partition(".")
        state[part][rest] = found.tensor(name)
    return {**found.facts, **state}


def newest(
    folder: Path, say: Callable[[str], None], *, not_after: int | None = None, group: Any = None
) -> Checkpoint | None:
    """The newest checkpoint that is undamaged, opened, or None if there is none at all; all processes ask together.

    Args:
        folder: of the checkpoints.
        say: told about each damaged checkpoint that is passed over.
        not_after: leave out those of later steps.
        group: for :func:`gather_objects`.

    Raises:
        UserError: there are checkpoints, and all are damaged, or of an earlier version.
    """
    found: list[Path] = gather_objects(checkpoints(folder), group)[0]
    if not_after is not None:
        found = [path for path in found if path <= step_folder(folder, not_after)]
    for path in reversed(found):
        opened, complaint = None, None
        try:
            opened = Checkpoint(path)
            opened.check(share=rank(), shares=world_size())
        except UserError as error:
            complaint = str(error)
        complaints = [text for text in gather_objects(complaint, group) if text]
        if not complaints:
            return opened
        say(complaints[0])
    if found:
        raise UserError(
            "no checkpoint can be used (see above)",
            str(folder),
            "restore a copy, or train into another --run-dir",
        )
    former = sorted(folder.glob("step_*.pt"))
    if former:
        raise UserError(
            "was written by an earlier topoface, in a form that is no longer read",
            str(former[-1]),
            "go on with the topoface that wrote it (its version stands in the run's manifest), or train into another --run-dir",
        )
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, how: str) -> UserError:
    return UserError(f"is damaged ({how})", f"checkpoint {path}", "the one before it is tried")


def _unwritable(path: Path, error: Exception) -> UserError:
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
    full = number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in reason or _is_full(path.parent)
    return UserError(
        f"cannot be written: {'the disk is full' if full else reason}",
        f"checkpoint {path}",
        "make room or choose another --run-dir; the checkpoints before it are intact",
    )


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < 2**20
    except OSError:
        return False
