"""Slow, obvious image operations: one image, one pixel at a time, float RGB [3, H, W] in [0, 1]."""

import colorsys
import math

import numpy as np


def clamp(image):
    return np.minimum(np.maximum(image, 0.0), 1.0)


def reflect(k, size):
    """The index inside that an index outside mirrors to; the border itself is not repeated."""
    if k < 0:
        return -k
    return 2 * (size - 1) - k if k >= size else k


def blur(image, sigma, rows=9, columns=5):
    def weights(size):
        w = [math.exp(-((k - size // 2) ** 2) / (2 * sigma**2)) for k in range(size)]
        return [x / sum(w) for x in w]

    down, across = weights(rows), weights(columns)
    _, height, width = image.shape
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for r in range(rows):
                for c in range(columns):
                    source = image[
                        :, reflect(y + r - rows // 2, height), reflect(x + c - columns // 2, width)
                    ]
                    out[:, y, x] += down[r] * across[c] * source
    return out


def luma(image):
    return 0.2989 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def grey(image):
    return np.stack([luma(image)] * 3)


def brightness(image, factor):
    return clamp(factor * image)


def contrast(image, factor):
    return clamp(factor * image + (1 - factor) * luma(image).mean())


def saturation(image, factor):
    return clamp(factor * image + (1 - factor) * grey(image))


def hue(image, turns):
    out = np.empty_like(image)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            h, s, v = colorsys.rgb_to_hsv(*image[:, y, x])
            out[:, y, x] = colorsys.hsv_to_rgb((h + turns) % 1.0, s, v)
    return clamp(out)


def jitter(image, factors, order):
    changes = (brightness, contrast, saturation, hue)
    for code in order:
        image = changes[code](image, factors[code])
    return image


def erase(image, top, left, height, width, fill=0.5):
    out = image.copy()
    for y in range(top, top + height):
        for x in range(left, left + width):
            out[:, y, x] = fill
    return out


def erase_box(corner, tries, height, width, area=(0.02, 1 / 3), aspect=0.3):
    """The first rectangle strictly smaller than the image: (top, left, height, width)."""
    for u, v in tries:
        pixels = height * width * (area[0] + (area[1] - area[0]) * u)
        ratio = math.exp(math.log(aspect) + 2 * math.log(1 / aspect) * v)
        tall, wide = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if tall < height and wide < width:
            return int(corner[0] * (height - tall + 1)), int(corner[1] * (width - wide + 1)), tall, wide
    return None
