"""Random structure perturbation of TopoFR (arXiv 2410.10587): some images are blurred, greyed, jittered or erased.

Pure functions: all chance comes in as uniform numbers. The operations take float RGB ``[k, 3, H, W]`` in
[0, 1] and mean what torchvision means by them; each works on all its images at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, pad

from topoface.errors import UserError

Operation = Literal["blur", "grey", "jitter", "erase"]
OPERATIONS: tuple[Operation, ...] = ("blur", "grey", "jitter", "erase")
ERASE_TRIES = 10

# what each column of the uniform numbers decides
_HIT, _OPERATION, _SIGMA = 0, 1, 2
_FACTORS, _ORDER, _CORNER = slice(3, 7), slice(7, 11), slice(11, 13)
_TRIES = slice(13, 13 + 2 * ERASE_TRIES)
DRAWS = _TRIES.stop
"""How many uniform numbers `perturb_structure` takes for each image."""

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
            index = torch.from_numpy(rows).to(images.device)
            view[index] = 255 * _perturb(name, view[index] / 255, draws[rows], ranges)
    return view, torch.from_numpy(operation).to(images.device)


def _perturb(name: str, images: Tensor, draws: NDArray[np.float64], ranges: PerturbationRanges) -> Tensor:
    """One operation on float images in [0, 1], its parameters from their rows of uniform numbers."""
    if name == "blur":
        return gaussian_blur(images, _like(images, _between(draws[:, _SIGMA], ranges.blur_sigma)))
    if name == "grey":
        return grey(images)
    if name == "jitter":
        intervals = (ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue)
        columns = [
            _between(draw, interval) for draw, interval in zip(draws[:, _FACTORS].T, intervals, strict=True)
        ]
        order = torch.from_numpy(draws[:, _ORDER].argsort(axis=1))
        return colour_jitter(images, _like(images, np.stack(columns, axis=1)), order)
    height, width = images.shape[2:]
    tries = draws[:, _TRIES].reshape(-1, ERASE_TRIES, 2)
    boxes = erase_boxes(draws[:, _CORNER], tries, height=height, width=width, ranges=ranges)
    return erase(images, torch.from_numpy(boxes).to(images.device), ranges.erase_fill)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel: tuple[int, int] = (9, 5)) -> Tensor:
    """Blur each image with its own Gaussian, sampled at integer offsets, reflected at the border.

    Args:
        images: float ``[k, C, H, W]``, larger than half the kernel.
        sigma: ``[k]`` > 0, pixels, the same on both axes.
        kernel: rows and columns, odd. The released kernel is taller than wide.

    Returns:
        ``[k, C, H, W]``.
    """
    k, channels, height, width = images.shape
    rows, columns = kernel
    half = (columns // 2, columns // 2, rows // 2, rows // 2)
    # all images as channels of one, so that one grouped convolution gives each its own kernel
    padded = pad(images, half, mode="reflect").reshape(
        1, k * channels, height + rows - 1, width + columns - 1
    )
    down = _gaussian(sigma, rows).repeat_interleave(channels, dim=0)
    across = _gaussian(sigma, columns).repeat_interleave(channels, dim=0)
    blurred = conv2d(padded, down[:, None, :, None], groups=k * channels)
    return conv2d(blurred, across[:, None, None, :], groups=k * channels).reshape(images.shape)


def grey(images: Tensor) -> Tensor:
    """The grey image in all three channels of ``[k, 3, H, W]``."""
    return _luma(images).expand_as(images).contiguous()


def colour_jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image, in its own order, clamping to [0, 1] each time.

    Args:
        images: float ``[k, 3, H, W]`` in [0, 1].
        factors: ``[k, 4]``: factors of brightness, contrast, saturation; turns added to the hue.
        order: int64 ``[k, 4]``, on the host: each row a permutation of 0 (brightness) to 3 (hue), first to last.

    Returns:
        ``[k, 3, H, W]`` in [0, 1], new memory.
    """
    images = images.clone()
    for position in order.T:
        for code, change in enumerate((_brightness, _contrast, _saturation, _rotate_hue)):
            rows = (position == code).nonzero()[:, 0].to(images.device)
            if len(rows):
                factor = factors[rows, code][:, None, None, None]
                images[rows] = change(images[rows], factor).clamp(0, 1)
    return images


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


def erase(images: Tensor, boxes: Tensor, fill: float = 0.5) -> Tensor:
    """Fill one rectangle of each image.

    Args:
        images: float ``[k, C, H, W]``.
        boxes: int64 ``[k, 4]``: top, left, height, width.
        fill: the value.

    Returns:
        ``[k, C, H, W]``, new memory.
    """
    top, left, tall, wide = boxes[:, :, None].unbind(1)
    y = torch.arange(images.shape[2], device=images.device)
    x = torch.arange(images.shape[3], device=images.device)
    inside = ((y >= top) & (y < top + tall))[:, None, :, None] & ((x >= left) & (x < left + wide))[
        :, None, None, :
    ]
    return images.masked_fill(inside, fill)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return factor * images


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return factor * images + (1 - factor) * _luma(images).mean(dim=(1, 2, 3), keepdim=True)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return factor * images + (1 - factor) * _luma(images)


def _rotate_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Add to the hue in HSV, modulo 1. Value and chroma stay, so saturation need not be computed."""
    red, green, blue = images.unbind(1)
    peak = images.amax(1)
    chroma = peak - images.amin(1)
    divisor = chroma.where(chroma > 0, 1)  # greys have no hue; any will do
    by_green_or_blue = torch.where(peak == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = torch.where(peak == red, (green - blue) / divisor, by_green_or_blue)
    offsets = images.new_tensor([5.0, 3.0, 1.0])[:, None, None]
    # each channel falls from the peak by the chroma over a trapezium of the hue circle
    phase = (offsets + sixths[:, None] + 6 * turns) % 6
    return peak[:, None] - chroma[:, None] * (2 - (phase - 2).abs()).clamp(0, 1)


def _luma(images: Tensor) -> Tensor:
    """``[k, 1, H, W]``, the weights of ITU-R BT.601."""
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


def _gaussian(sigma: Tensor, size: int) -> Tensor:
    """``[k, size]``, each row a sampled Gaussian that sums to 1."""
    offsets = torch.arange(size, dtype=sigma.dtype, device=sigma.device) - size // 2
    return torch.softmax(-(offsets**2) / (2 * sigma[:, None] ** 2), dim=1)


def _between(uniform: NDArray[np.float64], interval: Interval) -> NDArray[np.float64]:
    low, high = interval
    return low + (high - low) * uniform


def _like(images: Tensor, values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values).to(images)
