"""RecordIO: both styles, every kind of record, and a named error for each way a file can be wrong."""

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.unit.data.recfile import (
    MAGIC,
    Record,
    decoded,
    encoded,
    face,
    listed_records,
    plain_records,
    write_rec,
)
from topoface.data import open_source
from topoface.errors import UserError

IMAGE = encoded(face(0))


@pytest.mark.parametrize("declared", [3, None])
@pytest.mark.parametrize("records", [plain_records(), listed_records()], ids=["plain", "listed"])
def test_both_styles_give_images_and_labels(tmp_path, records, declared) -> None:
    write_rec(tmp_path, records, declared=declared)
    source = open_source(tmp_path)
    assert source.identities == 3
    assert source.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for i in range(12):
        image, label = source[i]
        assert np.array_equal(image, decoded(encoded(face(i))))
        assert label == i // 4


def test_a_rec_of_any_name_opens_with_its_idx_in_any_order(tmp_path) -> None:
    path = write_rec(tmp_path, plain_records(), name="faces", reverse=True)
    source = open_source(path)
    assert source.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert source.describe(2).startswith(f"{path}, record 2 at byte ")


def test_the_property_file_belongs_to_train_rec_only(tmp_path) -> None:
    assert open_source(write_rec(tmp_path, plain_records(), name="faces", declared=9)).identities == 3
    assert open_source(write_rec(tmp_path, plain_records(), declared=9)).identities == 9


def test_the_first_of_several_labels_counts(tmp_path) -> None:
    records = [Record(n, [n % 2, 7.5, -1.0], encoded(face(n))) for n in range(4)]
    source = open_source(write_rec(tmp_path, records))
    assert source.labels.tolist() == [0, 1, 0, 1]
    assert np.array_equal(source[3][0], decoded(encoded(face(3))))


def test_a_record_stored_in_parts_because_it_contains_the_magic_is_joined(tmp_path) -> None:
    # Two magics at multiples of 4 of the payload, in a comment of the JPEG: 24 header bytes, SOI, marker, length.
    comment = b"xx" + MAGIC + b"yyyy" + MAGIC + b"zz"
    image = IMAGE[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + IMAGE[2:]
    path = write_rec(tmp_path, [Record(0, 0, image), Record(1, 1, IMAGE)])
    assert path.read_bytes().count(MAGIC) == 4  # three parts and the other record
    source = open_source(path)
    assert source.labels.tolist() == [0, 1]
    assert source._parse(0)[1] == image
    assert np.array_equal(source[0][0], decoded(IMAGE))


def test_a_gap_in_the_labels_counts_as_identities(tmp_path) -> None:
    source = open_source(write_rec(tmp_path, [Record(n, 3 * n, IMAGE) for n in range(3)]))
    assert source.identities == 7


def test_labels_are_read_once_and_cannot_be_changed(tmp_path) -> None:
    source = open_source(write_rec(tmp_path, plain_records()))
    assert source.labels is source.labels
    with pytest.raises(ValueError, match="read-only"):
        source.labels[0] = 1


def test_one_changed_bit_in_an_image_changes_the_fingerprint(tmp_path) -> None:
    path = write_rec(tmp_path, plain_records())
    before, data = open_source(path).fingerprint(), bytearray(path.read_bytes())
    data[-50] ^= 1
    path.unlink()
    path.write_bytes(data)
    assert open_source(path).fingerprint() != before


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (-1.0, "-1.0"),
        (0.5, "0.5"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (1e30, "1.0"),
        ([-2.0], "-2.0"),
    ],
)
def test_a_label_that_is_no_identity_is_refused_with_its_record(tmp_path, label, shown) -> None:
    path = write_rec(tmp_path, [*plain_records(), Record(12, label, IMAGE)], declared=3)
    source = open_source(path)
    offset = source.describe(12).rsplit(" ", 1)[-1]
    with pytest.raises(UserError, match=rf"train\.rec, record 12 at byte {offset}: its label is {shown}"):
        source.labels
    with pytest.raises(UserError, match=r"record 12 at byte .*label"):
        source[12]


def test_a_label_beyond_the_property_file_names_both(tmp_path) -> None:
    write_rec(tmp_path, plain_records(), declared=2)
    with pytest.raises(
        UserError, match=r"record 8 at byte \d+: its label is 2, but .*property says 2 identities; cor"
    ):
        open_source(tmp_path).labels


@pytest.mark.parametrize("text", ["", "abc", "0,112,112", "-3,112,112", "99999999999,112,112", "1.5"])
def test_a_property_file_without_a_count_is_refused(tmp_path, text) -> None:
    write_rec(tmp_path, plain_records())
    (tmp_path / "property").write_text(text)
    with pytest.raises(UserError, match=r"property: starts with .*identities,height,width"):
        open_source(tmp_path)


def broken(path: Path, damage: str) -> None:
    """Damage record 5 of 12, or the index."""
    data, idx = bytearray(path.read_bytes()), path.with_suffix(".idx")
    lines = idx.read_text().splitlines()
    at = int(lines[5].split("\t")[1])
    match damage:
        case "magic":
            data[at] ^= 1
        case "length":
            data[at + 4 : at + 8] = struct.pack("<I", 2**29 - 1)
        case "short":
            data[at + 4 : at + 8] = struct.pack("<I", 5)
        case "kind 2":
            data[at + 7] |= 2 << 5
        case "kind 1":
            data[at + 7] |= 1 << 5
        case "flag":
            data[at + 8 : at + 12] = b"\xff\xff\xff\x7f"
        case "cut":
            del data[at + 100 :]
        case "offset":
            lines[5] = "5\t99999999999999999999999999"
        case "unaligned":
            lines[5] = f"5\t{at + 1}"
    path.write_bytes(data)
    idx.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("magic", "starts with 0xced7230b, not 0xced7230a"),
        ("length", "the file ends inside it"),
        ("short", "payload of 5 bytes is too short"),
        ("kind 2", "part kind 2 is out of place"),
        ("kind 1", "part kind 0 is out of place"),
        ("flag", "announces 2147483647 labels"),
        ("cut", "the file ends inside it"),
        ("offset", "the file ends before it"),
        ("unaligned", "starts with 0x"),
    ],
)
@pytest.mark.parametrize("declared", [3, None])
def test_a_damaged_record_is_named_with_key_and_offset(tmp_path, damage, message, declared) -> None:
    path = write_rec(tmp_path, plain_records(), declared=declared)
    broken(path, damage)
    with pytest.raises(UserError, match=rf"^{path}, record 5 at byte \d+: .*{message}.*copy it again"):
        open_source(path).labels
    if declared:  # otherwise opening already reads all headers
        with pytest.raises(UserError, match=rf"record 5 at byte \d+: .*{message}"):
            open_source(path)[5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds 0 numbers"),
        ("0\t0\n1", "holds 3 numbers"),
        ("0\tx\n", "contains b'x'"),
        ("0\t-4\n", "contains b'-'"),
        ("0\t0\n1\t4\n0\t8\n", "lists key 0 twice"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, text, message) -> None:
    path = write_rec(tmp_path, plain_records())
    path.with_suffix(".idx").write_text(text)
    with pytest.raises(UserError, match=rf"train\.idx: {message}"):
        open_source(path)


def test_a_missing_idx_and_an_empty_rec_are_refused(tmp_path) -> None:
    path = write_rec(tmp_path, plain_records())
    path.with_suffix(".idx").unlink()
    with pytest.raises(UserError, match=r"train\.idx: cannot be read .*beside the \.rec"):
        open_source(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"train\.rec: has 0 bytes"):
        open_source(path)


@pytest.mark.parametrize(("drop", "missing"), [(1, 1), (7, 7), (12, 12)])
def test_an_image_key_that_the_header_promises_but_the_index_lacks_is_named(tmp_path, drop, missing) -> None:
    records = [record for record in listed_records() if record.key != drop]
    with pytest.raises(UserError, match=rf"train\.idx: key {missing} is missing .*images 1 to 12"):
        open_source(write_rec(tmp_path, records))


@pytest.mark.parametrize("end", [float("nan"), float("inf"), -3.0, 1.0, 5.5])
def test_a_header_without_a_sensible_range_is_refused(tmp_path, end) -> None:
    records = listed_records()
    records[0] = Record(0, [end, 16.0])
    with pytest.raises(UserError, match="record 0 at byte 0: the header says"):
        open_source(write_rec(tmp_path, records))
