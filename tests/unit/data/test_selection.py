"""A source cut down to identities with enough images keeps their images, names and order."""

from pathlib import Path

import numpy as np
import pytest

from tests.unit.data.recfile import encoded, face
from topoface.data import describe_source, open_source
from topoface.errors import UserError

IMAGES = {"anna": 3, "bela": 1, "cora": 2, "dana": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    number = 0
    for name, count in IMAGES.items():
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.jpg").write_bytes(encoded(face(number)))
            number += 1
    return tmp_path


def test_only_identities_with_enough_images_stay_and_are_numbered_anew(folder: Path) -> None:
    everyone, some = open_source(folder), open_source(f"{folder}?least_images=3")
    assert list(some.names) == ["anna", "dana"]
    assert some.labels.tolist() == [0] * 3 + [1] * 4
    for i in range(7):  # anna's three images come first, dana's four last
        there = i if i < 3 else i + 3
        assert np.array_equal(some[i][0], everyone[there][0])
        assert some.describe(i) == everyone.describe(there)
        one, other = (np.empty((112, 112, 3), dtype=np.uint8) for _ in range(2))
        some.read_into(i, one, mirror=True)
        everyone.read_into(there, other, mirror=True)
        assert np.array_equal(one, other)
    assert any("2 of 4 identities" in note for note in describe_source(some).lines()[-2:] + list(some.notes))


def test_another_selection_is_other_data(folder: Path) -> None:
    prints = {
        open_source(f"{folder}{query}").fingerprint() for query in ("", "?least_images=2", "?least_images=3")
    }
    assert len(prints) == 3


def test_a_folder_with_a_question_mark_in_its_name_is_a_folder(folder: Path) -> None:
    odd = folder.rename(folder.with_name("who?least_images=3"))
    assert open_source(str(odd)).identities == 4


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?least_images=9", "no identity has 9 images; the largest has 4|no identity has 9 images"),
        ("?least_images=4", "only 1 identity"),
        ("?least_images=0", "least_images is '0'"),
        ("?least_images=many", "least_images is 'many'"),
        ("?most_images=3", "unknown key 'most_images'"),
        ("_not_there?least_images=3", "does not exist"),
    ],
)
def test_what_cannot_be_selected_is_said_in_one_line(folder: Path, query: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_source(f"{folder}{query}")
    assert "\n" not in str(caught.value)
