"""Identity codes the slow way, written from gif.md section 4: digits, polynomials, the drawn shuffle, one number at a time."""

import hashlib


def digits(number: int, alphabets: list[int]) -> list[int]:
    """Most significant first."""
    out = []
    for k in reversed(alphabets):
        number, token = divmod(number, k)
        out.append(token)
    return out[::-1]


def polynomial(message: list[int], q: int, length: int) -> list[int]:
    """c_j = sum_i a_i j^i mod q."""
    return [sum(a * j**i for i, a in enumerate(message)) % q for j in range(length)]


def feistel(number: int, count: int, seed: int) -> int:
    bits = -(-((count - 1).bit_length()) // 2)
    wrap, low = 2**64 - 1, 2**bits - 1
    keys = [int.from_bytes(hashlib.sha256(f"{seed}:{i}".encode()).digest()[:8], "little") for i in range(6)]
    while True:
        left, right = number >> bits, number & low
        for key in keys:
            v = (right ^ key) * 0x9E3779B97F4A7C15 & wrap
            v ^= v >> 29
            v = v * 0xBF58476D1CE4E5B9 & wrap
            v ^= v >> 32
            left, right = right, left ^ (v & low)
        number = (left << bits) | right
        if number < count:
            return number


def hamming(one: list[int], other: list[int]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))
