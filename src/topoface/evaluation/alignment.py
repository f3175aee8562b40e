"""Align a face by five landmarks: turn, scale and shift it onto the ArcFace template."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from topoface.data.decode import Pixels
from topoface.data.drawing.canvas import SIZE, TEMPLATE

# How images become 112 x 112, for the record.
AS_STORED = "as stored, 112 x 112"
WARPED = "five landmarks of the list onto the ArcFace template, bilinear"


def similarity(landmarks: NDArray[np.float64]) -> tuple[complex, complex]:
    """Turn-and-scale ``a`` and shift ``b`` with ``a z + b`` closest to the template in least squares (Umeyama, no reflection).

    Args:
        landmarks: complex or ``[5, 2]`` (x, y): eyes, tip of the nose, corners of the mouth; left and right as seen.

    Raises:
        ValueError: all five lie in one place.
    """
    seen = np.asarray(landmarks, dtype=np.float64) @ np.array([1, 1j])
    centred = seen - seen.mean()
    spread = float(np.vdot(centred, centred).real)
    if not np.isfinite(spread) or spread < 1e-6:
        raise ValueError("the five landmarks lie in one place")
    a = complex(np.vdot(centred, TEMPLATE) / spread)
    return a, complex(TEMPLATE.mean() - a * seen.mean())


def align(image: Pixels, landmarks: NDArray[np.float64]) -> Pixels:
    """The face at 112 x 112, bilinear, black where the image ends.

    (As OpenCV's ``warpAffine`` with its defaults, which the field uses; pixels beyond the edge differ in rounding.)

    Args:
        image: uint8 ``[H, W, 3]``.
        landmarks: ``[5, 2]`` in pixels, (0, 0) the middle of the first pixel.
    """
    a, b = similarity(landmarks)
    back, start = 1 / a, -b / a  # z = back w + start leads from a pixel of the result to the image
    # Pillow counts from the corner of a pixel, landmarks count from its middle.
    start += (0.5 + 0.5j) * (1 - back)
    matrix = (back.real, -back.imag, start.real, back.imag, back.real, start.imag)
    turned = Image.fromarray(image).transform(
        (SIZE, SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.array(turned)
