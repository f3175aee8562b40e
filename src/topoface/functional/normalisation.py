"""Batch normalisation and the activation behind it as one node of the graph, in compiled loops: half of a small network's step goes there.

Beside it stands torch's own normalisation and activation, which do the same where the loops cannot.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.functional.collectives import gather_rows, sum_over_ranks
from topoface.functional.compiled import compiled, in_memory
from topoface.functional.normalisation_loops import (
    apply_loops,
    gradient_sum_loops,
    input_gradient_loops,
    moment_loops,
)

_WIDE = 128  # values in a row of the loops, about: enough for vector instructions, few enough to stay in registers
_WORTH_A_THREAD = 2**16  # values: below that handing over costs more than it saves


class Normalised(NamedTuple):
    """What :func:`normalise` returns: the result, and the statistics of the batch, which carry no gradient.

    ``mean`` and ``variance`` (without Bessel's correction) are float64 ``[C]``; ``values`` is how many lie behind each.
    """

    out: Tensor
    mean: Tensor
    variance: Tensor
    values: int


def loops_can_normalise(x: Tensor) -> bool:
    """Whether :func:`normalise` takes this input: float32 or float64 ``[n, C, H, W]``, channels last, on the CPU; and numba is there.

    The answer does not depend on n, so that processes with different numbers of rows agree on it.
    """
    if torch.compiler.is_compiling() or not in_memory(x):
        return False
    fits = x.ndim == 4 and x.dtype in (torch.float32, torch.float64) and x.shape[1:].numel() > 0
    laid_out = fits and (len(x) == 0 or x.is_contiguous(memory_format=torch.channels_last))
    return laid_out and compiled(apply_loops, fused=True) is not None


def normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    slope: Tensor | None,
    *,
    eps: float,
    over_ranks: bool = False,
) -> Normalised:
    """Batch normalisation by the batch's own statistics, then a leaky activation, both differentiable.

    Only ``x`` is kept for backward, where torch keeps the input of the activation too. Sums are taken in the input's precision
    within an image and in float64 over the images.

    Args:
        x: ``[n, C, H, W]``, see :func:`loops_can_normalise`.
        weight: ``[C]`` or None for ones.
        bias: ``[C]`` or None for zeros.
        slope: what values that are not positive are multiplied by, ``[C]``: 0 is ReLU, a parameter PReLU; None for no activation.
        eps: added to the variance.
        over_ranks: statistics of the rows of all processes, of which one may have none.
    """
    out, mean, variance, count = _Normalise.apply(x, weight, bias, slope, eps, over_ranks)  # type: ignore[no-untyped-call]
    return Normalised(out, mean, variance, int(count))


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        slope: Tensor | None,
        eps: float,
        over_ranks: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = _rows(x)
        means, squares = np.empty((2, len(rows), rows.shape[2]), rows.dtype)
        _run(moment_loops, rows, means, squares)
        mean, variance, count = _combined(means, squares, x, over_ranks)
        inverse = 1 / np.sqrt(variance + eps)
        zeros, ones = np.zeros_like(mean), np.ones_like(mean)
        gain = inverse if weight is None else inverse * weight.detach().numpy()
        of_channels = [mean, gain, zeros if bias is None else bias, ones if slope is None else slope]
        constants = _repeated(of_channels, rows)
        out = torch.empty_like(x, memory_format=torch.channels_last)
        _run(apply_loops, rows, _rows(out), *constants)
        ctx.save_for_backward(x)
        ctx.constants, ctx.inverse, ctx.count, ctx.over_ranks = constants, inverse, count, over_ranks
        ctx.dtypes = [None if given is None else given.dtype for given in (weight, bias, slope)]
        statistics = torch.from_numpy(mean), torch.from_numpy(variance), torch.tensor(count)
        ctx.mark_non_differentiable(*statistics)
        return out, *statistics

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        rows, given = _rows(x), _rows(gradient.contiguous(memory_format=torch.channels_last))
        parts = np.empty((len(rows), 3, rows.shape[2]), rows.dtype)
        _run(gradient_sum_loops, rows, given, *ctx.constants, parts)
        sums = parts.sum(0, dtype=np.float64).reshape(3, -1, x.shape[1]).sum(1)
        plain, with_x = sum_over_ranks(torch.from_numpy(sums[:2])).numpy() if ctx.over_ranks else sums[:2]
        of_batch = _repeated([plain / ctx.count, with_x * ctx.inverse**2 / ctx.count], rows)
        of_x = torch.empty_like(x, memory_format=torch.channels_last)
        _run(input_gradient_loops, rows, given, _rows(of_x), *ctx.constants, *of_batch)
        of_parameters = zip((sums[1] * ctx.inverse, sums[0], sums[2]), ctx.dtypes, strict=True)
        return (
            of_x,
            *(None if dtype is None else torch.from_numpy(value).to(dtype) for value, dtype in of_parameters),
            None,
            None,
        )


def _rows(x: Tensor) -> NDArray[Any]:
    """The memory of channels-last images as ``[n, P, W]``, a row of several pixels where a pixel has few channels."""
    n, channels, height, width = x.shape
    pixels = math.gcd(height * width, max(1, _WIDE // channels))
    flat = x.detach().permute(0, 2, 3, 1).reshape(n, height * width // pixels, pixels * channels)
    array: NDArray[Any] = flat.numpy()
    return array


def _repeated(of_channels: list[Any], rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Values of each channel in the loops' precision, once for each pixel of a row."""
    values = [v.detach().numpy() if isinstance(v, Tensor) else v for v in of_channels]
    return list(np.tile(np.array(values, rows.dtype), rows.shape[2] // len(values[0])))


def _combined(
    means: NDArray[Any], squares: NDArray[Any], x: Tensor, over_ranks: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean, variance and count of all images from those of each (Chan, Golub and LeVeque 1983, equation 2.1), in float64."""
    parts = means.astype(np.float64).reshape(-1, x.shape[1])  # an image's row holds some pixels
    within = squares.sum(0, dtype=np.float64).reshape(-1, x.shape[1]).sum(0)
    counts = np.full((len(parts), 1), x.shape[2:].numel() * len(x) / max(len(parts), 1))
    if over_ranks:
        mean, square, count = _joined(parts, within, counts)
        own = torch.from_numpy(np.concatenate([mean, square, [count]]))
        ranks = gather_rows(own[None]).numpy()
        parts, counts = ranks[:, : x.shape[1]], ranks[:, -1:]
        within = ranks[:, x.shape[1] : -1].sum(0)
    mean, square, count = _joined(parts, within, counts)
    return mean, square / max(count, 1), count


def _joined(
    means: NDArray[np.float64], within: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean, sum of squares around it, and count of all parts together."""
    count = float(counts.sum())
    mean = (counts * means).sum(0) / max(count, 1)
    return mean, within + (counts * (means - mean) ** 2).sum(0), count


def _run(loops: Callable[..., Any], *arrays: NDArray[Any]) -> None:
    """The loops over all images, shared out among as many threads as torch uses."""
    function = compiled(loops, fused=True)
    assert function is not None
    images = len(arrays[0])
    threads = max(1, min(torch.get_num_threads(), images, arrays[0].size // _WORTH_A_THREAD))
    bounds = [images * part // threads for part in range(threads + 1)]
    first, *others = pairwise(bounds)
    waiting = [_pool(torch.get_num_threads()).submit(function, *arrays, *share) for share in others]
    function(*arrays, *first)
    for other in waiting:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="topoface-loops")
