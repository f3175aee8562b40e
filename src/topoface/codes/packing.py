"""Codes as single whole numbers: mixed radix, first token most significant, so that a prefix is a range of numbers."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError

MOST_CODES = 2**64
MOST_TOKENS = 2**16
Tokens = NDArray[np.unsignedinteger]


def check_alphabets(alphabets: Sequence[int], where: str) -> tuple[int, ...]:
    """The sizes of the alphabets, as a tuple.

    Raises:
        UserError: there is none, one is no size, or all codes together are too many for 64 bits.
    """
    sizes = tuple(int(size) for size in alphabets)
    if not sizes or min(sizes) < 1 or max(sizes) > MOST_TOKENS:
        raise UserError(
            f"alphabets of {list(sizes)} tokens", where, f"give one or more, of 1 to {MOST_TOKENS:,} tokens"
        )
    if math.prod(sizes) >= MOST_CODES:
        raise UserError(
            f"alphabets of {list(sizes)} tokens span 2^64 codes or more",
            where,
            "choose shorter codes or fewer tokens",
        )
    return sizes


def token_type(alphabets: Sequence[int]) -> type[np.uint8] | type[np.uint16]:
    """What holds every token: one byte up to 256 of them."""
    return np.uint8 if max(alphabets) <= 256 else np.uint16


def place_values(alphabets: Sequence[int]) -> list[int]:
    """What a token of each position counts: the product of the alphabets after it."""
    return [math.prod(alphabets[j + 1 :]) for j in range(len(alphabets))]


def pack(codes: NDArray[np.integer], alphabets: Sequence[int]) -> NDArray[np.uint64]:
    """Codes ``[n, L]``, or prefixes ``[n, j]``, as numbers uint64 ``[n]``.

    A prefix becomes the lowest number that a code beginning with it can have.
    """
    packed = np.zeros(len(codes), dtype=np.uint64)
    for j, value in enumerate(place_values(alphabets)[: codes.shape[1]]):
        packed += codes[:, j].astype(np.uint64) * np.uint64(value)
    return packed


def unpack(packed: NDArray[np.uint64], alphabets: Sequence[int]) -> Tokens:
    """Codes ``[n, L]`` of numbers ``[n]``: the reverse of `pack`."""
    codes: Tokens = np.empty((len(packed), len(alphabets)), dtype=token_type(alphabets))
    for j, value in enumerate(place_values(alphabets)):
        codes[:, j] = packed // np.uint64(value) % np.uint64(alphabets[j])
    return codes
