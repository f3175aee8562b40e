"""open_source finds the right kind, or says in one line what is there instead and what to do."""

import pytest

from tests.unit.data.recfile import Record, encoded, face, plain_records, write_folder, write_rec
from topoface.data import open_source
from topoface.data.source import spread
from topoface.errors import UserError


def one_identity_folder(path):
    return write_folder(path, identities=1)


def one_identity_rec(path):
    return write_rec(path, [Record(n, 0, encoded(face(n))) for n in range(3)])


def images_without_folders(path):
    (path / "a.jpg").write_bytes(encoded(face(0)))
    return path


def folder_with_a_foreign_rec(path):
    write_rec(path, plain_records(), name="other")
    return path


def foreign_file(path):
    (path / "faces.zip").write_bytes(b"PK")
    return path / "faces.zip"


def text_as_rec(path):
    (path / "train.rec").write_text("not a record file, but long enough to hold one")
    (path / "train.idx").write_text("0\t0\n1\t8\n")
    return path


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda path: path / "nowhere", r"nowhere: does not exist; check the path"),
        (lambda path: path, "holds no sub-folder with images; put each person's images"),
        (images_without_folders, "holds no sub-folder with images; put each person's images"),
        (one_identity_folder, "only 1 identity, training needs two or more; add images"),
        (one_identity_rec, "only 1 identity"),
        (folder_with_a_foreign_rec, r"has no train\.rec .*; name the file itself: .*other\.rec"),
        (foreign_file, r"faces\.zip: is neither a folder nor a \.rec file"),
        (text_as_rec, "record 0 at byte 0: it starts with 0x20746f6e, not 0xced7230a"),
    ],
)
def test_bad_input_is_one_line_with_a_remedy(tmp_path, build, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_source(build(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("identites=5", "unknown key 'identites'; the keys are identities, images, seed, first"),
        ("identities=many", "identities is 'many'; give a whole number from 1"),
        ("images=0", "images is '0'"),
        ("seed=-1", "seed is '-1'"),
        ("seed=", "seed is ''"),
        ("identities=1", "only 1 identity"),
    ],
)
def test_a_bad_synthetic_uri_is_refused(query, message) -> None:
    with pytest.raises(UserError, match=message):
        open_source(f"synthetic:?{query}")


def test_spread_covers_both_ends_without_repetition() -> None:
    assert spread(5, 10) == [0, 1, 2, 3, 4]
    assert spread(100, 4) == [0, 33, 66, 99]
