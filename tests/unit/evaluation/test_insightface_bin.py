"""The restricted .bin reader: every spelling of honest files, and nothing that could run or blow up."""

import io
import os
import pickle
import pickletools

import numpy as np
import pytest

from topoface.errors import UserError
from topoface.evaluation.pairs.insightface_bin import parse_insightface_bin, read_insightface_bin

IMAGES = [bytes([i]) * (40 + i) for i in range(8)]
SAME = [True, False, True, True]


def parsed(data):
    images, same = parse_insightface_bin(memoryview(data), "some.bin")
    return [bytes(image) for image in images], same


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "content",
    [
        (IMAGES, SAME),
        [tuple(IMAGES), tuple(SAME)],
        ([bytearray(image) for image in IMAGES], [int(s) for s in SAME]),
        ([np.frombuffer(image, np.uint8) for image in IMAGES], np.array(SAME)),
        ([np.array(list(image), np.uint8) for image in IMAGES], [np.bool_(s) for s in SAME]),
    ],
    ids=["bytes", "tuples", "bytearrays", "array_views", "arrays"],
)
def test_every_spelling_of_an_honest_file_is_read(content, protocol):
    if protocol < 5 and isinstance(content[0][0], bytearray):
        pytest.skip("older protocols spell a bytearray as a call that no published file contains")
    assert parsed(pickle.dumps(content, protocol)) == (IMAGES, SAME)


def test_a_python_2_pickle_is_read():
    def string(data):
        return b"U" + bytes([len(data)]) + data

    body = b"".join(string(image) for image in IMAGES)
    data = b"\x80\x02](" + body + b"e](" + b"I01\nI00\n\x88\x88" + b"e\x86."
    pickletools.dis(data, out=io.StringIO())  # the standard library agrees that this is a pickle
    assert parsed(data) == (IMAGES, SAME)


def test_images_are_views_into_the_mapped_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps((IMAGES, SAME), 4))
    images, same = read_insightface_bin(path)
    assert [bytes(image) for image in images] == IMAGES
    assert same == SAME
    assert all(
        isinstance(image.obj, type(images[0].obj)) and not isinstance(image.obj, bytes) for image in images
    )


class Calls:
    def __init__(self, function, *arguments):
        self.what = (function, arguments)

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "attack",
    [
        lambda mark: Calls(os.system, f"touch {mark}"),
        lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: ([Calls(open, str(mark), "w")], [True]),
        lambda mark: (IMAGES, Calls(exec, f"open({str(mark)!r}, 'w')")),
        lambda mark: Calls(bytearray, 10**12),
        lambda mark: Calls(np.zeros, 10**12),
        lambda mark: Calls(__import__, "os"),
    ],
)
def test_a_pickle_that_calls_anything_is_refused_and_not_run(attack, protocol, tmp_path):
    mark = tmp_path / "ran"
    with pytest.raises(UserError, match=r"would call|pickle operation|calls something"):
        parsed(pickle.dumps(attack(mark), protocol))
    assert not mark.exists()


HUGE = (1 << 62).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x04\x8e" + HUGE + b"x.", "ends in the middle"),  # bytes of 4 EiB
        (b"\x80\x04\x8d" + HUGE + b"x.", "ends in the middle"),
        (b"\x80\x05\x96" + HUGE + b"x.", "ends in the middle"),
        (b"B\xff\xff\xff\xffx.", "ends in the middle"),
        (b"]r\xff\xff\xff\xff.", "does not hold the pair"),  # a memo slot far out must not make a table
        (b"L" + b"9" * 100  + b"L\n.", "is not a number"),
        (b"L" + b"9" * 100_000 + b"L\n.", "endless line"),
        (b"\x8b\xff\xff\xff\x7f1.", "pickle operation"),
        (b"(" * 200_000 + b"l" * 200_000 + b".", "does not hold"),  # nested lists, deeper than any recursion
        (b"]q\x00" + b"h\x00\x85" * 100_000 + b".", "does not hold"),
        (b"]q\x00h\x00a" * 10 + b".", "does not hold"),  # a list that holds itself
        (b"N" * 2_000_000, "more than 1000000 pickle operations"),
        (b"", "ends in the middle"),
        (b".", "empty stack"),
        (b"a.", "empty stack"),
        (b"e.", "misses a mark"),
        (b"(.", "empty stack"),
        (b"h\x00.", "never stored"),
        (b"NNa.", "no list"),
        (b"NNb.", "sets the state"),
        (b"NNR.", "no name"),
        (b"\x8c\x02\xff\xff.", "no UTF-8"),
        (b"]]\x86.", "issame is not a list"),
        (b"](NNe](\x88e\x86.", "image 0 is not the bytes"),
        (b"](U\x01ae](\x88e\x86.", "1 images do not make 1 pairs"),
        (b"](U\x01aU\x01be](K\x02e\x86.", "issame is not a list of true and false"),
        (b"](U\x00U\x00e](\x88e\x86.", "image 0 is not the bytes"),
        (b"U\x02ab.", "does not hold the pair"),
    ],
)  # fmt: skip
def test_hostile_and_damaged_pickles_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        parsed(data)


def test_one_text_cannot_be_blown_up_many_times():
    call = (
        b"c_codecs\nencode\nq\x00X\x00\x01\x00\x00"
        + b"x" * 256
        + b"q\x01X\x06\x00\x00\x00latin1q\x02\x86q\x03R"
    )
    again = b"h\x00h\x03R"
    with pytest.raises(UserError, match="blows one text up"):
        parsed(call + again * 100 + b".")


@pytest.mark.parametrize("content", [None, b""])
def test_absent_and_empty_files_are_named(tmp_path, content):
    path = tmp_path / "a.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.bin: cannot be read"):
        read_insightface_bin(path)
