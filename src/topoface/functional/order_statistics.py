"""Exact order statistics of numbers that are never in one place: they come in blocks, on one process or several.

The bits of a float, with those of negative numbers turned round, are an integer in the same order. Counting their
16-bit digits from the highest down, as in a radix sort, pins down the k-th number bit by bit: a pass over the numbers a
digit, a histogram of 65,536 counts a pass, and nothing that the host must wait for.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from topoface.functional.collectives import sum_over_ranks

_DIGIT_BITS = 16
_DIGITS = 2**_DIGIT_BITS

Blocks = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives the numbers anew at each call: blocks of float32 or float64 values and, of the same shape, which of them count."""


def order_statistics(blocks: Blocks, ranks: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers at some places of the ascending order of all numbers of all processes.

    Args:
        blocks: of this process; every process must take part.
        ranks: int64 ``[t]``, places from 0, alike on all processes; where there are fewer numbers, the result means nothing.
        dtype: of the values, float32 or float64.

    Returns:
        ``[t]``, exactly those numbers (-0.0 counts as 0.0; NaN as larger than all).
    """
    bits = torch.finfo(dtype).bits
    prefix, left = torch.zeros_like(ranks), ranks
    for shift in range(bits - _DIGIT_BITS, -1, -_DIGIT_BITS):
        counts = torch.zeros(len(ranks), _DIGITS, dtype=torch.int64, device=ranks.device)
        higher = 2 ** (bits - shift - _DIGIT_BITS) - 1  # mask of the bits that are known already
        top = not higher
        for values, counted in blocks():
            keys = _ascending_bits(values).flatten()
            digits = (keys >> shift) & (_DIGITS - 1)
            chosen = counted.flatten()
            for row, start in zip(counts[:1] if top else counts, prefix, strict=False):
                among = chosen if top else chosen & (((keys >> (shift + _DIGIT_BITS)) & higher) == start)
                row.scatter_add_(0, digits, among.long())
        if top:  # no number is told apart yet: all places count in one histogram
            counts = counts[:1].expand_as(counts)
        below = sum_over_ranks(counts).cumsum(1)
        digit = torch.searchsorted(below, left[:, None], right=True)[:, 0].clamp(max=_DIGITS - 1)
        left = left - torch.where(digit > 0, below.gather(1, (digit - 1).clamp(min=0)[:, None])[:, 0], 0)
        prefix = (prefix << _DIGIT_BITS) | digit
    return _number_of(prefix, dtype)


def _ascending_bits(values: Tensor) -> Tensor:
    """int64 like ``values``, ascending with them; only the lowest 32 bits are used for float32."""
    values = torch.where(values.isnan(), torch.nan, values + 0.0)  # one zero, one NaN
    if values.dtype == torch.float32:
        bits = values.view(torch.int32).long()
        return torch.where(bits < 0, bits ^ (2**31 - 1), bits) + 2**31
    bits = values.view(torch.int64)
    return torch.where(bits < 0, bits ^ (2**63 - 1), bits) ^ -(2**63)


def _number_of(keys: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `_ascending_bits`."""
    if dtype == torch.float32:
        bits = keys - 2**31
        return torch.where(bits < 0, bits ^ (2**31 - 1), bits).to(torch.int32).view(torch.float32)
    bits = keys ^ -(2**63)
    return torch.where(bits < 0, bits ^ (2**63 - 1), bits).view(torch.float64)
