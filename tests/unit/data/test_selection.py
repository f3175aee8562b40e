"""A source cut down to identities with enough images, or thinned to a long tail, keeps the images that are left, their names and order."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.unit.data.recfile import encoded, face
from topoface.data import Source, describe_source, open_source
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
        ("?most=3", "unknown key 'most'; the keys are least_images, most_images, seed"),
        ("?most_images=8,0", "most_images is '8,0'; give whole numbers from 1, as in 8,2,1"),
        ("?most_images=", "most_images is ''"),
        ("?most_images=1&seed=x", "seed is 'x'"),
        ("?least_images=4&most_images=1", "only 1 identity"),
        ("_not_there?least_images=3", "does not exist"),
    ],
)
def test_what_cannot_be_selected_is_said_in_one_line(folder: Path, query: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_source(f"{folder}{query}")
    assert "\n" not in str(caught.value)


DRAWN = "synthetic:?identities=30&images=8&seed=3"


def left(source: Source) -> dict[str, set[int]]:
    """Which images of whom: places among the images of the identity in the whole of DRAWN."""
    whole = open_source(DRAWN)
    place = {whole.describe(i): i % 8 for i in range(len(whole))}
    kept: dict[str, set[int]] = {name: set() for name in source.names}
    for i, label in enumerate(source.labels.tolist()):
        kept[source.names[label]].add(place[source.describe(i)])
    return kept


def test_a_long_tail_deals_out_the_numbers_in_equal_shares() -> None:
    tail = open_source(f"{DRAWN}&most_images=5,2,1")
    assert Counter(len(kept) for kept in left(tail).values()) == {5: 10, 2: 10, 1: 10}
    assert list(tail.names) == list(open_source(DRAWN).names)
    assert any("80 of 240 images are kept" in note and "one of 5, 2, 1" in note for note in tail.notes)
    twice = left(open_source(f"{DRAWN}&most_images=5,1,1"))
    assert Counter(map(len, twice.values())) == {5: 10, 1: 20}
    short = left(open_source(f"{DRAWN}&most_images=100,2"))
    assert Counter(map(len, short.values())) == {8: 15, 2: 15}


def test_who_and_which_are_drawn_by_the_seed_alone() -> None:
    """A thousand draws of one image out of eight find each about as often, and neither by the order of names nor of files."""
    once = left(open_source(f"{DRAWN}&most_images=5,2,1"))
    assert once == left(open_source(f"{DRAWN}&most_images=5,2,1"))
    firsts: Counter[int] = Counter()
    for identities, seed in ((250, 0), (250, 1), (250, 2), (250, 3)):
        tail = open_source(f"synthetic:?identities={identities}&images=8&seed={seed}&most_images=1")
        firsts.update(int(tail.describe(i).rpartition(" ")[2]) % 8 for i in range(len(tail)))
    assert len(firsts) == 8
    assert sum((n - 125) ** 2 / 125 for n in firsts.values()) < 26  # chi square of 7: one in 2,000


def test_another_tail_of_the_same_seed_only_adds_images_or_takes_some_away() -> None:
    small, large = (left(open_source(f"{DRAWN}&most_images={numbers}")) for numbers in ("2,1", "6,3"))
    assert all(small[name] < large[name] for name in small)


def test_the_images_of_a_tail_are_those_of_the_source(folder: Path) -> None:
    everyone, tail = open_source(folder), open_source(f"{folder}?least_images=2&most_images=2,1&seed=5")
    files = {everyone.describe(i): i for i in range(len(everyone))}
    assert list(tail.names) == ["anna", "cora", "dana"]
    assert sorted(np.bincount(tail.labels).tolist()) in ([1, 1, 2], [1, 2, 2])
    for i in range(len(tail)):
        there = files[tail.describe(i)]
        assert tail.names[int(tail.labels[i])] == everyone.names[int(everyone.labels[there])]
        assert np.array_equal(tail[i][0], everyone[there][0])
    assert len(tail.notes) == 2


def test_a_tail_is_other_data_and_whoever_asks_for_none_has_the_old_fingerprint(folder: Path) -> None:
    queries = ["", "?most_images=1", "?most_images=2,1", "?most_images=1&seed=1"]
    assert len({open_source(f"{folder}{query}").fingerprint() for query in queries}) == 4
    assert open_source(f"{folder}?least_images=2&seed=9").fingerprint() == (
        open_source(f"{folder}?least_images=2").fingerprint()
    )
