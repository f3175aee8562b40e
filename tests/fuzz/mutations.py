"""Random damage to a file's bytes, the same for the same generator."""

import numpy as np


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """``data`` with one to three of: flipped bits, overwritten runs, a cut, insertions, a removed or doubled piece."""
    for _ in range(int(rng.integers(1, 4))):
        data = MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, rng)
    return data


def _position(data: bytes, rng: np.random.Generator) -> int:
    """Anywhere, headers at the front more often."""
    front = rng.random() < 0.3
    return int(rng.integers(min(len(data), 64) + 1 if front else len(data) + 1))


def _flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if data else 0):
        changed[min(_position(data, rng), len(data) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    at, run = _position(data, rng), _run(rng)
    return data[:at] + run + data[at + len(run) :]


def _insert(data: bytes, rng: np.random.Generator) -> bytes:
    at = _position(data, rng)
    return data[:at] + _run(rng) + data[at:]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: _position(data, rng)]


def _remove(data: bytes, rng: np.random.Generator) -> bytes:
    at = _position(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 40)) :]


def _double(data: bytes, rng: np.random.Generator) -> bytes:
    first, last = sorted((_position(data, rng), _position(data, rng)))
    return data[:last] + data[first:last] + data[last:]


def _run(rng: np.random.Generator) -> bytes:
    """Random bytes, or the extreme ones that lengths and counts are afraid of."""
    size = int(rng.integers(1, 17))
    return rng.bytes(size) if rng.random() < 0.5 else bytes([int(rng.choice([0, 0x7F, 0x80, 0xFF]))]) * size


MUTATIONS = (_flip_bits, _overwrite, _insert, _cut, _remove, _double)
