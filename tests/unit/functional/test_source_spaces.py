"""Source spaces beyond pixels: block means, and grey levels without brightness and contrast."""

import numpy as np
import pytest
import torch

from topoface.functional.source_spaces import low_resolution, normalised_luminance


def images(n=4, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, 112, 112), dtype=np.uint8))


@pytest.mark.parametrize("side", [1, 16, 112])
def test_low_resolution_is_the_mean_of_each_block(side):
    faces = images(2)
    size = 112 // side
    found = low_resolution(faces, side).reshape(2, 3, side, side)
    for n, channel, y, x in [(0, 0, 0, 0), (1, 2, side - 1, side - 1), (1, 1, 0, side - 1)]:
        block = faces[n, channel, y * size : (y + 1) * size, x * size : (x + 1) * size].double()
        assert float(found[n, channel, y, x]) == pytest.approx(float(block.mean()), rel=1e-6)


def test_low_resolution_does_not_care_about_the_memory_format():
    faces = images()
    assert torch.equal(
        low_resolution(faces), low_resolution(faces.contiguous(memory_format=torch.channels_last))
    )


def test_a_side_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="15 does not divide images of 112 x 112"):
        low_resolution(images(), 15)


def test_half_the_squared_distance_is_one_minus_the_correlation_of_grey_levels():
    faces = images(3)
    rows = normalised_luminance(faces).double()
    grey = np.einsum("nchw,c->nhw", faces.numpy().astype(np.float64), [0.2989, 0.587, 0.114]).reshape(3, -1)
    correlation = np.corrcoef(grey)
    for i in range(3):
        for j in range(3):
            half = float((rows[i] - rows[j]).square().sum()) / 2
            assert half == pytest.approx(1 - correlation[i, j], abs=1e-5)


def test_luminance_forgets_brightness_and_contrast():
    faces = images().float()
    torch.testing.assert_close(
        normalised_luminance(0.4 * faces + 30), normalised_luminance(faces), atol=1e-6, rtol=0
    )


def test_a_uniform_image_is_the_origin_and_one_other_pixel_is_not():
    levels = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 3, 112, 112)
    assert torch.equal(normalised_luminance(levels), torch.zeros(256, 112 * 112))
    nearly = torch.full((1, 3, 112, 112), 255, dtype=torch.uint8)
    nearly[0, 0, 5, 5] = 252
    assert float(normalised_luminance(nearly).norm()) == pytest.approx(1)
