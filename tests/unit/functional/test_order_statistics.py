"""Order statistics by counted digits are those of a sort, bit for bit (oracle 15 of unpg.md)."""

from itertools import pairwise

import pytest
import torch

from topoface.functional.order_statistics import order_statistics


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 5, 9, 1000, 100_003])
def test_equal_the_sort(size: int, dtype: torch.dtype) -> None:
    """With ties, both zeros, numbers that do not count, in uneven blocks."""
    random = torch.Generator().manual_seed(size)
    values = (torch.randn(size, generator=random, dtype=dtype) * 50).round() / 40
    values[:: max(1, size // 7)] = -0.0
    counted = torch.rand(size, generator=random) < 0.8
    counted[0] = True
    expected = (values[counted] + 0.0).sort().values
    places = (torch.tensor([0, 0.25, 0.5, 0.75, 1]) * (len(expected) - 1)).long()

    def blocks() -> list[tuple[torch.Tensor, torch.Tensor]]:
        cuts = [0, size // 3, size // 2, size]
        return [(values[a:b], counted[a:b]) for a, b in pairwise(cuts)]

    got = order_statistics(blocks, places, dtype)
    assert torch.equal(got, expected[places])
    assert not got.signbit()[got == 0].any()
