"""Loops that numba compiles (the extra ``fast``), and which tensors they can read.

A loop stands beside the tensor or array operations that do the same for accelerators, for traces and where numba is absent.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def compiled(
    loops: Callable[..., Any], *parts: Callable[..., Any], fused: bool = False
) -> Callable[..., Any] | None:
    """A function of NumPy arrays, compiled and kept on disk, that runs without the interpreter's lock.

    Sums are taken in any order, which lets the compiler use vector instructions. NaN and infinity stay what they are, and a
    division by zero gives them.

    Args:
        loops: what to compile.
        parts: functions that it calls.
        fused: products may be added without being rounded. Then a b - a b need not be 0.

    Returns:
        The compiled function; None where numba is absent.
    """
    try:
        from numba import njit
        from numba.extending import register_jitable
    except ImportError:
        return None
    for part in parts:
        register_jitable(part)
    freedom = {"reassoc", "nsz", "contract"} if fused else {"reassoc", "nsz"}
    function: Callable[..., Any] = njit(cache=True, nogil=True, error_model="numpy", fastmath=freedom)(loops)
    return function


def in_memory(*tensors: Tensor) -> bool:
    """Whether loops can read the tensors: they lie on the CPU and have values, which those of a trace have not."""
    plain = all(type(tensor) in (Tensor, torch.nn.Parameter) and tensor.is_cpu for tensor in tensors)
    return plain and not torch.compiler.is_compiling()
