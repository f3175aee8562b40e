"""Attributes: what a CSV may say, which group a pair belongs to, and that nothing is dropped in silence."""

import numpy as np
import pytest

from tests.unit.evaluation.grouped import protocol_of
from topoface.errors import UserError
from topoface.evaluation import open_protocol
from topoface.evaluation.groups.attributes import group_pairs, read_attributes

NAMES = [f"set/{person}/{person}_{k}.jpg" for person in ("ann", "bea", "cid") for k in (1, 2)]
PEOPLE = ["ann", "ann", "bea", "bea", "cid", "cid"]
PAIRS = [(0, 1), (2, 3), (4, 5), (0, 2), (1, 3), (2, 4), (0, 4)]


@pytest.fixture
def protocol():
    return protocol_of(NAMES, PEOPLE, PAIRS)


@pytest.fixture
def table(tmp_path):
    def write(text):
        (tmp_path / "a.csv").write_text(text, encoding="utf-8")
        return read_attributes(tmp_path / "a.csv")

    return write


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a.csv: is empty"),
        ("name,race\nann,x\n", r"a.csv:1: its first line is 'name, race'"),
        ("image\nann\n", r"a.csv:1: its first line is 'image'"),
        ("image,race,race\nann,x,y\n", "a.csv:1"),
        ("image;race\nann;x\n", "a.csv:1"),
        ("person,race\nann,x\nbea\n", r"a.csv:3: has 1 of 2 values; leave unknown values empty"),
        ("person,race\nann,x\nbea,y,z\n", r"a.csv:3: has 3 of 2 values"),
        ("person,race\nann,x\nann,y\n", r"a.csv:3: names 'ann' again \(line 2\)"),
        ('person,race\n"ann,x\n', "is no CSV"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(table, text, complaint):
    with pytest.raises(UserError, match=complaint):
        table(text)


def test_an_absent_or_binary_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_attributes(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"image,race\n\xff\xfe,x\n")
    with pytest.raises(UserError, match=r"is no UTF-8 text \(byte 11\)"):
        read_attributes(tmp_path / "b.csv")


@pytest.mark.parametrize("form", ["set/{0}/{0}_{1}.jpg", "set/{0}/{0}_{1}", "{0}/{0}_{1}.jpg", "{0}/{0}_{1}"])
def test_images_are_matched_with_or_without_suffix_and_common_folder(table, protocol, form):
    rows = [f"{form.format(person, k)},{person}" for person in ("ann", "bea", "cid") for k in (1, 2)]
    (found,), notes = group_pairs(table("\n".join(["image,who", *rows])), protocol)
    assert notes == ()
    assert found.labels == ("ann", "bea", "cid")
    np.testing.assert_array_equal(found.sides, np.repeat(range(3), 2)[protocol.pairs])


def test_people_are_matched_by_the_folder_of_their_pictures(table, protocol):
    (found,), notes = group_pairs(table("person,race\nann,x\nset/bea,y\ncid,x\ndan,x\neve,y\n"), protocol)
    assert found.labels == ("x", "y")
    np.testing.assert_array_equal(found.sides[:, 0], np.array([0, 0, 1, 1, 0, 0])[protocol.pairs[:, 0]])
    assert len(notes) == 1
    assert "2 of 5 names of people" in notes[0]
    assert "'dan', 'eve'" in notes[0]


def test_a_folder_of_several_people_is_no_person(table, protocol):
    with pytest.raises(
        UserError, match=r"names no person of planted, whose first image is 'set/ann/ann_1.jpg'"
    ):
        group_pairs(table("person,race\nset,x\n"), protocol)


def test_one_image_under_two_names_is_refused(table, protocol):
    with pytest.raises(UserError, match=r"'ann/ann_1' and 'set/ann/ann_1.jpg' are one image"):
        group_pairs(table("image,race\nann/ann_1,x\nset/ann/ann_1.jpg,y\n"), protocol)


def test_a_name_that_two_images_share_without_suffix_is_neither(table):
    protocol = protocol_of(["a.jpg", "a.png", "b.jpg"], [1, 1, 2], [(0, 1), (0, 2), (1, 2), (1, 0)])
    (found,), notes = group_pairs(table("image,kind\na,x\na.png,y\nb,x\n"), protocol)
    np.testing.assert_array_equal(found.sides, np.array([-1, 1, 0])[protocol.pairs])
    assert "'a'" in notes[0]


def test_drawn_people_are_matched_by_their_number(table):
    protocol = open_protocol("synthetic:?identities=20&images=2&seed=1&first=50&pairs=20")
    rows = [f"{50 + i},{'ab'[i % 2]}" for i in range(20)]
    (found,), _ = group_pairs(table("\n".join(["person,kind", *rows])), protocol)
    number = np.array([int(name.split()[-3]) for name in protocol.images.names])
    np.testing.assert_array_equal(found.sides, number[protocol.pairs] % 2)


def test_unknown_values_are_counted_and_their_pairs_are_in_no_group(table, protocol):
    (found,), notes = group_pairs(table("person,race\nann,x\nbea,\ncid, NaN\n"), protocol)
    assert found.unknown == 4
    assert any("4 images of 6 have no race" in note for note in notes)
    np.testing.assert_array_equal(
        (found.sides < 0).any(axis=1), [(i // 2 > 0) or (j // 2 > 0) for i, j in PAIRS]
    )


def test_a_column_of_too_many_values_or_of_none_is_left_out_and_said(tmp_path):
    names = [f"{i}.jpg" for i in range(30)]
    protocol = protocol_of(names, [i // 2 for i in range(30)], [(i, (i + 1) % 30) for i in range(30)])
    (tmp_path / "a.csv").write_text(
        "image,id,none,kind\n" + "".join(f"{i}.jpg,n{i},,{'ab'[i % 2]}\n" for i in range(30))
    )
    found, notes = group_pairs(read_attributes(tmp_path / "a.csv"), protocol)
    assert [grouping.name for grouping in found] == ["kind"]
    assert "id has 30 different values and is left out" in notes[0]
    assert "none has no value for any image" in notes[1]
    (tmp_path / "b.csv").write_text("image,id\n" + "".join(f"{i}.jpg,n{i}\n" for i in range(30)))
    with pytest.raises(UserError, match="has no attribute to judge by: id has 30"):
        group_pairs(read_attributes(tmp_path / "b.csv"), protocol)


@pytest.fixture
def numbered(tmp_path):
    """Forty images in a ring of pairs, with one column of numbers."""

    def build(column, values):
        names = [f"{i}.jpg" for i in range(len(values))]
        pairs = [(i, (i + 1) % len(values)) for i in range(len(values))]
        protocol = protocol_of(names, [i // 2 for i in range(len(values))], pairs)
        rows = "".join(f"{i},{value}\n" for i, value in enumerate(values))
        (tmp_path / "n.csv").write_text(f"image,{column}\n{rows}")
        return group_pairs(read_attributes(tmp_path / "n.csv"), protocol).groupings, protocol

    return build


def test_a_pair_belongs_to_its_image_of_lower_quality(numbered):
    values = np.random.default_rng(0).permutation(40) / 100
    (found,), protocol = numbered("quality", values)
    assert found.labels == ("below 0.0975", "0.0975 to 0.195", "0.195 to 0.292", "0.292 and above")
    assert "lower quality" in found.rule
    lower = values[protocol.pairs].min(axis=1)
    expected = (lower >= 0.0975).astype(int) + (lower >= 0.195) + (lower >= 0.292)
    np.testing.assert_array_equal(found.sides, np.stack([expected, expected], 1))


def test_a_pair_belongs_to_its_image_turned_further_whichever_way(numbered):
    values = np.random.default_rng(1).permutation(41) - 20.0
    (found,), protocol = numbered("yaw_degrees", values)
    assert found.labels[0] == "below 5"
    further = np.abs(values[protocol.pairs]).max(axis=1)
    np.testing.assert_array_equal(found.sides[:, 0] == 0, further < 5)
    np.testing.assert_array_equal(found.sides[:, 1] == 3, further >= 15)


def test_ages_give_groups_and_gaps(numbered):
    values = np.random.default_rng(2).permutation(40) + 20
    (age, gap), protocol = numbered("age", values)
    assert (age.name, gap.name) == ("age", "age gap")
    quarter = np.searchsorted([29.8, 39.5, 49.2], values, side="right")
    np.testing.assert_array_equal(age.sides, quarter[protocol.pairs])
    apart = np.abs(np.diff(values[protocol.pairs])[:, 0])
    edges = [float(f"{q:.3g}") for q in np.quantile(apart[protocol.same], (0.25, 0.5, 0.75))]
    np.testing.assert_array_equal(gap.sides[:, 0], np.searchsorted(edges, apart, side="right"))


def test_few_numbers_are_groups_themselves_in_their_order(numbered):
    (found,), protocol = numbered("sharpness", [10, 2, 1, 2] * 10)
    assert found.labels == ("1", "2", "10")
    np.testing.assert_array_equal(found.sides, np.array([2, 1, 0, 1] * 10)[protocol.pairs])


def test_quartiles_that_fall_together_leave_no_empty_group(numbered):
    (found,), _ = numbered("blur", [0] * 30 + list(range(1, 11)))
    assert found.labels == ("all",) or all(
        found.sides.min(axis=1).tolist().count(k) for k in range(len(found.labels))
    )
