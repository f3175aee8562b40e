"""Spaces other than raw pixels whose structure embeddings may be asked to keep: fewer pixels, or pixels without lighting.

Two photographs taken under like light lie close in pixel space whoever is on them. These two keep less of that.
"""

import torch
from torch import Tensor

from topoface.functional.directions import unit_rows


def low_resolution(images: Tensor, side: int = 16) -> Tensor:
    """Images averaged down to ``side`` pixels square: pose, colour and light without detail.

    Args:
        images: RGB ``[n, C, H, H]``, any dtype; ``side`` divides H.
        side: pixels.

    Returns:
        float32 ``[n, C * side * side]``, means of 8-bit values.

    Raises:
        ValueError: ``side`` does not divide H.
    """
    n, channels, height, width = images.shape
    if height % side or width % side:
        raise ValueError(f"{side} does not divide images of {height} x {width}")
    blocks = images.reshape(n, channels, side, height // side, side, width // side)
    return blocks.sum(dim=(3, 5), dtype=torch.float32).flatten(1) / (height // side * (width // side))


def normalised_luminance(images: Tensor) -> Tensor:
    """Grey images without their brightness and contrast: mean 0, length 1.

    Args:
        images: RGB ``[n, 3, H, W]``, any dtype.

    Returns:
        float32 ``[n, H * W]``, unit rows; zeros where an image is uniform. Half the squared distance of two
        rows is 1 minus the correlation of their grey levels.
    """
    red, green, blue = images.unbind(1)
    # weights of ITU-R BT.601
    grey = (0.2989 * red.float() + 0.587 * green.float() + 0.114 * blue.float()).flatten(1)
    centred = grey - grey.mean(dim=1, keepdim=True)
    # what is left of a uniform image is rounding: one grey level in one pixel would be a hundred times more
    noise = centred.square().sum(1, keepdim=True) <= 1e-10 * grey.square().sum(1, keepdim=True)
    return unit_rows(centred.masked_fill(noise, 0.0))
