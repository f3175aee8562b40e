"""Test images among the training images: found as they are and recompressed, and nobody is accused by chance."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.diagnostics.doctor_stand_ins import RGB, Folder, warm
from tests.unit.evaluation.faces import face
from topoface.data import open_source
from topoface.diagnostics.doctor.network import Network
from topoface.diagnostics.doctor.overlap import BY_CHANCE, calibrate, train_overlap
from topoface.evaluation import open_protocol


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def embedder() -> Network:
    """Means of tiles of 8 pixels around grey: people are random directions."""
    return Network(
        path="tiles",
        declared=RGB,
        source="a test",
        run=lambda x: x.reshape(len(x), 3, 14, 8, 14, 8).mean(axis=(3, 5)).reshape(len(x), -1),
    )


def training_set(root: Path, *, first: int, people: int) -> Path:
    for person in range(first, first + people):
        (root / f"t{person}").mkdir(parents=True)
        for shot in range(2):
            Image.fromarray(warm(face(person, shot))).save(root / f"t{person}" / f"{shot}.png")
    return root


def overlap(folder: Folder, train: Path, model: Network | None = None) -> dict[str, tuple[str, str, dict]]:
    folder.findings()
    protocol = open_protocol(folder.root / "pairs.csv")
    found = train_overlap(model or embedder(), RGB, protocol, open_source(train))
    return {finding.check: (finding.level, finding.text, finding.figures) for finding in found}


def test_training_images_of_other_people_raise_no_alarm(folder, tmp_path):
    found = overlap(folder, training_set(tmp_path / "train", first=1000, people=60))
    assert [level for level, *_ in found.values()] == ["ok", "ok"]
    assert "no test image is among 120 training images" in found["train: same pixels"][1]


def test_a_test_image_among_the_training_images_is_found_as_it_is_and_recompressed(folder, tmp_path):
    train = training_set(tmp_path / "train", first=1000, people=60)
    (train / "t1000" / "9.png").write_bytes((folder.root / folder.name(11, 2)).read_bytes())
    small = Image.open(folder.root / folder.name(12, 0)).resize((90, 90)).resize((112, 112))
    small.save(train / "t1001" / "9.jpg", quality=40)
    found = overlap(folder, train)
    level, text, figures = found["train: same pixels"]
    assert (level, figures["count"]) == ("wrong", 1)
    assert "p11_2.png = " in text
    level, text, figures = found["train: embeddings"]
    assert level == "wrong"
    assert "p12_0.png ~ " in text
    assert figures["nearest"][0].startswith("p12_0.png ~ ")
    # The other pictures of these two people are like the planted ones, so that they may be found, too; nobody else's are.
    assert 2 <= figures["above"] <= 6


def test_a_training_image_that_cannot_be_read_is_left_out_and_counted(folder, tmp_path):
    train = training_set(tmp_path / "train", first=1000, people=60)
    (train / "t1003" / "1.png").write_bytes(b"no image")
    found = overlap(folder, train)["train: same pixels"]
    assert "among 119 training images (1 training images cannot be read)" in found[1]


def test_a_model_that_cannot_tell_people_apart_says_so_instead_of_accusing(folder, tmp_path):
    rng = np.random.default_rng(0)
    blind = Network(path="", declared=RGB, source="", run=lambda x: 1.0 + rng.normal(0, 0.3, (len(x), 4)))
    found = overlap(folder, training_set(tmp_path / "train", first=1000, people=60), blind)
    assert found["train: embeddings"][0] == "note"
    assert "cannot tell" in found["train: embeddings"][1]


def test_the_bar_is_passed_by_chance_as_rarely_as_promised():
    passed, trials = 0, 40
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        rows = rng.standard_normal((1300, 32)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        tests, trains = rows[:300], rows[300:]
        bar = calibrate(tests, np.arange(300), len(trains))
        passed += int((tests @ trains.T > bar.cosine).sum())
        every = (tests @ tests.T)[np.triu_indices(300, 1)]
        assert bar.highest == pytest.approx(every.max(), abs=1e-6)
        assert bar.comparisons == 300 * 1000
        assert bar.cosine < 0.95
    assert passed <= trials * BY_CHANCE * 3


def test_pairs_of_one_person_do_not_move_the_bar():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 32)).astype(np.float32)
    rows[200:] = rows[:200] + 0.1 * rows[200:]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    people = np.arange(400) % 200
    assert calibrate(rows, people, 1000).cosine < 0.95
    # A few people under two names are what real sets have: the rate of the tail comes from its median.
    few = np.where(np.arange(400) < 210, np.arange(400), people)
    assert calibrate(rows, few, 1000).cosine == pytest.approx(calibrate(rows, people, 1000).cosine, abs=0.02)
