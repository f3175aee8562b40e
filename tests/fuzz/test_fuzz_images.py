"""Thousands of damaged images: each decodes to pixels of its size or is refused by a UserError, fast and small."""

import contextlib
import resource
import time
import warnings

import numpy as np
import pytest

from tests.fuzz.mutations import mutate
from tests.unit.data.recfile import encoded, face
from topoface.data.decode import MAX_PIXELS, decode, decode_into
from topoface.errors import UserError

CASES = 400  # for each seed image
SMALL = face(3)[:40, :48].copy()
SEEDS = {
    "jpeg": encoded(face(0)),
    "small jpeg": encoded(SMALL, quality=40),
    "progressive jpeg": encoded(SMALL, progressive=True),
    "grey jpeg": encoded(face(1)[..., 0]),
    "png": encoded(SMALL, "PNG"),
    "16-bit png": encoded(SMALL[..., 0].astype(np.uint16) * 257, "PNG"),
    "webp": encoded(SMALL, "WEBP"),
    "bmp": encoded(SMALL, "BMP"),
}


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_images_decode_or_are_refused(name: str) -> None:
    row = np.empty((112, 112, 3), dtype=np.uint8)
    before, slowest, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0, 0
    for case in range(CASES):
        data = mutate(SEEDS[name], np.random.default_rng([case, list(SEEDS).index(name)]))
        started = time.monotonic()
        # Pillow warns about some oddities; here a warning would be an error, for users it is none.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = None
            with contextlib.suppress(UserError):
                image = decode(data, "damaged")
                assert image.dtype == np.uint8
                assert image.ndim == 3
                assert image.shape[2] == 3
                assert 0 < image.size <= 3 * MAX_PIXELS
            refused += image is None
            try:
                decode_into(data, row, "damaged", mirror=case % 2 == 0)
            except UserError:
                pass
            else:
                assert image is not None
                assert np.array_equal(row, image[:, ::-1] if case % 2 == 0 else image)
        slowest = max(slowest, time.monotonic() - started)
    assert refused > CASES // 10
    assert slowest < 20
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # KiB. Of 64 megapixels of WebP libwebp holds two canvases and Pillow two copies, of four bytes a pixel: 1,000,000; ours are 190,000,
    # and what is loaded for a format the first time comes on top. One copy more would be 190,000.
    assert grown < 1_300_000
