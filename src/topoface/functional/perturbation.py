"""Random structure perturbation of TopoFR (arXiv 2410.10587): some images are blurred, greyed, jittered or erased.

Pure functions: all chance comes in as uniform numbers. The operations take float RGB ``[k, 3, H, W]`` in
[0, 1] and mean what torchvision means by them; each works on all its images at once. On the CPU, compiled loops
do the same faster (`perturbation_loops`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.errors import UserError
from topoface.functional.compiled import compiled, in_memory
from topoface.functional.perturbation_loops import (
    blend,
    blur_loops,
    grey_loops,
    jitter_loops,
    luma,
    mean_luma,
    rotate,
)

Operation = Literal["blur", "grey", "jitter", "erase"]
OPERATIONS: tuple[Operation, ...] = ("blur", "grey", "jitter", "erase")
ERASE_TRIES = 10
BLUR_KERNEL = (9, 5)
"""Rows and columns of the blur, odd. The released one is taller than wide."""

# what each column of the uniform numbers decides
_HIT, _OPERATION, _SIGMA = 0, 1, 2
_FACTORS, _ORDER, _CORNER = slice(3, 7), slice(7, 11), slice(11, 13)
_TRIES = slice(13, 13 + 2 * ERASE_TRIES)
DRAWS = _TRIES.stop
"""How many uniform numbers `perturb_structure` takes for each image."""

# the changes of the colour jitter: the columns of its factors
_CONTRAST, _SATURATION, _HUE = 1, 2, 3

_LOOPS = {
    "blur": (blur_loops,),
    "grey": (grey_loops, luma),
    "jitter": (jitter_loops, luma, mean_luma, blend, rotate),
}

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PerturbationRanges:
    """How strong each operation is, uniform in (low, high); the defaults are the released ones (`MILD_RANGES` are not).

    Attributes:
        blur_sigma: of the Gaussian, in pixels of both axes.
        brightness: factor of the values.
        contrast: factor of the distance from the mean grey of the image.
        saturation: factor of the distance from the grey image.
        hue: added to the hue, in turns.
        erase_area: of the rectangle, as a share of the image.
        erase_aspect: least height / width; the greatest is its inverse; log-uniform between.
        erase_fill: grey of the rectangle, in [0, 1].
    """

    blur_sigma: Interval = (0.1, 5.0)
    brightness: Interval = (0.1, 0.5)
    contrast: Interval = (0.3, 0.6)
    saturation: Interval = (0.2, 0.5)
    hue: Interval = (-0.1, 0.3)
    erase_area: Interval = (0.02, 1 / 3)
    erase_aspect: float = 0.3
    erase_fill: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and not value[0] <= value[1]:
                raise UserError(
                    f"{field.name} is {value}", "perturbation ranges", "give (low, high) with low <= high"
                )
        if not self.blur_sigma[0] > 0:
            raise UserError(f"blur_sigma is {self.blur_sigma}", "perturbation ranges", "start above 0")
        if not 0 < self.erase_area[0] <= self.erase_area[1] <= 1:
            raise UserError(
                f"erase_area is {self.erase_area}",
                "perturbation ranges",
                "give shares of the image in (0, 1]",
            )
        if not 0 < self.erase_aspect <= 1:
            raise UserError(
                f"erase_aspect is {self.erase_aspect}", "perturbation ranges", "choose from (0, 1]"
            )


RELEASE_RANGES = PerturbationRanges()
# The released jitter only ever darkens and flattens: its images lie farther from their originals than two faces
# from each other. These go both ways.
MILD_RANGES = PerturbationRanges(
    brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.5, 1.5), hue=(-0.05, 0.05)
)


def perturb_structure(
    images: Tensor,
    draws: NDArray[np.float64],
    *,
    probability: float = 0.2,
    operations: Sequence[str] = OPERATIONS,
    ranges: PerturbationRanges = RELEASE_RANGES,
) -> tuple[Tensor, Tensor]:
    """Perturb each image with some probability by one operation, drawn uniformly. The input is never changed.

    Args:
        images: RGB ``[n, 3, H, W]``, uint8, or float32 in [0, 255].
        draws: ``[n, DRAWS]`` uniform in [0, 1), a row for each image, on the host. What an image does not need is
            thrown away, so no draw depends on the outcome of another.
        probability: xi.
        operations: a choice of `OPERATIONS`.
        ranges: how strong they are.

    Returns:
        float32 ``[n, 3, H, W]`` in [0, 255], new memory, not requantised; untouched images keep their exact values.
        And int64 ``[n]``, the position in `OPERATIONS` of what was done, -1 where nothing was.
    """
    hit = draws[:, _HIT] < probability
    codes = np.array([OPERATIONS.index(name) for name in operations])
    chosen = codes[(draws[:, _OPERATION] * len(codes)).astype(np.int64)]
    operation = np.where(hit, chosen, -1)
    view = images.to(torch.float32, copy=True)
    for code, name in enumerate(OPERATIONS):
        rows = np.flatnonzero(operation == code)
        if len(rows):
            _perturb_rows(name, view, rows, draws[rows], ranges)
    return view, torch.from_numpy(operation).to(images.device, non_blocking=True)


def _perturb_rows(
    name: str,
    view: Tensor,
    rows: NDArray[np.int64],
    draws: NDArray[np.float64],
    ranges: PerturbationRanges,
) -> None:
    """One operation in place on some images in [0, 255], its parameters from their rows of uniform numbers."""
    if name == "erase":
        height, width = view.shape[2:]
        tries = draws[:, _TRIES].reshape(-1, ERASE_TRIES, 2)
        boxes = erase_boxes(draws[:, _CORNER], tries, height=height, width=width, ranges=ranges)
        for row, box in zip(rows.tolist(), boxes.tolist(), strict=True):
            erase(view[row], box, 255 * ranges.erase_fill)
        return
    strength = _like(view, _strength(name, draws, ranges))
    order = draws[:, _ORDER].argsort(axis=1)
    pixels = view.permute(0, 2, 3, 1)  # as batches lie in memory
    whole = pixels.is_contiguous() and min(view.shape[2:]) > max(BLUR_KERNEL) // 2
    loops = compiled(*_LOOPS[name]) if whole and in_memory(view) else None
    if loops is None:
        index = torch.from_numpy(rows).to(view.device, non_blocking=True)
        images = pixels.index_select(0, index).permute(0, 3, 1, 2)  # each image is copied in one piece
        if name == "blur":
            images = gaussian_blur(images, strength)
        elif name == "grey":
            images.copy_(grey(images))
        else:
            torch.mul(colour_jitter(images.div_(255), strength, order), 255, out=images)
        pixels.index_copy_(0, index, images.permute(0, 2, 3, 1))
    elif name == "blur":
        loops(pixels.numpy(), rows, *(_gaussian(strength, size).numpy() for size in BLUR_KERNEL))
    elif name == "grey":
        loops(pixels.numpy(), rows)
    else:
        loops(pixels.numpy(), rows, strength.numpy(), order)


def _strength(name: str, draws: NDArray[np.float64], ranges: PerturbationRanges) -> NDArray[np.float64]:
    """Sigma ``[k]`` of the blur, the four factors ``[k, 4]`` of the jitter; nothing for the grey image."""
    if name == "blur":
        return _between(draws[:, _SIGMA], ranges.blur_sigma)
    if name == "grey":
        return np.empty(0)
    intervals = (ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue)
    pairs = zip(draws[:, _FACTORS].T, intervals, strict=True)
    return np.stack([_between(draw, interval) for draw, interval in pairs], axis=1)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel: tuple[int, int] = BLUR_KERNEL) -> Tensor:
    """Blur each image with its own Gaussian, sampled at integer offsets, reflected at the border.

    Args:
        images: float ``[k, C, H, W]``, larger than half the kernel.
        sigma: ``[k]`` > 0, pixels, the same on both axes.
        kernel: rows and columns, odd.

    Returns:
        ``[k, C, H, W]``.
    """
    rows, columns = kernel
    # with channels last a step aside is a step of C values, so that whole rows are added at a time
    pixels = images.permute(0, 2, 3, 1)
    pixels = _filtered(_filtered(pixels, _gaussian(sigma, rows), dim=1), _gaussian(sigma, columns), dim=2)
    return pixels.permute(0, 3, 1, 2)


def grey(images: Tensor) -> Tensor:
    """The grey image in all three channels of ``[k, 3, H, W]``; they share their memory."""
    return _luma(images).expand_as(images)


def colour_jitter(images: Tensor, factors: Tensor, order: NDArray[np.int64]) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image, in its own order, clamping to [0, 1] each time.

    Args:
        images: float ``[k, 3, H, W]`` in [0, 1].
        factors: ``[k, 4]``: factors of brightness, contrast, saturation; turns added to the hue.
        order: ``[k, 4]``, on the host: each row a permutation of 0 (brightness) to 3 (hue), first to last.

    Returns:
        ``[k, 3, H, W]`` in [0, 1], new memory.
    """
    # Orders are moved along seven slots until every hue lies in slot 3. Sorted by that move, the images with
    # something to do in a slot are a slice: whatever the orders, seven changes in place do it all.
    place = (order == _HUE).argmax(axis=1)
    by_place = place.argsort()
    place = place[by_place]
    slots = np.zeros((len(order), 7), dtype=np.int64)
    np.put_along_axis(slots, 3 - place[:, None] + np.arange(4), order[by_place], axis=1)
    codes, sort, unsort = (
        torch.from_numpy(x).to(images.device, non_blocking=True)
        for x in (slots, by_place, by_place.argsort())
    )
    strengths = factors[sort].gather(1, codes)[..., None, None]
    to_mean, to_luma = (
        (codes == code).to(images.dtype)[..., None, None] for code in (_CONTRAST, _SATURATION)
    )
    pixels = images.flatten(2).index_select(0, sort)
    for slot in range(7):
        rows = slice(*np.searchsorted(place, [3 - slot, 7 - slot]).tolist())
        if slot == 3:
            _rotate_hue(pixels, strengths[:, slot])
        else:
            _blend(pixels[rows], strengths[rows, slot], to_mean[rows, slot], to_luma[rows, slot])
    return pixels.index_select(0, unsort).view(images.shape)


def erase_boxes(
    corner: NDArray[np.float64],
    tries: NDArray[np.float64],
    *,
    height: int,
    width: int,
    ranges: PerturbationRanges = RELEASE_RANGES,
) -> NDArray[np.int64]:
    """The rectangle to erase from each image: the first try that is smaller than the image, at a uniform corner.

    Args:
        corner: ``[k, 2]`` uniform in [0, 1), for top and left.
        tries: ``[k, t, 2]`` uniform in [0, 1), for area and aspect of each try.
        height: of the images, pixels.
        width: likewise.
        ranges: of area and aspect.

    Returns:
        int64 ``[k, 4]``: top, left, height, width; an empty rectangle where no try fits.
    """
    area = _between(tries[..., 0], ranges.erase_area) * (height * width)
    tallest = -math.log(ranges.erase_aspect)
    aspect = np.exp(_between(tries[..., 1], (-tallest, tallest)))
    sizes = np.rint(np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=-1)).astype(np.int64)
    limit = np.array([height, width])
    fits = (sizes < limit).all(axis=-1)
    size = sizes[np.arange(len(sizes)), fits.argmax(axis=1)] * fits.any(axis=1)[:, None]
    return np.concatenate([(corner * (limit - size + 1)).astype(np.int64), size], axis=1)


def erase(image: Tensor, box: Sequence[int], fill: float = 0.5) -> None:
    """Fill a rectangle of one image in place.

    Args:
        image: ``[C, H, W]``.
        box: top, left, height, width.
        fill: the value.
    """
    top, left, height, width = box
    image[:, top : top + height, left : left + width] = fill


def _blend(pixels: Tensor, factor: Tensor, to_mean: Tensor, to_luma: Tensor) -> None:
    """Brightness, contrast or saturation of ``[k, 3, P]`` in place: all scale the distance from some grey.

    That is the mean grey of the image where ``to_mean`` is 1, its grey image where ``to_luma`` is, and else black;
    these and ``factor`` are ``[k, 1, 1]``.
    """
    luma = _luma(pixels)
    target = torch.addcmul(to_mean * luma.mean(dim=2, keepdim=True), to_luma, luma)
    torch.lerp(target, pixels, factor, out=pixels).clamp_(0, 1)


def _rotate_hue(pixels: Tensor, turns: Tensor) -> None:
    """Add turns ``[k, 1, 1]`` to the hue (HSV) of ``[k, 3, P]`` in place, without a division or a case by case.

    Value and chroma stay. Angles are in sixths of a turn and times the chroma, so that greys need no care.
    """
    red, green, blue = pixels.chunk(3, dim=1)
    peak, low = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma = peak - low
    # away from the hue red one channel rises up to 1, then red falls up to 2, then the third channel rises up to 3
    distance = (green + blue).sub_(red).add_(peak).sub_(low, alpha=2)
    angle = distance.copysign_(green - blue)
    # the new hue as seen from each channel's own, within 6 either way
    shift = (6 * turns - torch.arange(0, 6, 2, device=turns.device)[:, None] + 3) % 6 - 3
    torch.addcmul(angle, chroma, shift, out=pixels)
    # | |a| - 3 | is how far it is from the channel's opposite: lowest up to 1, then rising, at the peak from 2 on
    pixels.abs_().sub_(3 * chroma).abs_()
    pixels.add_(low - chroma).clamp_(low, peak)


def _luma(images: Tensor) -> Tensor:
    """``[k, 1, ...]`` of ``[k, 3, ...]``, the weights of ITU-R BT.601; new memory."""
    red, green, blue = images.chunk(3, dim=1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _filtered(images: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Images ``[k, ., ., .]`` filtered along one dimension, each with its row of ``weights`` (odd), reflected at the ends."""
    size, length = weights.shape[1], images.shape[dim]
    half = size // 2
    before = images.narrow(dim, 1, half).flip(dim)
    after = images.narrow(dim, length - 1 - half, half).flip(dim)
    padded = torch.cat([before, images, after], dim)
    first, *others = (weight[:, None, None, None] for weight in weights.T)
    total: Tensor = padded.narrow(dim, 0, length) * first
    for offset, weight in enumerate(others, start=1):
        total.addcmul_(padded.narrow(dim, offset, length), weight)
    return total


def _gaussian(sigma: Tensor, size: int) -> Tensor:
    """``[k, size]``, each row a sampled Gaussian that sums to 1."""
    offsets = torch.arange(size, dtype=sigma.dtype, device=sigma.device) - size // 2
    weights = torch.softmax(-(offsets**2) / (2 * sigma[:, None] ** 2), dim=1)
    # 0 where too small for the last bit of a sum: subnormal products would make a narrow blur five times slower
    return weights.where(weights > torch.finfo(weights.dtype).eps ** 2, 0)


def _between(uniform: NDArray[np.float64], interval: Interval) -> NDArray[np.float64]:
    low, high = interval
    return low + (high - low) * uniform


def _like(images: Tensor, values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values).to(images.device, images.dtype, non_blocking=True)
