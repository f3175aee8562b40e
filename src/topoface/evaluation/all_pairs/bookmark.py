"""Where a count of hours stands, kept on disk: one that was cut off goes on from there, to the same figures."""

import hashlib
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from topoface.errors import UserError
from topoface.files import write_bytes

Sums = Mapping[str, NDArray[Any]]
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Bookmark:
    """Sums of a work of several stages, each a fixed row of steps.

    The name of the files is a hash of what is counted and of what decides how products are rounded (machine, NumPy, threads): a
    count that goes on elsewhere starts anew.

    Args:
        folder: where the files lie; made if need be.
        content: all that decides about the sums.
        every_s: seconds between writes.
    """

    def __init__(self, folder: Path, content: Sequence[NDArray[Any]], *, every_s: float = 20.0) -> None:
        around = [
            platform.node(),
            platform.machine(),
            np.__version__,
            *map(str, map(os.environ.get, _THREADS)),
        ]
        digest = hashlib.sha256(repr(around).encode())
        for part in content:
            digest.update(np.ascontiguousarray(part).data)
        self._base = folder / f"{digest.hexdigest()[:32]}.count"
        self._every_s = every_s
        self._written = time.monotonic()

    def open(self, stage: str, sums: Sums) -> int:
        """Fill the sums in place with what was kept of a stage; how many of its steps are in them, 0 where nothing was kept."""
        try:
            with safe_open(str(self._file(stage)), framework="np") as file:
                kept = {name: file.get_tensor(name) for name in sums}
                done = int(file.metadata()["done"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return 0
        if any((kept[n].shape, kept[n].dtype) != (s.shape, s.dtype) for n, s in sums.items()):
            return 0
        for name, values in sums.items():
            values[...] = kept[name]
        return done

    def step(self, stage: str, sums: Sums, done: int, total: int) -> None:
        """Keep the sums after ``done`` of ``total`` steps, if the last time is long enough ago or these were all.

        Raises:
            UserError: the folder cannot be made, or the file not be written.
        """
        if done < total and time.monotonic() - self._written < self._every_s:
            return
        folder = self._base.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot be made ({error.strerror})", str(folder), "name another --cache"
            ) from error
        write_bytes(self._file(stage), save(dict(sums), {"done": str(done)}))
        self._written = time.monotonic()

    def close(self) -> None:
        """Remove the files: the work is done."""
        for file in self._base.parent.glob(f"{self._base.name}.*"):
            file.unlink(missing_ok=True)

    def _file(self, stage: str) -> Path:
        return self._base.with_name(f"{self._base.name}.{stage}")
