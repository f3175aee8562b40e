"""Checkpoints: written beside and renamed, checked by a checksum, read without executing anything."""

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from topoface.errors import UserError
from topoface.files import write_text

State = dict[str, Any]
_NAME = re.compile(r"step_(\d{9})\.pt")


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], *, keep_last: int) -> Path:
    """Write ``folder/step_NNNNNNNNN.pt`` and its ``.sha256``, then delete all but the newest ``keep_last``.

    The checksum is renamed into place before the file that it is for, so a checkpoint that has its final
    name is whole; a crash at any moment leaves at most files ending in ``.partial``.

    Raises:
        UserError: the disk is full or not writable; no partial file is left behind.
    """
    path = folder / f"step_{step:09d}.pt"
    partial = path.with_suffix(".pt.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        write_text(path.with_suffix(".sha256"), _digest(partial))
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch turns a failed write into a RuntimeError about positions
        full = getattr(error, "errno", None) == errno.ENOSPC or _is_full(folder)
        with suppress(OSError):
            partial.unlink()
        reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise UserError(
            f"cannot be written: {reason}",
            f"checkpoint {path}",
            "make room or choose another --run-dir; the checkpoints before it are intact",
        ) from error
    for old in checkpoints(folder)[:-keep_last]:
        old.unlink()
        old.with_suffix(".sha256").unlink(missing_ok=True)
    return path


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < 2**20
    except OSError:
        return False


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*.pt") if _NAME.fullmatch(path.name))


def load_newest(folder: Path, say: Callable[[str], None]) -> State | None:
    """The newest checkpoint that is undamaged, or None if there is none at all.

    Args:
        folder: of the checkpoints.
        say: told about each damaged checkpoint that is passed over.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return _load(path)
        except UserError as error:
            say(f"{error}")
    if found:
        raise UserError(
            "no checkpoint can be used (see above)",
            str(folder),
            "restore a copy, or train into another --run-dir",
        )
    return None


def _load(path: Path) -> State:
    """Read one checkpoint; tensors and plain values only.

    Raises:
        UserError: missing checksum, wrong checksum, or not a checkpoint.
    """
    checksum = path.with_suffix(".sha256")
    if not checksum.exists():
        raise UserError(f"has no {checksum.name} beside it", f"checkpoint {path}", "copy that file too")
    try:
        if checksum.read_text(encoding="utf-8") != _digest(path):
            raise UserError(
                "is damaged (its checksum differs)", f"checkpoint {path}", "the one before it is tried"
            )
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"cannot be read ({type(error).__name__})", f"checkpoint {path}", "the one before it is tried"
        ) from error
    return state


def require_same(saved: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuse to resume a run whose recipe, class count or data differ from what the checkpoint was made with.

    Raises:
        UserError: naming the first difference with both values.
    """
    before, after = _flat(saved), _flat(now)
    for key in {**before, **after}:  # in the order of the tree, the most telling first
        if before.get(key) != after.get(key):
            raise UserError(
                f"was made with {key} = {before.get(key)!r}, this run has {after.get(key)!r}",
                where,
                "resume with the same recipe and data, or train into another --run-dir",
            )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping):
        items = ((str(key), value) for key, value in tree.items())
    elif isinstance(tree, list | tuple):
        items = ((str(index), value) for index, value in enumerate(tree))
    else:
        return {prefix: json.loads(json.dumps(tree))}
    return {
        k: v for key, value in items for k, v in _flat(value, f"{prefix}.{key}" if prefix else key).items()
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
