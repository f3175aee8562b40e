"""``topoface calibrate`` and ``topoface compare`` through the command line, on stand-ins for faces and for a model."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import topoface.evaluation.calibration.judging as calibrated
from tests.unit.evaluation.faces import embed, face, lfw_folder
from topoface import cli
from topoface.evaluation import open_protocol
from topoface.evaluation.embedding import score_pairs

PEOPLE = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces and pairs, a model, and pictures to compare."""
    root = tmp_path_factory.mktemp("compare")
    _people(root / "lfw")
    (root / "model.onnx").write_bytes(b"weights")
    for name, person, picture in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        Image.fromarray(face(person, picture, 60)).save(root / f"{name}.png")
    Image.new("RGB", (250, 200)).save(root / "large.png")
    (root / "broken.png").write_bytes(b"no image")
    return root


def _people(root: Path) -> None:
    """As `lfw_folder` lays them out, whose names end with the alphabet."""
    lfw_folder(root, people=2)
    half = PEOPLE // 2
    lines = [f"2\t{half}"]
    for number in range(PEOPLE):
        (root / f"P{number}").mkdir()
        for picture in (1, 2):
            Image.fromarray(face(number, picture, 90)).save(
                root / f"P{number}" / f"P{number}_{picture:04d}.png"
            )
    for people in (range(half), range(half, PEOPLE)):
        lines += [f"P{i}\t1\t2" for i in people]
        lines += [f"P{i}\t1\tP{people[(i - people[0] + 1) % half]}\t2" for i in people]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The ten-line embedder under whatever path; its digest may be changed."""
    known = {"digest": "first"}
    monkeypatch.setattr(calibrated, "open_embed", lambda path: (embed, known["digest"]))
    return known


@pytest.fixture
def ready(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A calibrated model, in the working folder."""
    monkeypatch.chdir(folder)
    if not Path("model.onnx.calibration.json").exists():
        assert cli.main(["calibrate", "model.onnx", "lfw", "--far", "0.1"]) == 0
    capsys.readouterr()
    return folder


def test_calibrate_stores_what_it_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["calibrate", "model.onnx", "lfw", "--far", "0.1", "--prior", "0.25", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert "120 genuine and 120 impostor pairs of 120 people" in said
    assert "prior 0.25" in said
    assert "stored: model.onnx.calibration.json" in said
    stored = json.loads(Path("model.onnx.calibration.json").read_text())
    assert (stored["weights"], stored["far"], stored["prior"]) == ("first", 0.1, 0.25)
    assert stored["data"]["impostors"] == 120
    assert "seed 3" in stored["contract"]["honest figures"]
    Path("model.onnx.calibration.json").unlink()


def test_compare_tells_same_from_different_in_either_order(
    ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {}
    for pair in ("ab", "ba", "ac", "ca"):
        assert cli.main(["compare", "model.onnx", f"{pair[0]}.png", f"{pair[1]}.png", "--json"]) == 0
        answers[pair] = json.loads(capsys.readouterr().out)
    assert [answers[pair]["verdict"] for pair in ("ab", "ac")] == ["same", "different"]
    assert answers["ab"]["probability"] > 0.9 > 0.1 > answers["ac"]["probability"] > 0
    for pair in ("ab", "ac"):
        assert answers[pair]["score"] == pytest.approx(answers[pair[::-1]]["score"], abs=1e-12)
    assert answers["ab"]["far"] == 0.1
    assert answers["ab"]["data"]["protocol"] == "lfw"


def test_compare_says_rate_data_date_and_prior(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "model.onnx", "a.png", "b.png"]) == 0
    said = capsys.readouterr().out
    date = json.loads(Path("model.onnx.calibration.json").read_text())["date"]
    assert said.startswith("same: score 0.")
    for part in (
        "if 0.5 of all compared pairs show one",
        "for a FAR of 0.1",
        "lfw, 240 pairs of 120 people",
        date,
    ):
        assert part in said


def test_two_pictures_score_as_a_pair_of_a_protocol(folder: Path) -> None:
    protocol = open_protocol(str(folder / "lfw"))
    units, _ = calibrated.open_unit_embed("model.onnx")
    expected = score_pairs(units, protocol).scores
    for k in (0, 150):
        first, second = (protocol.images[int(i)] for i in protocol.pairs[k])
        assert calibrated.score_of(units, first, second) == pytest.approx(expected[k], abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "model.onnx", "lfw"], "a FAR of 0.001 takes at least 10,000 impostor pairs, there are 120"),
        (["calibrate", "model.onnx", "lfw", "--far", "0.1", "--prior", "1"], "--prior: is 1; give a share"),
        (["compare", "model.onnx", "a.png"], "the following arguments are required: IMAGE"),
        (["compare", "none.onnx", "a.png", "b.png"], "none.onnx: does not exist"),
        (["compare", "a.png", "a.png", "b.png"], "a.png: is not calibrated (no a.png.calibration.json); run topoface calibrate a.png PROTOCOL"),
        (["compare", "model.onnx", "a.png", "large.png"], "large.png: is 250 x 200; give a face aligned to 112 x 112"),
        (["compare", "model.onnx", "a.png", "broken.png"], "broken.png: cannot be decoded"),
        (["compare", "model.onnx", "a.png", "none.png"], "none.png: cannot be read"),
        (["compare", "model.onnx", "a.png", "b.png", "--far", "0.001"], "takes at least 10,000 impostor pairs, there are 120"),
        (["compare", "model.onnx", "a.png", "b.png", "--far", "0.2"], "run topoface calibrate MODEL PROTOCOL --far 0.2"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_one_line(
    ready: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err


def test_a_calibration_of_other_weights_is_refused(
    ready: Path, model: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    model["digest"] = "second"
    assert cli.main(["compare", "model.onnx", "a.png", "b.png"]) == 2
    assert (
        "was made with other weights than the model has now; run topoface calibrate"
        in capsys.readouterr().err
    )


def test_an_embedding_without_direction_is_refused(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        calibrated, "open_embed", lambda path: (lambda faces: np.zeros((len(faces), 4)), "first")
    )
    assert cli.main(["compare", "model.onnx", "a.png", "b.png"]) == 2
    assert "zero or not finite" in capsys.readouterr().err
