"""Distances: exact for images, centred for embeddings."""

import numpy as np
import pytest
import torch

from tests.oracles import topology as oracle
from topoface.functional import distances
from topoface.functional.distances import (
    chunked_gram,
    int8_product_is_exact,
    pixel_distances,
    pixel_squared_distances,
    squared_chords,
    squared_distances,
)
from topoface.functional.persistence import h0_edges


def images(n, *shape, seed=0, low=0, high=256):
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high, (n, *shape), dtype=np.uint8))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1,), (3, 40, 40), (2000,)])
@pytest.mark.parametrize("n", [0, 1, 2, 17, 32])
def test_pixel_distances_equal_integer_arithmetic_bit_for_bit(n, shape):
    x = images(n, *shape)
    found = pixel_squared_distances(x)
    assert found.dtype == torch.int64
    assert found.shape == (n, n)
    assert found.tolist() == oracle.integer_squared_distances(x)


def test_black_against_white_does_not_overflow():
    x = torch.zeros(2, 3, 112, 112, dtype=torch.uint8)
    x[1] = 255
    assert pixel_squared_distances(x)[0, 1] == 2_447_020_800


def test_one_grey_level_in_five_pixels_is_seen():
    x = images(1, 3, 112, 112).repeat(2, 1, 1, 1)
    x[1].view(-1)[:5] ^= 1
    assert pixel_squared_distances(x)[0, 1] == 5


def test_the_float32_route_equals_the_integer_one_at_the_extremes():
    centred = torch.cat([images(4, 5000), torch.zeros(2, 5000), torch.full((2, 5000), 255)]).to(torch.uint8)
    centred = (centred ^ 0x80).view(torch.int8)
    assert torch.equal(chunked_gram(centred), centred.long() @ centred.long().T)


def test_the_float32_route_serves_where_the_int8_product_is_inexact_or_too_wide(monkeypatch):
    x = images(6, 3, 30, 30)
    expected = pixel_squared_distances(x)
    monkeypatch.setattr(distances, "int8_product_is_exact", lambda device: False)
    assert torch.equal(pixel_squared_distances(x), expected)
    monkeypatch.undo()
    monkeypatch.setattr(distances, "_INT32_COLUMNS", 100)
    assert torch.equal(pixel_squared_distances(x), expected)


def test_a_saturating_int8_product_is_found_out(monkeypatch):
    def saturating(a, b):
        return (a.float() @ b.float()).clamp(max=2**25).int()

    def absent(a, b):
        raise NotImplementedError

    for broken in (saturating, absent):
        monkeypatch.setattr(torch, "_int_mm", broken)
        int8_product_is_exact.cache_clear()
        assert not int8_product_is_exact("cpu")
    monkeypatch.undo()
    int8_product_is_exact.cache_clear()


def test_memory_format_and_autocast_change_nothing():
    x = images(5, 3, 24, 16)
    expected = pixel_squared_distances(x)
    assert torch.equal(pixel_squared_distances(x.contiguous(memory_format=torch.channels_last)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pixel_squared_distances(x), expected)
        centred = (x.flatten(1) ^ 0x80).view(torch.int8)
        assert torch.equal(chunked_gram(centred), centred.long() @ centred.long().T)


def test_pixel_units():
    x = torch.zeros(2, 3, 112, 112, dtype=torch.uint8)
    x[1] = 255
    squared = pixel_squared_distances(x)
    assert pixel_distances(squared, x[0].numel())[0, 1] == 1
    signed = (x.double() / 127.5 - 1).flatten(1)
    found = pixel_distances(squared, x[0].numel(), norm="none")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0, 1].double(), (signed[0] - signed[1]).norm(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("bad", [torch.zeros(3, 4), torch.zeros(4, dtype=torch.uint8)])
def test_images_of_another_kind_are_refused(bad):
    with pytest.raises(ValueError, match="expected uint8 images"):
        pixel_squared_distances(bad)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)]
)
def test_squared_distances_equal_plain_differences(dtype, tolerance):
    z = torch.randn(30, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    found = squared_distances(z)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = z.double()
    torch.testing.assert_close(found.double(), ((wide[:, None] - wide) ** 2).sum(-1), rtol=tolerance, atol=0)
    assert not found.requires_grad


def test_offset_points_keep_their_tree_and_an_uncentred_float32_gram_loses_it():
    generator = torch.Generator().manual_seed(0)
    offset = 20 * torch.randn(512, generator=generator).sign()
    z = offset + 1e-3 * torch.randn(60, 512, generator=generator)
    wide = z.double()
    truth = h0_edges(((wide[:, None] - wide) ** 2).sum(-1))
    assert torch.equal(h0_edges(squared_distances(z)), truth)
    gram = z @ z.T
    uncentred = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
    assert not torch.equal(h0_edges(uncentred.clamp_min(0)), truth)


@pytest.mark.parametrize("n", [3, 7, 9, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicates_are_exact_ties_at_positive_zero(n, dtype):
    z = torch.randn(1, 33, generator=torch.Generator().manual_seed(n), dtype=dtype).repeat(n, 1)
    found = squared_distances(z)
    assert not found.any()
    assert not torch.signbit(found).any()


def test_what_the_subtraction_cannot_resolve_is_a_tie_and_not_noise():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(30, 64, generator=generator, dtype=torch.float64)
    z[:10] = z[0] + 1e-12 * torch.randn(10, 64, generator=generator, dtype=torch.float64)
    assert not squared_distances(z)[:10, :10].any()
    assert h0_edges(squared_distances(z))[:9].tolist() == [[0, k] for k in range(1, 10)]


def test_autocast_and_reduced_matrix_precision_do_not_reach_the_keys():
    z = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    expected = squared_distances(z)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(squared_distances(z), expected)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("n", [0, 1])
def test_no_point_and_one_point(n):
    assert squared_distances(torch.zeros(n, 4)).tolist() == [[0.0]] * n


@pytest.mark.parametrize("seed", range(40))
def test_equal_lengths_on_a_grid_stay_ties_in_float64(seed):
    rng = np.random.default_rng(seed)
    n, width = int(rng.integers(3, 60)), int(rng.integers(1, 40))
    points = torch.from_numpy(rng.integers(-3, 4, (n, width)) * 2.0 ** rng.integers(-5, 3) + 100)
    exact = (points[:, None] - points[None]).square().sum(-1)
    assert torch.equal(squared_distances(points), exact)


CLOUDS = {
    "plain": lambda: torch.randn(100, 60, generator=torch.Generator().manual_seed(0)),
    "offset": lambda: 20 + torch.randn(33, 17, generator=torch.Generator().manual_seed(1)),
    "not contiguous": lambda: torch.randn(40, 70, generator=torch.Generator().manual_seed(2)).T,
    "one column": lambda: torch.randn(31, 1, generator=torch.Generator().manual_seed(3)),
    "tiny": lambda: 1e-15 * torch.randn(32, 9, generator=torch.Generator().manual_seed(4)),
    "duplicates and zeros": lambda: torch.tensor([[1.0, 2], [0, 0], [1, 2], [0, 0], [3, 1]]),
}


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS)
@pytest.mark.parametrize("directions", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_loops_equal_tensor_operations(cloud, directions, dtype, tolerance, monkeypatch):
    points, results = cloud().to(dtype), []
    for _ in ("loops", "tensors"):
        results.append(squared_chords(points)[0] if directions else squared_distances(points))
        monkeypatch.setattr(distances, "compiled", lambda loops: None)
    found, expected = results
    assert found.dtype == expected.dtype == dtype
    # the numbers of a direction differ by a rounding
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0.1 * tolerance * directions)


@pytest.mark.parametrize("n", [2, 3, 17, 64, 100, 128])
def test_the_compiled_matrix_is_symmetric_to_the_last_bit(n):
    found = squared_distances(torch.randn(n, 512, generator=torch.Generator().manual_seed(n)))
    assert torch.equal(found, found.T)
    assert not found.diagonal().any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("compile_it", [True, False])
def test_points_that_are_not_finite_are_at_no_distance(bad, compile_it, monkeypatch):
    if not compile_it:
        monkeypatch.setattr(distances, "compiled", lambda loops: None)
    points = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    points[3, 2] = bad
    found = squared_distances(points)
    assert found[3, :3].isnan().all()
    assert len(h0_edges(found)) == 8


def test_factors_give_directions_and_leave_a_point_at_zero(monkeypatch):
    points = torch.tensor([[3.0, 4], [0, 0], [0, -2]])
    for _ in ("loops", "tensors"):
        torch.testing.assert_close(squared_chords(points)[1], torch.tensor([0.2, 1, 0.5]))
        monkeypatch.setattr(distances, "compiled", lambda loops: None)
