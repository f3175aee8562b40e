"""Pairwise distances of images (exact, in integers) and of embeddings (centred), the keys of the trees."""

import math
from functools import cache

import torch
from torch import Tensor

from topoface.functional.draws import generator

# |x - 128| <= 2^7, so 1024 products sum to at most 2^24: every partial sum is an integer that float32 holds.
_EXACT_COLUMNS = 1024
# int32 sums of int8 products hold up to this width: 2^17 * 2^14 = 2^31.
_INT32_COLUMNS = 2**17 - 1


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
    digits, and float64 is untouched by autocast and TF32 and costs 0.2 ms more at n = 128. What the
    subtraction cannot resolve is set to +0.0, so duplicates are exact ties (and no -0.0 is left, whose bits sort first).

    Args:
        points: float ``[n, D]``; half types are measured in float32.

    Returns:
        ``[n, n]``, float64 for float64 points and float32 otherwise, zero diagonal. NaN or infinite points
        give NaN distances.
    """
    with torch.no_grad():
        # Apple's devices have no float64
        wide = points.detach().to(torch.float32 if points.device.type == "mps" else torch.float64)
        wide = wide - _coarse_mean(wide)
        gram = wide @ wide.T
        squares = gram.diagonal()
        sums = squares[:, None] + squares[None, :]
        squared = sums - 2 * gram
        squared.masked_fill_(squared <= 16 * torch.finfo(wide.dtype).eps * sums, 0.0)
        squared.fill_diagonal_(0.0)
        return squared.to(torch.promote_types(points.dtype, torch.float32))


def _coarse_mean(wide: Tensor) -> Tensor:
    """The mean, rounded to 2^-20 of the spread: numbers of one grid then stay exact, and equal lengths stay ties."""
    if not len(wide):
        return wide.new_zeros(wide.shape[1])
    mean = wide.mean(0)
    spread = (wide - mean).abs().amax()
    # for duplicates: finer than the mean's own digits, and no underflow of the unit
    least = (mean.abs().amax() * 2.0**-40).clamp_min(torch.finfo(wide.dtype).tiny * 2.0**21)
    unit = torch.exp2(torch.maximum(spread, least).log2().floor() - 20)
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
