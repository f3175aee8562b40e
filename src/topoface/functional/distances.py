"""Pairwise distances of images (exact, in integers) and of embeddings (centred), the keys of the trees."""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.functional.compiled import compiled, in_memory
from topoface.functional.draws import generator

# |x - 128| <= 2^7, so 1024 products sum to at most 2^24: every partial sum is an integer that float32 holds.
_EXACT_COLUMNS = 1024
# int32 sums of int8 products hold up to this width: 2^17 * 2^14 = 2^31.
_INT32_COLUMNS = 2**17 - 1
# A squared distance below this many roundings of its terms is 0.
_UNRESOLVED = 16
# The grid of the mean: so much finer than the spread of the points, where that is not lost in the mean's own digits or
# in underflow, as for duplicates.
_GRID_BITS = 20
_MEAN_DIGITS = 2.0**-40
_TILE = 32
_EPSILON, _TINY = float(np.finfo(np.float64).eps), float(np.finfo(np.float64).tiny)


def pixel_squared_distances(images: Tensor) -> Tensor:
    """Squared Euclidean distances of images in grey levels, exact.

    One integer matrix product where this machine's int8 product is exact (see `int8_product_is_exact`),
    float32 products of at most 1024 columns otherwise. O(n^2 D) multiply-adds, n^2 * 8 bytes beside the pixels.

    Args:
        images: uint8 ``[n, ...]``, any layout; memory formats give the same numbers.

    Returns:
        int64 ``[n, n]``, symmetric with a zero diagonal. (112 x 112 RGB can exceed int32: all 0 against all
        255 is 2 447 020 800.)

    Raises:
        ValueError: if the images are not uint8 or not at least ``[n, D]``.
    """
    if images.dtype != torch.uint8 or images.dim() < 2:
        raise ValueError(f"expected uint8 images [n, ...], got {images.dtype} {tuple(images.shape)}")
    if images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last):
        images = images.permute(
            0, 2, 3, 1
        )  # the order of the columns is free: take the one that needs no copy
    centred = (images.flatten(1) ^ 0x80).view(torch.int8)  # x - 128 in two's complement
    gram = _integer_gram(centred)
    squares = gram.diagonal()
    return squares[:, None] + squares[None, :] - 2 * gram


def pixel_distances(squared: Tensor, values: int, *, norm: str = "pixel_range") -> Tensor:
    """Source distances in the unit that `structure_loss` expects for a normalisation.

    Args:
        squared: int64 ``[n, n]``, from `pixel_squared_distances`.
        values: numbers in one image, D = channels * height * width.
        norm: ``none`` measures images in [-1, 1]; every other name measures in ``pixel_range``, i.e. divides
            by 255 sqrt(D), the largest distance there is, so that lengths lie in [0, 1].

    Returns:
        float32 ``[n, n]``, correctly rounded.
    """
    unit = 127.5 if norm == "none" else 255.0 * math.sqrt(values)
    return (squared.double().sqrt() / unit).float()


def squared_distances(points: Tensor) -> Tensor:
    """Squared Euclidean distances of points, as keys for a tree; no gradient.

    The Gram matrix of the centred points in float64: without centring, nearly equal embeddings lose all
    digits, and float64 is untouched by autocast and TF32 and costs 0.1 ms more at n = 128. What the
    subtraction cannot resolve is set to +0.0, so duplicates are exact ties (and no -0.0 is left, whose bits sort first).

    Args:
        points: float ``[n, D]``; half types are measured in float32.

    Returns:
        ``[n, n]``, float64 for float64 points and float32 otherwise, zero diagonal. NaN or infinite points
        give NaN distances.
    """
    return _keys(points, directions=False)[0]


def squared_chords(points: Tensor) -> tuple[Tensor, Tensor]:
    """`squared_distances` of the directions of points, and the `unit_factors` that make them."""
    return _keys(points, directions=True)


def unit_factors(points: Tensor) -> Tensor:
    """``[n]``: what points ``[n, D]`` are multiplied by to give their directions; 1 for a point at zero. No gradient."""
    lengths = torch.linalg.vector_norm(points.detach(), dim=1)
    return torch.where(lengths > 0, lengths, 1.0).reciprocal()


def _keys(points: Tensor, *, directions: bool) -> tuple[Tensor, Tensor]:
    """Squared distances ``[n, n]`` of points or of their directions, and the factors ``[n]`` that make these; or ones."""
    points = points.detach().to(torch.promote_types(points.dtype, torch.float32))
    centre, finish = compiled(_centred_loops), compiled(_squared_loops)
    if centre is None or finish is None or not in_memory(points):
        factors = unit_factors(points) if directions else points.new_ones(len(points))
        return _squared_distances(points * factors[:, None]), factors
    centred, scale = centre(points.contiguous().numpy(), directions)
    wide = torch.from_numpy(centred)
    gram = wide @ wide.T
    return torch.from_numpy(finish(gram.numpy(), scale)), torch.from_numpy(scale)


def _squared_distances(points: Tensor) -> Tensor:
    """The same in tensor operations."""
    # Apple's devices have no float64
    wide = points.to(torch.float32 if points.device.type == "mps" else torch.float64)
    wide = wide - _coarse_mean(wide)
    gram = wide @ wide.T
    squares = gram.diagonal()
    sums = squares[:, None] + squares[None, :]
    squared = sums - 2 * gram
    squared.masked_fill_(squared <= _UNRESOLVED * torch.finfo(wide.dtype).eps * sums, 0.0)
    squared.fill_diagonal_(0.0)
    return squared.to(points.dtype)


def _centred_loops(rows: NDArray[Any], directions: bool) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Rows or their directions less their coarse mean, in float64, and the factors of the rows, as loops to compile."""
    n, width = rows.shape
    wide, factors = np.empty((n, width)), np.ones(n, rows.dtype)
    mean = np.zeros(width, rows.dtype)  # any point of the grid near the mean serves
    low, high = np.full(width, np.inf, rows.dtype), np.full(width, -np.inf, rows.dtype)
    for i in range(n):
        if directions:
            squares = rows.dtype.type(0)
            for c in range(width):
                squares += rows[i, c] * rows[i, c]
            if squares > 0:
                factors[i] = 1 / np.sqrt(squares)
        factor = factors[i]
        for c in range(width):
            value = rows[i, c] * factor
            mean[c] += value
            low[c], high[c] = min(low[c], value), max(high[c], value)
    spread = largest = 0.0
    for c in range(width):
        mean[c] /= n
        spread, largest = max(spread, high[c] - mean[c], mean[c] - low[c]), max(largest, abs(mean[c]))
    unit = np.exp2(
        np.floor(np.log2(max(spread, largest * _MEAN_DIGITS, _TINY * 2.0 ** (_GRID_BITS + 1)))) - _GRID_BITS
    )
    for c in range(width):
        mean[c] = np.rint(mean[c] / unit) * unit
    for i in range(n):
        factor = factors[i]
        for c in range(width):
            wide[i, c] = np.float64(rows[i, c] * factor) - mean[c]
    return wide, factors


def _squared_loops(gram: NDArray[np.float64], like: NDArray[Any]) -> NDArray[Any]:
    """Squared distances, in the type of an array, from the upper triangle of their Gram matrix, as loops to compile."""
    n = len(gram)
    squared, squares = np.zeros((n, n), like.dtype), np.diag(gram).copy()
    for top in range(0, n, _TILE):
        for left in range(top, n, _TILE):
            for i in range(top, min(top + _TILE, n)):
                for j in range(max(left, i + 1), min(left + _TILE, n)):
                    total = squares[i] + squares[j]
                    value = total - 2 * gram[i, j]
                    if value <= _UNRESOLVED * _EPSILON * total:
                        value = 0.0
                    squared[i, j] = squared[j, i] = value
    return squared


def _coarse_mean(wide: Tensor) -> Tensor:
    """The mean, rounded to 2^-20 of the spread: numbers of one grid then stay exact, and equal lengths stay ties."""
    if not len(wide):
        return wide.new_zeros(wide.shape[1])
    mean = wide.mean(0)
    spread = (wide - mean).abs().amax()
    least = (mean.abs().amax() * _MEAN_DIGITS).clamp_min(
        torch.finfo(wide.dtype).tiny * 2.0 ** (_GRID_BITS + 1)
    )
    unit = torch.exp2(torch.maximum(spread, least).log2().floor() - _GRID_BITS)
    return (mean / unit).round() * unit


@cache
def int8_product_is_exact(device: str) -> bool:
    """Whether the int8 matrix product of a kind of device sums exactly in int32, probed once on extreme values.

    torch's int8 product has a private name, and processors without such instructions may saturate.
    """
    probe = torch.from_numpy(generator(0, "int8 probe").integers(-128, 128, (32, 4096)))
    probe[:8], probe[8:16] = -128, 127
    eight = probe.to(torch.int8).to(device)
    try:
        product = torch._int_mm(eight, eight.T)
    except (AttributeError, RuntimeError):  # NotImplementedError is a RuntimeError
        return False
    return torch.equal(product.cpu().long(), probe @ probe.T)


def _integer_gram(centred: Tensor) -> Tensor:
    """int64 ``[n, n]``: the exact products of the int8 rows of ``[n, D]``."""
    n, width = centred.shape
    device = centred.device.type
    # accelerators take no other shapes; on a CPU sides of 1 give garbage (pytorch issue 195066)
    fits = min(n, width) > 1 if device == "cpu" else n > 16 and n % 8 == 0 and width % 8 == 0
    if fits and width <= _INT32_COLUMNS and int8_product_is_exact(device):
        return torch._int_mm(centred, centred.T).long()
    return chunked_gram(centred)


def chunked_gram(centred: Tensor) -> Tensor:
    """int64 ``[n, n]``: the exact products of the int8 rows of ``[n, D]``, by float32 products.

    Exact under reduced matrix precision too: TF32 and bfloat16 hold integers up to 256.
    """
    gram = torch.zeros(len(centred), len(centred), dtype=torch.int64, device=centred.device)
    with torch.autocast(centred.device.type, enabled=False):
        for columns in torch.split(centred, _EXACT_COLUMNS, dim=1):
            block = columns.float()
            gram += (block @ block.T).long()
    return gram
