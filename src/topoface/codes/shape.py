"""Alphabets and lengths of codes: as given, or chosen by what they cost (section 4.7 of our reading of GIF)."""

import math

from topoface.codes.arithmetic import next_prime
from topoface.codes.packing import MOST_CODES, check_alphabets
from topoface.errors import UserError

ROOM = 1.25
"""Codes for each identity, so that new ones find a place."""
MOST_CHOSEN = 256
"""The largest alphabet that is chosen without being asked for: a token stays one byte."""
FEWEST_PER_TOKEN = 8
"""Identities that a token should stand for, where a choice is left."""
LONGEST = 63
"""Two tokens to a position are 2^64 codes after that, which is more than `MOST_CODES` allows."""
_FORM = "write K (the shortest length that fits), KxL, or K1,K2,.."


def parse_shape(text: str, identities: int) -> tuple[int, ...]:
    """Alphabets from ``"20"`` (the shortest length that has a code for everybody), ``"13x3"`` or ``"3,5,4"``.

    Raises:
        UserError: it is none of them, or has too few codes.
    """
    where = f"shape {text}"
    parts = text.lower().split("x") if "x" in text.lower() else text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError("is no shape of codes", where, _FORM)
    numbers = [int(part) for part in parts]
    if "x" in text.lower():
        if len(numbers) != 2:
            raise UserError("is no shape of codes", where, _FORM)
        if numbers[1] > LONGEST:  # before there is a list of that length
            raise UserError(f"is {numbers[1]:,} tokens long", where, f"give {LONGEST} at most")
        numbers = numbers[:1] * numbers[1]
    elif len(numbers) == 1:
        if numbers[0] < 2:
            raise UserError("is an alphabet of less than two tokens", where, "give 2 or more")
        numbers *= shortest(numbers[0], identities)
    return check_room(numbers, identities, where)


def check_room(alphabets: list[int] | tuple[int, ...], identities: int, where: str) -> tuple[int, ...]:
    """The alphabets, if they have a code for everybody.

    Raises:
        UserError: they have not.
    """
    alphabets = check_alphabets(alphabets, where)
    codes = math.prod(alphabets)
    if codes < identities:
        remedy = "give more tokens or a greater length"
        raise UserError(f"has {codes:,} codes for {identities:,} identities", where, remedy)
    return alphabets


def choose_shape(identities: int, dimension: int) -> tuple[int, ...]:
    """The cheapest equal alphabets that can do their work.

    They have 1.25 codes for each identity; the L (K - 1) directions that a head of L classifiers can separate are no less than the
    embedding's D; and a token is one byte and stands for 8 identities or more. Cost is that of a step: the sum of K_j.
    Where identities are too few for all of that, as many directions as 64 bits allow.
    """
    largest = max(min(MOST_CHOSEN, identities // FEWEST_PER_TOKEN), 2)
    lengths = range(max(shortest(largest, math.ceil(ROOM * identities)), 1), LONGEST + 1)
    shapes = []
    for length in lengths:
        tight = _root(math.ceil(ROOM * identities), length)
        k = max(tight, math.ceil(dimension / length) + 1, 2)
        if k <= largest and k**length < MOST_CODES:
            shapes.append((k,) * length)
    if not shapes:
        longest = max(length for length in range(1, LONGEST + 1) if largest**length < MOST_CODES)
        shapes.append((largest,) * longest)
    return min(shapes, key=lambda shape: (sum(shape), len(shape)))


def choose_reed_solomon(identities: int, dimension: int) -> tuple[int, ...]:
    """Alphabets: the least prime up to 257 with room, and a length that spans D where the prime allows it."""
    message = 2
    while (q := next_prime(_root(math.ceil(ROOM * identities), message))) > MOST_CHOSEN + 1:
        message += 1
    most = max(length for length in range(1, q + 1) if q**length < MOST_CODES)
    length = min(max(math.ceil(dimension / max(q - 1, 1)), message + 1), most)
    return (q,) * length


def message_length(alphabets: tuple[int, ...], identities: int) -> int:
    """Tokens of ``rs`` codes that tell so many identities apart."""
    return shortest(max(alphabets[0], 2), identities)


def shortest(k: int, identities: int) -> int:
    """Least length with k^length >= identities, in whole numbers: logarithms are wrong at exact powers."""
    length = 1
    while k**length < identities:
        length += 1
    return length


def _root(codes: int, length: int) -> int:
    """Least k with k^length >= codes."""
    k = max(int(codes ** (1 / length)) - 1, 1)
    while k**length < codes:
        k += 1
    return k
