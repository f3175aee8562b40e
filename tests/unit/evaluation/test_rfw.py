"""RFW: both layouts open as one protocol with the list as group, images are aligned where they are not, lists are judged alone too."""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.unit.evaluation.faces import embed, face, jpeg
from topoface import cli
from topoface.errors import UserError
from topoface.evaluation import open_protocol, verify
from topoface.evaluation.groups.judging import groupings_of, judge_groups
from topoface.evaluation.pairs.rfw import RACES, is_rfw, open_rfw
from topoface.functional import verification as exact
from topoface.recipe.files import load_recipe
from topoface.training.judging import Judge

POINTS = "38.2946 51.6963 73.5318 51.5014 56.0252 71.7366 41.5493 92.3655 70.7299 92.2041"


def lines_of(first, people=20):
    """Ten tenths: two people in each, a genuine pair of either, and twice one with the other."""
    names = [f"m.{first + i:03d}" for i in range(people)]
    found = []
    for i in range(0, people, 2):
        found += [f"{names[i]}\t1\t2", f"{names[i + 1]}\t1\t2"]
        found += [f"{names[i]}\t1\t{names[i + 1]}\t1", f"{names[i]}\t2\t{names[i + 1]}\t2"]
    return names, found


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("rfw")
    for k, race in enumerate(RACES):
        names, lines = lines_of(100 * k)
        (root / "txts" / race).mkdir(parents=True)
        (root / "txts" / race / f"{race}_pairs.txt").write_text("\n".join(lines) + "\n")
        for i, name in enumerate(names):
            (root / "data" / race / name).mkdir(parents=True)
            for picture in (1, 2):
                data = jpeg(100 * k + i, picture, noise=60 + 30 * k)
                (root / "data" / race / name / f"{name}_{picture:04d}.jpg").write_bytes(data)
    return root


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "rfw")


def test_four_lists_are_one_protocol_with_the_list_as_group(original):
    assert is_rfw(original)
    protocol = open_rfw(original)
    assert (protocol.name, len(protocol.same), int(protocol.same.sum())) == ("rfw", 160, 80)
    assert len(protocol.images) == 160
    assert protocol.interval_unit == "identity"
    assert len(np.unique(protocol.identities)) == 80
    np.testing.assert_array_equal(protocol.race.sides, np.repeat(range(4), 40)[:, None].repeat(2, axis=1))
    np.testing.assert_array_equal(protocol.folds, np.tile(np.repeat(range(10), 4), 4))
    assert protocol.images.names[0] == "African/m.000/m.000_0001.jpg"
    assert "No pair joins two lists" in " ".join(protocol.notes)


def test_a_folder_that_holds_it_as_test_is_opened_too(original, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copytree(original, tmp_path / "images" / "test")
    assert is_rfw(tmp_path / "images")
    assert open_rfw(tmp_path / "images").fingerprint == open_rfw(original).fingerprint


def test_recipes_and_whatever_takes_pairs_open_it_too(original):
    assert open_protocol(original).fingerprint == open_rfw(original).fingerprint
    recipe = load_recipe("arcface_small", [f'evaluation.pairs=["{original}"]'])
    assert [protocol.name for protocol in Judge(recipe).protocols] == ["rfw"]


def test_bins_give_the_same_figures_as_the_lists(original, tmp_path):
    for k, race in enumerate(RACES):
        images, same = [], []
        for line in lines_of(100 * k)[1]:
            words = line.split()
            ends = [(words[0], words[1]), (words[-2] if len(words) == 4 else words[0], words[-1])]
            for name, number in ends:
                path = original / "data" / race / name / f"{name}_{int(number):04d}.jpg"
                images.append(path.read_bytes())
            same.append(len(words) == 3)
        (tmp_path / f"{race}_test.bin").write_bytes(pickle.dumps((images, same)))
    assert is_rfw(tmp_path)
    bins, lists = (verify(embed, open_rfw(root), flip=False, bootstrap=0) for root in (tmp_path, original))
    assert bins.protocol.interval_unit == "linked images"
    np.testing.assert_array_equal(bins.scores, lists.scores)
    found = [judge_groups(r, groupings_of(r.protocol, None), bootstrap=0) for r in (bins, lists)]
    assert found[0].to_json()["attributes"] == found[1].to_json()["attributes"]
    assert found[0].accuracies == found[1].accuracies
    (tmp_path / "Indian_test.bin").unlink()
    with pytest.raises(UserError, match=r"has no Indian_test.bin"):
        open_rfw(tmp_path)


def test_accuracy_of_each_list_is_that_of_the_list_alone(original):
    result = verify(embed, open_rfw(original), flip=False, bootstrap=0)
    found = judge_groups(result, groupings_of(result.protocol, None), bootstrap=40)
    values = []
    for k, race in enumerate(RACES):
        own = slice(40 * k, 40 * k + 40)
        mean, _ = exact.kfold_accuracy(result.scores[own], result.protocol.same[own], 10)
        assert found.accuracies.of[race].value == pytest.approx(mean)
        assert found.accuracies.of[race].low <= mean <= found.accuracies.of[race].high
        values.append(mean)
    assert found.accuracies.mean == pytest.approx(np.mean(values))
    assert found.accuracies.std == pytest.approx(np.std(values, ddof=1))
    assert values[0] > values[3]  # noise was planted
    table = found.attributes[0].tables[0]
    assert [cell.name for cell in table.rows] == list(RACES)
    assert all((cell.fmr.pairs, cell.fnmr.pairs) == (20, 20) for cell in table.rows)
    assert table.map == ()


def test_images_of_another_size_are_aligned_by_their_landmarks(folder):
    image = folder / "data" / "Asian" / "m.100" / "m.100_0001.jpg"
    pixels = face(100, 1)
    large = Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC)
    large.save(image, quality=95)
    name = "Asian/m.100/m.100_0001.jpg"
    protocol = open_rfw(folder)
    place = list(protocol.images.names).index(name)
    with pytest.raises(UserError, match="is 224 x 224 and has no landmarks"):
        protocol.images[place]
    # Twice the size: the middle of pixel (x, y) lies at 2 x + 0.5.
    doubled = " ".join(f"{2 * float(word) + 0.5}" for word in POINTS.split())
    (folder / "txts" / "Asian" / "Asian_lmk.txt").write_text(
        f"/test/data/Asian/m.100/m.100_0001.jpg\t100\t{doubled.replace(' ', chr(9))}\n"
    )
    aligned = open_rfw(folder)
    assert aligned.fingerprint != protocol.fingerprint
    assert "aligned by the landmarks" in " ".join(aligned.notes)
    difference = np.abs(aligned.images[place].astype(float) - pixels).mean()
    assert difference < 6
    assert aligned.images[place].shape == (112, 112, 3)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("Asian_pairs.txt", "m.100 1\n", r"Asian_pairs.txt:1: 'm.100 1' is no pair"),
        ("Asian_pairs.txt", "m.100 1 m.100 2\n", "is no pair"),
        ("Asian_pairs.txt", "\nm.100 1 9\n", r"Asian_pairs.txt:2: no image 'Asian/m.100/m.100_0009'"),
        ("Asian_pairs.txt", "\n", "lists no pair"),
        ("Asian_pairs.txt", "m.100 1 2\n" * 20, "the pairs of Asian are all of one kind"),
        ("Asian_lmk.txt", "a/b.jpg 0 1 2 3\n", r"Asian_lmk.txt:1: is no image, label and five points"),
        ("Asian_pairs.txt", None, r"Asian_pairs.txt: cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(folder, name, text, complaint):
    path = folder / "txts" / "Asian" / name
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        open_rfw(folder)


def test_the_command_line_judges_it_and_an_attributes_file(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("topoface.cli.evaluate._pair_embed", lambda *_: (embed, "digest"))
    (tmp_path / "a.csv").write_text(
        "person,kind\n" + "".join(f"m.{100 * k + i:03d},{'xy'[i % 2]}\n" for k in range(4) for i in range(20))
    )
    files = ["--json", str(tmp_path / "r.json"), "--report", str(tmp_path / "r.html")]
    command = ["evaluate", "model", str(folder), "--bootstrap", "20", "--attributes", str(tmp_path / "a.csv")]
    assert cli.main([*command, *files]) == 0
    said = capsys.readouterr().out
    for words in ("model on rfw, by race", "by kind", "accuracy of each list at its own thresholds", "x × y"):
        assert (words in said) == (words != "x × y")  # nobody is in two groups
    assert '"groups"' in (tmp_path / "r.json").read_text()
    assert "Highest error / lowest" in (tmp_path / "r.html").read_text()


def test_attributes_without_a_list_of_pairs_are_refused(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.csv").write_text("person,kind\n1,x\n")
    code = cli.main(["evaluate", "model", "all-pairs:synthetic:?identities=3&images=2",
                     "--attributes", str(tmp_path / "a.csv")])  # fmt: skip
    assert code == 2
    assert "--attributes: needs a list of pairs" in capsys.readouterr().err
