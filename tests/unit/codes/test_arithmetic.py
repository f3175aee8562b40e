"""Packing, digits, the shuffle and Reed-Solomon codes (oracles 21 to 23), and how a shape is chosen."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import codes as oracle
from topoface.codes.arithmetic import (
    is_prime,
    next_prime,
    numeric_codes,
    polynomial_values,
    random_codes,
    reed_solomon_codes,
    shuffled,
)
from topoface.codes.packing import check_alphabets, pack, unpack
from topoface.codes.shape import choose_reed_solomon, choose_shape, message_length, parse_shape, shortest
from topoface.errors import UserError


def test_numbers_and_digits_of_the_fixture() -> None:
    codes = np.array([[91, 82, 9]])
    assert pack(codes, (92, 92, 92)).tolist() == [777777]
    assert numeric_codes(np.array([777777]), (92, 92, 92)).tolist() == codes.tolist()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.integers(0, 2**63))
def test_packing_goes_there_and_back(alphabets: list[int], number: int) -> None:
    number %= math.prod(alphabets)
    codes = unpack(np.array([number], np.uint64), alphabets)
    assert codes[0].tolist() == oracle.digits(number, alphabets)
    assert codes.dtype == (np.uint8 if max(alphabets) <= 256 else np.uint16)
    assert pack(codes, alphabets).tolist() == [number]


def test_codes_that_64_bits_cannot_hold_are_refused() -> None:
    check_alphabets([1024] * 6, "here")
    for alphabets in ([1024] * 7, [], [0, 3], [70000]):
        with pytest.raises(UserError, match="here"):
            check_alphabets(alphabets, "here")


@pytest.mark.parametrize(
    ("count", "seed", "inputs", "expected"),
    [
        (1000, 0, range(8), [822, 942, 137, 578, 388, 339, 792, 417]),
        (128**4, 0, range(3), [35835842, 28369528, 198443485]),
        (128**4, 1, range(3), [201719843, 32493467, 9998946]),
    ],
)
def test_shuffle_of_the_fixture(count: int, seed: int, inputs: range, expected: list[int]) -> None:
    places = shuffled(np.array(inputs), count, seed=seed)
    assert places.tolist() == expected == [oracle.feistel(i, count, seed) for i in inputs]


@pytest.mark.parametrize("count", [1, 2, 3, 17, 1000])
def test_shuffle_reaches_every_place_once(count: int) -> None:
    assert sorted(shuffled(np.arange(count), count, seed=5).tolist()) == list(range(count))


def test_random_codes_are_the_digits_of_the_shuffle() -> None:
    codes = random_codes(np.arange(50), (3, 5, 4), seed=2)
    assert codes.tolist() == [oracle.digits(oracle.feistel(i, 60, 2), [3, 5, 4]) for i in range(50)]


@pytest.mark.parametrize(
    ("q", "k", "length", "message", "expected"),
    [
        (7, 2, 5, 10, [1, 4, 0, 3, 6]),
        (7, 2, 5, 48, [6, 5, 4, 3, 2]),
        (11, 3, 6, 1330, [10, 8, 4, 9, 1, 2]),
    ],
)
def test_polynomials_of_the_fixture(q: int, k: int, length: int, message: int, expected: list[int]) -> None:
    coefficients = unpack(np.array([message], np.uint64), [q] * k)
    assert polynomial_values(coefficients, q, length)[0].tolist() == expected
    assert oracle.polynomial(coefficients[0].tolist(), q, length) == expected


@pytest.mark.parametrize(("q", "k", "length"), [(7, 2, 5), (5, 3, 5), (11, 2, 8)])
def test_two_reed_solomon_codes_agree_in_fewer_positions_than_the_message_has(
    q: int, k: int, length: int
) -> None:
    codes = reed_solomon_codes(np.arange(q**k), q, length, k, seed=0).tolist()
    nearest = min(oracle.hamming(a, b) for a, b in itertools.combinations(codes, 2))
    assert nearest == length - k + 1
    for position in zip(*codes, strict=True):
        assert set(np.bincount(position)) == {q ** (k - 1)}


def test_reed_solomon_codes_want_a_prime_and_no_more_positions_than_it() -> None:
    with pytest.raises(UserError, match="such as 11"):
        reed_solomon_codes(np.arange(3), 9, 3, 2, seed=0)
    with pytest.raises(UserError, match="2 to 7"):
        reed_solomon_codes(np.arange(3), 7, 8, 2, seed=0)


def test_primes() -> None:
    assert [n for n in range(30) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert [next_prime(n) for n in (0, 14, 17, 257)] == [2, 17, 17, 257]


# --- shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "identities", "expected"),
    [("20", 85742, (20,) * 4), ("10", 10**7, (10,) * 7), ("13x3", 2000, (13,) * 3), ("3,5,4", 60, (3, 5, 4))],
)
def test_shapes_are_read(text: str, identities: int, expected: tuple[int, ...]) -> None:
    assert parse_shape(text, identities) == expected


@pytest.mark.parametrize("text", ["", "x3", "3x", "2x3x4", "a", "1", "3,,4", "0x3", "-3"])
def test_what_is_no_shape_is_said_to_be_none(text: str) -> None:
    with pytest.raises(UserError):
        parse_shape(text, 10)


@pytest.mark.parametrize("text", ["20x100000000000", "1x64", "2x64"])
def test_a_length_that_64_bits_cannot_hold_is_refused_before_there_is_a_list_of_it(text: str) -> None:
    with pytest.raises(UserError, match=r"^shape .*: is [\d,]+ tokens long; give 63 at most$"):
        parse_shape(text, 10)
    assert parse_shape("2x63", 10) == (2,) * 63


def test_a_shape_without_a_code_for_everybody_is_refused() -> None:
    assert parse_shape("10x3", 1000) == (10, 10, 10)
    with pytest.raises(UserError, match=r"1,000 codes for 1,001 identities"):
        parse_shape("10x3", 1001)


@pytest.mark.parametrize("identities", [1926, 85_742, 2_059_906, 10**7])
@pytest.mark.parametrize("dimension", [128, 512])
def test_a_chosen_shape_has_room_and_spans_the_embedding(identities: int, dimension: int) -> None:
    shape = choose_shape(identities, dimension)
    assert math.prod(shape) >= 1.25 * identities
    assert sum(k - 1 for k in shape) >= dimension
    assert max(shape) <= 256
    assert sum(shape) <= dimension * 1.1 + len(shape)
    alphabets = choose_reed_solomon(identities, dimension)
    message = message_length(alphabets, identities)
    assert alphabets[0] ** message >= 1.25 * identities
    assert is_prime(alphabets[0])
    assert message < len(alphabets) <= alphabets[0]


@pytest.mark.parametrize("identities", [2, 3, 10, 50, 200])
def test_a_handful_of_identities_gets_a_shape_too(identities: int) -> None:
    for dimension in (2, 64, 512):
        shape = choose_shape(identities, dimension)
        assert identities <= math.prod(shape) < 2**64
        alphabets = choose_reed_solomon(identities, dimension)
        assert identities <= alphabets[0] ** message_length(alphabets, identities)
        assert math.prod(alphabets) < 2**64


def test_the_least_length_is_exact_at_exact_powers() -> None:
    assert [shortest(10, 10**n) for n in (3, 7, 15)] == [3, 7, 15]
    assert shortest(5, 5**20 + 1) == 21
