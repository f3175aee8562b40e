"""Faults of the data: each planted one is found and named, and sound data are declared sound."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.real_data import DATA, needs_data
from tests.unit.diagnostics.doctor_stand_ins import PEOPLE, SHOTS, Folder, warm
from tests.unit.evaluation.faces import face
from topoface.diagnostics.doctor.faults import image_findings, look
from topoface.diagnostics.doctor.pair_faults import pair_findings
from topoface.evaluation import open_protocol


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def wrong(findings: dict[str, tuple[str, str]]) -> set[str]:
    return {check for check, (level, _) in findings.items() if level == "wrong"}


def test_sound_pairs_are_declared_sound_and_every_check_speaks(folder):
    found = folder.findings()
    assert {level for level, _ in found.values()} == {"ok"}
    assert len(found) == 11
    assert all(text for _, text in found.values())


def test_sound_pairs_of_nameless_people_are_declared_sound(folder):
    found = folder.findings(named=False)
    assert {level for level, _ in found.values()} == {"ok"}
    assert "is not known" in found["two people"][1]


def test_images_that_do_not_decode_or_are_no_112_are_counted_and_named(folder):
    (folder.root / folder.name(3, 0)).write_bytes(b"no image")
    Image.fromarray(face(4, 0)[:96]).save(folder.root / folder.name(4, 0))
    found = folder.findings()
    assert wrong(found) == {"images"}
    text = found["images"][1]
    assert text.startswith("2 of 120")
    assert "p03_0.png (cannot be decoded" in text
    assert "112 x 96 pixels" in text


def test_swapped_channels_of_all_or_some_images_are_found(folder):
    for person in range(PEOPLE):
        for shot in range(SHOTS if person % 6 == 0 else 0):
            folder.write(person, shot, warm(face(person, shot))[..., ::-1].copy())
    level, text = folder.findings()["red and blue"]
    assert level == "wrong"
    assert text.startswith("82.5% of 120 faces have more red than blue")
    assert "swapped" in text


def test_grey_images_are_noted_and_many_are_wrong(folder):
    def grey(people: int) -> tuple[str, str]:
        for person in range(people):
            image = warm(face(person, 0))
            folder.write(person, 0, np.repeat(image[..., :1], 3, axis=2))
        return folder.findings()["grey images"]

    assert grey(2) == ("note", "2 of 120 have no colour")
    assert grey(40)[0] == "wrong"


def test_black_borders_are_noted_and_black_images_are_wrong(folder):
    def black(columns: int) -> tuple[str, str]:
        for person in range(PEOPLE):
            for shot in range(SHOTS):
                image = warm(face(person, shot))
                image[:, :columns] = 0
                folder.write(person, shot, image)
        return folder.findings()["black borders"]

    assert black(28)[0] == "note"
    assert "25.0%" in black(28)[1]
    assert black(70)[0] == "wrong"


def test_a_duplicate_in_another_fold_is_found_though_it_was_stored_anew(folder):
    image = np.asarray(Image.open(folder.root / folder.name(0, 0)))
    data = io.BytesIO()
    Image.fromarray(image).save(data, "bmp")
    (folder.root / folder.name(39, 0)).write_bytes(data.getvalue())
    found = folder.findings()
    assert wrong(found) == {"folds: images", "two people"}
    assert "p00_0.png = p39_0.png" in found["folds: images"][1]


def test_a_person_in_two_folds_is_found_unless_the_folds_were_never_of_different_people(folder):
    folder.pair(0, 0, 0, 2, fold=3)
    found = folder.findings()
    assert wrong(found) == {"folds: people", "folds: images"}
    assert found["folds: people"][1].startswith("1 of 40 people are in several folds (on p00_0.png)")
    for person in range(30):
        folder.pair(person, 0, person, 2, fold=3)
    mixed = folder.findings()
    assert wrong(mixed) == set()
    assert mixed["folds: people"][0] == "note"
    assert "were not made of different people" in mixed["folds: people"][1]


def test_one_image_under_two_people_is_found(folder):
    folder.copy((0, 2), (1, 2))
    found = folder.findings()
    assert wrong(found) == {"two people"}
    assert found["copies"][0] == "note"


def test_a_genuine_pair_of_one_image_is_found(folder):
    folder.copy((7, 0), (7, 1))
    level, text = folder.findings()["pairs of one image"]
    assert level == "wrong"
    assert "1 of 80 genuine pairs" in text
    assert "p07_0.png, p07_1.png" in text


def test_contradictory_labels_are_found(folder):
    folder.pair(5, 0, 5, 1, fold=0, same=False)
    found = folder.findings(named=False)
    assert wrong(found) == {"labels"}
    assert "pair 121" in found["labels"][1]
    folder.rows[-1][:2] = [
        folder.name(5, 0),
        folder.name(5, 2),
    ]  # never listed: genuine pairs link it all the same
    assert wrong(folder.findings(named=False)) == {"labels"}


def test_a_label_against_the_names_of_the_folders_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(Folder, "name", lambda _, person, shot: f"p{person:02d}/{shot}.png")
    folder = Folder(tmp_path)
    assert wrong(folder.findings(named=False)) == set()
    folder.rows[2][2] = 1  # an impostor pair that is said to be genuine
    found = folder.findings(named=False)
    assert "labels" in wrong(found)
    assert found["labels"][1].startswith("1 pairs contradict")
    assert "pair 3" in found["labels"][1]


def test_pairs_listed_twice_are_noted_and_many_are_wrong(folder):
    folder.pair(5, 1, 5, 0, fold=0)  # the other way round
    level, text = folder.findings()["repeated pairs"]
    assert level == "note"
    assert "1 of 121 pairs" in text
    folder.rows += folder.rows[:60]
    assert wrong(folder.findings()) == {"repeated pairs"}


@needs_data
def test_published_pairs_hold_what_they_are_known_to():
    """CFP-FF lists three genuine pairs of one image and 133 pairs twice; nothing else is wrong with it."""
    protocol = open_protocol(f"{DATA}/cfp/cfp_112x112.zip::{DATA}/cfp/pairs_ff.txt")
    looks = look(protocol)
    found = {f.check: f for f in image_findings(protocol, looks) + pair_findings(protocol, looks)}
    assert {f.level for f in found.values()} == {"ok", "note"}
    assert found["copies"].figures["count"] == 26
    assert found["pairs of one image"].figures["count"] == 3
    assert found["repeated pairs"].figures["count"] == 133
