"""Float32 products on the CPU by whichever of torch's two libraries is faster here, where both are exact."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from topoface.functional.compiled import in_memory

_LOCK = threading.Lock()
_inside = 0
_setting_before = "highest"
MOST_ERROR = 1e-6  # of a cosine; rounding to bfloat16, which the setting allows, makes one of 1e-3


@contextmanager
def fast_products(like: Tensor) -> Iterator[None]:
    """Inside, float32 products of tensors like the given one go to oneDNN if a probe found it faster on this processor and as exact as MKL.

    torch's "medium" precision sends them there, and permits bfloat16, which oneDNN uses on processors with matrix units: those fail the
    probe. The setting is the process's; it is put back at the end. On accelerators nothing changes.
    """
    global _inside, _setting_before
    if not in_memory(like) or not _faster():
        yield
        return
    with _LOCK:
        if _inside == 0:
            _setting_before = torch.get_float32_matmul_precision()
            if _setting_before == "highest":
                torch.set_float32_matmul_precision("medium")
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                torch.set_float32_matmul_precision(_setting_before)


@cache
def _faster() -> bool:
    """Whether "medium" is at least a tenth faster than "highest" and exact, on a small product of unit rows."""
    if torch.cuda.is_available():  # there the setting stands for another trade
        return False
    random = torch.Generator().manual_seed(0)
    rows, centers = (
        torch.nn.functional.normalize(torch.randn(n, 512, generator=random)) for n in (128, 1024)
    )
    exact, before = rows.double() @ centers.double().T, torch.get_float32_matmul_precision()
    best: dict[str, float] = {}
    error: dict[str, float] = {}
    with torch.no_grad():
        for _ in range(5):
            for name in ("highest", "medium"):
                torch.set_float32_matmul_precision(name)
                start = time.thread_time()
                found = rows @ centers.T
                best[name] = min(best.get(name, 1.0), time.thread_time() - start)
                error[name] = float((found - exact).abs().max())
    torch.set_float32_matmul_precision(before)
    return error["medium"] < MOST_ERROR and best["medium"] < 0.9 * best["highest"]
