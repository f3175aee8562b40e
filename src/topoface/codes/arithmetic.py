"""Codes that know nothing of faces (section 4.6 of our reading of GIF): digits, drawn digits, and codes far apart.

All work for any number of identities in no memory, are unique by construction, and serve as controls: what a tree or
residual codes give beyond them is what their structure is worth.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from topoface.codes.assign import Integers
from topoface.codes.packing import Tokens, unpack
from topoface.errors import UserError

_ROUNDS = 6


def numeric_codes(rows: Integers, alphabets: Sequence[int]) -> Tokens:
    """Codes ``[n, L]``: the digits of each row number, most significant first."""
    return unpack(rows.astype(np.uint64), alphabets)


def random_codes(rows: Integers, alphabets: Sequence[int], *, seed: int) -> Tokens:
    """Codes ``[n, L]``: the digits of each row number's place in a shuffle of all codes."""
    return unpack(shuffled(rows, math.prod(alphabets), seed=seed), alphabets)


def reed_solomon_codes(rows: Integers, q: int, length: int, message: int, *, seed: int) -> Tokens:
    """Codes ``[n, L]`` of which any two agree in at most ``message - 1`` positions.

    The digits to base q of a shuffled row number are the coefficients of a polynomial, constant first; the tokens are its
    values at 0 .. L - 1, and two polynomials of degree below ``message`` meet in fewer points than that.

    Args:
        rows: int64 ``[n]``, below q^message.
        q: a prime: the alphabet of every position.
        length: L, at most q.
        message: digits that tell identities apart.
        seed: of the shuffle.

    Raises:
        UserError: q is no prime, or the length is above it.
    """
    if not is_prime(q):
        raise UserError(f"is {q}", "alphabet of rs codes", f"give a prime, such as {next_prime(q)}")
    if not message <= length <= q:
        raise UserError(
            f"is {length}", "length of rs codes", f"give {message} to {q}: from the message to the prime"
        )
    return polynomial_values(unpack(shuffled(rows, q**message, seed=seed), [q] * message), q, length)


def polynomial_values(coefficients: NDArray[np.integer], q: int, length: int) -> Tokens:
    """Values ``[n, length]`` at 0, 1, .. modulo q of polynomials ``[n, k]``, constant first."""
    powers = np.array([[pow(j, i, q) for j in range(length)] for i in range(coefficients.shape[1])])
    values: Tokens = (coefficients.astype(np.int64) @ powers % q).astype(np.uint16)
    return values


def shuffled(rows: Integers, count: int, *, seed: int) -> NDArray[np.uint64]:
    """Place ``[n]`` of each number in a keyed shuffle of ``range(count)``: a Feistel network that walks on until it is inside."""
    bits = np.uint64(max(math.ceil((count - 1).bit_length() / 2), 1))
    low = np.uint64((1 << int(bits)) - 1)
    keys = [
        np.frombuffer(hashlib.sha256(f"{seed}:{i}".encode()).digest()[:8], "<u8").astype(np.uint64)[0]
        for i in range(_ROUNDS)
    ]
    places = rows.astype(np.uint64)
    outside = np.ones(len(places), np.bool_)
    while outside.any():
        walking = places[outside]
        left, right = walking >> bits, walking & low
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & low)
        places[outside] = left << bits | right
        outside[outside] = places[outside] >= count
    return places


def is_prime(number: int) -> bool:
    """By trial division: alphabets are small."""
    return number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))


def next_prime(number: int) -> int:
    """The least prime not below the number."""
    return next(n for n in range(max(number, 2), 2 * max(number, 2) + 1) if is_prime(n))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values * np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around
    values ^= values >> np.uint64(29)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(32)
    return values
