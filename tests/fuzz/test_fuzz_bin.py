"""Mutated .bin files: the reader answers with images or with one UserError, quickly, and runs nothing."""

import pickle
import random

import numpy as np

from topoface.errors import UserError
from topoface.evaluation.pairs.insightface_bin import parse_insightface_bin

IMAGES = [bytes(range(i, i + 60)) for i in range(12)]
SAME = [True, False] * 3
SEEDS = [
    pickle.dumps((images, same), protocol)
    for protocol in range(1, 6)
    for images, same in [
        (IMAGES, SAME),
        ([np.frombuffer(image, np.uint8) for image in IMAGES], np.array(SAME)),
        (IMAGES, [np.bool_(s) for s in SAME]),
    ]
]
OPERATIONS = [
    bytes([code])
    for code in b"(.0123BCFGIJKLMNPQRSTUVXabcdeghijlopqrstu}])\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x90\x92\x93\x94\x95\x96\x97"
]
FRAGMENTS = [
    b"cos\nsystem\n",
    b"c__builtin__\neval\n",
    b"\x8c\x02os\x8c\x06system\x93",
    b"c_codecs\nencode\n",
    b"\xff" * 8,
    b"\x85R",
    *OPERATIONS,
]


def mutated(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(SEEDS))
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                data[at : at + rng.randrange(1, 30)] = b""
            case 2:
                data[at:at] = rng.choice(FRAGMENTS)
            case 3:
                other = rng.choice(SEEDS)
                start = rng.randrange(len(other))
                data[at:at] = other[start : start + rng.randrange(1, 200)]
            case 4:
                del data[at:]
        if not data:
            break
    return bytes(data)


def test_a_mutated_file_is_read_or_refused():
    rng = random.Random(20240917)
    read = refused = 0
    for _ in range(6000):
        data = mutated(rng)
        try:
            images, same = parse_insightface_bin(memoryview(data), "mutated.bin")
        except UserError:
            refused += 1
        else:
            assert len(images) == 2 * len(same) > 0
            assert all(isinstance(value, bool) for value in same)
            # Nothing can come out that was not in the file (or in text that the file re-encodes).
            assert sum(map(len, images)) <= 2 * len(data) * len(images)
            read += 1
    assert read > 300  # the fuzz does reach the end of the reader
    assert refused > 2000


def test_random_operations_without_a_seed_file_are_refused_or_read():
    rng = random.Random(7)
    for _ in range(3000):
        data = b"".join(
            rng.choice(FRAGMENTS) + rng.randbytes(rng.choice([0, 0, 1, 4]))
            for _ in range(rng.randrange(1, 60))
        )
        try:
            parse_insightface_bin(memoryview(data), "random.bin")
        except UserError:
            continue
