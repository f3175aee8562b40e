"""The image folder: labels from sorted names, files by suffix, errors by file."""

import numpy as np
import pytest

from tests.unit.data.recfile import encoded, face, write_folder
from topoface.data import open_source
from topoface.data.folder import FolderSource
from topoface.errors import UserError


def test_labels_follow_sorted_names_of_folders_and_files(tmp_path) -> None:
    for name, number in (("b/2.png", 3), ("b/1.PNG", 2), ("a/9.png", 1), ("a/10.png", 0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(face(number), "PNG"))
    source = FolderSource(tmp_path)
    assert source.names == ["a", "b"]
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert all(np.array_equal(source[i][0], face(i)) for i in range(4))


def test_other_files_are_left_out_and_counted_hidden_ones_are_not(tmp_path) -> None:
    write_folder(tmp_path)
    for name in ("readme.txt", "person_0/notes.txt", "person_0/.DS_Store", ".cache"):
        (tmp_path / name).write_text("x")
    (tmp_path / "person_1" / "more").mkdir()
    (tmp_path / "nobody").mkdir()
    source = FolderSource(tmp_path)
    assert (len(source), source.identities) == (12, 3)
    assert source.notes == ("3 other files or deeper folders ignored", "1 folders without images ignored")


def test_a_file_that_is_no_image_is_named_when_read(tmp_path) -> None:
    write_folder(tmp_path)
    (tmp_path / "person_1" / "0.jpg").write_text("not an image")
    source = open_source(tmp_path)
    assert source[0][1] == 0
    with pytest.raises(UserError, match=r"person_1/0\.jpg: cannot be decoded .*remove it"):
        source[4]


def test_a_file_that_went_away_is_named(tmp_path) -> None:
    source = open_source(write_folder(tmp_path))
    (tmp_path / "person_0" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"person_0/1\.jpg: cannot be read \(No such file"):
        source[1]
    with pytest.raises(UserError, match=r"person_0/1\.jpg: cannot be read"):
        source.fingerprint()


def test_the_fingerprint_does_not_depend_on_the_place(tmp_path) -> None:
    first, second = write_folder(tmp_path / "a"), write_folder(tmp_path / "b")
    assert open_source(first).fingerprint() == open_source(second).fingerprint()
    (second / "person_0").rename(second / "person_00")
    assert open_source(first).fingerprint() != open_source(second).fingerprint()


def test_one_changed_bit_in_an_image_changes_the_fingerprint(tmp_path) -> None:
    before = open_source(write_folder(tmp_path)).fingerprint()
    path = tmp_path / "person_2" / "3.jpg"
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)
    assert open_source(tmp_path).fingerprint() != before
