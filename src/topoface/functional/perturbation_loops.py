"""The operations of the structure perturbation as loops to compile: image by image, in place, without an array between two steps.

Each takes float32 ``[n, H, W, 3]`` in [0, 255] and the rows of the images that it changes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
_ZERO, _ONE, _TWO, _THREE, _FOUR, _SIX, _WHITE = (np.float32(x) for x in (0, 1, 2, 3, 4, 6, 255))
_BRIGHTNESS, _CONTRAST, _SATURATION = range(3)

_Plane = NDArray[np.float32]


def blur_loops(
    view: NDArray[np.float32], rows: NDArray[np.int64], tall: NDArray[np.float32], wide: NDArray[np.float32]
) -> None:
    """Filter along both axes with an odd number of weights for each image, ``[k, .]``, reflected at the border."""
    height, width = view.shape[1:3]
    above, beside, length = tall.shape[1] // 2, wide.shape[1] // 2, 3 * width
    blurred, padded = np.empty((height, length), np.float32), np.empty(length + 6 * beside, np.float32)
    for k in range(len(rows)):
        image = view[rows[k]].reshape((height, length))
        for y in range(height):
            total = padded[3 * beside : 3 * beside + length]
            total[:] = 0
            for t in range(tall.shape[1]):
                source = abs(y + t - above)
                line, weight = image[min(source, 2 * (height - 1) - source)], tall[k, t]
                for x in range(length):
                    total[x] += weight * line[x]
            for x in range(beside):
                for c in range(3):
                    padded[3 * x + c] = total[3 * (beside - x) + c]
                    padded[3 * (beside + width + x) + c] = total[3 * (width - 2 - x) + c]
            line = blurred[y]
            line[:] = 0
            for t in range(wide.shape[1]):
                shifted, weight = padded[3 * t : 3 * t + length], wide[k, t]
                for x in range(length):
                    line[x] += weight * shifted[x]
        image[:] = blurred


def grey_loops(view: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    """The grey image in all three channels."""
    for row in rows:
        pixels = view[row].reshape((-1, 3))
        for p in range(len(pixels)):
            pixels[p, 0] = pixels[p, 1] = pixels[p, 2] = luma(pixels[p, 0], pixels[p, 1], pixels[p, 2])


def jitter_loops(
    view: NDArray[np.float32],
    rows: NDArray[np.int64],
    factors: NDArray[np.float32],
    order: NDArray[np.int64],
) -> None:
    """The four changes ``[k, 4]`` of each image in its own order."""
    planes = np.empty(
        (3, view.shape[1] * view.shape[2]), np.float32
    )  # vector instructions want one channel at a time
    red, green, blue = planes
    for k in range(len(rows)):
        pixels = view[rows[k]].reshape((-1, 3))
        for p in range(len(pixels)):
            red[p], green[p], blue[p] = pixels[p]
        for change in order[k]:
            strength = factors[k, change]
            if change == _BRIGHTNESS:
                blend(red, green, blue, strength, _ZERO, _ZERO)
            elif change == _CONTRAST:
                blend(red, green, blue, strength, mean_luma(red, green, blue), _ZERO)
            elif change == _SATURATION:
                blend(red, green, blue, strength, _ZERO, _ONE)
            else:
                rotate(red, green, blue, strength)
        for p in range(len(pixels)):
            pixels[p, 0], pixels[p, 1], pixels[p, 2] = red[p], green[p], blue[p]


def luma(red: Any, green: Any, blue: Any) -> Any:
    """The grey of one pixel, by the weights of ITU-R BT.601."""
    return _RED * red + _GREEN * green + _BLUE * blue


def mean_luma(red: _Plane, green: _Plane, blue: _Plane) -> Any:
    """The mean grey of an image, summed in float64: in float32 twelve thousand values lose the fifth digit."""
    total = np.float64(0)
    for p in range(len(red)):
        total += np.float64(luma(red[p], green[p], blue[p]))
    return np.float32(total / len(red))


def blend(red: _Plane, green: _Plane, blue: _Plane, factor: Any, level: Any, to_luma: Any) -> None:
    """Scale the distance of all values from a level, plus the grey image where ``to_luma`` is 1."""
    for p in range(len(red)):
        target = level + to_luma * luma(red[p], green[p], blue[p])
        red[p] = min(max(target + factor * (red[p] - target), _ZERO), _WHITE)
        green[p] = min(max(target + factor * (green[p] - target), _ZERO), _WHITE)
        blue[p] = min(max(target + factor * (blue[p] - target), _ZERO), _WHITE)


def rotate(red: _Plane, green: _Plane, blue: _Plane, turns: Any) -> None:
    """Add turns to the hue, as the tensor operations do."""
    shift = np.float32(6) * turns + _THREE
    at_red, at_green, at_blue = (
        shift % _SIX - _THREE,
        (shift - _TWO) % _SIX - _THREE,
        (shift - _FOUR) % _SIX - _THREE,
    )
    for p in range(len(red)):
        peak, low = max(red[p], green[p], blue[p]), min(red[p], green[p], blue[p])
        chroma = peak - low
        distance = green[p] + blue[p] - red[p] + peak - _TWO * low
        angle = distance if green[p] >= blue[p] else -distance
        base, thrice = low - chroma, _THREE * chroma
        red[p] = min(max(abs(abs(angle + chroma * at_red) - thrice) + base, low), peak)
        green[p] = min(max(abs(abs(angle + chroma * at_green) - thrice) + base, low), peak)
        blue[p] = min(max(abs(abs(angle + chroma * at_blue) - thrice) + base, low), peak)
