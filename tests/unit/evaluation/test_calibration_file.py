"""What a calibration answers, and that it is stored with its model and read without trust."""

import json

import numpy as np
import pytest

from tests.unit.evaluation.test_threshold import as_protocol, planted
from topoface.errors import UserError
from topoface.evaluation.calibration.files import place_of, read, write
from topoface.evaluation.calibration.judging import Calibration, calibrate
from topoface.models import build_model, load, save


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    pairs = planted()
    return calibrate(pairs, as_protocol(pairs), weights="w", far=0.02, prior=0.5)


def test_verdicts_rise_with_the_score_and_leave_room_for_doubt(calibration: Calibration) -> None:
    for threshold in calibration.thresholds:
        bars = threshold.bars
        verdicts = bars.verdicts(np.linspace(-1, 1, 2001))
        assert (np.diff(verdicts) >= 0).all()
        assert set(verdicts.tolist()) == {0, 1, 2}
        assert bars.different_below <= bars.accept.low < bars.accept.high <= bars.same_from
        for score, verdict in (
            (bars.same_from, "same"),
            (bars.accept.value, "not sure"),
            (-1.0, "different"),
        ):
            assert calibration.answer(score, threshold).verdict == verdict
    said = [calibration.answer(s, calibration.thresholds[0]).probability for s in np.linspace(-1, 1, 201)]
    assert (np.diff(said) >= 0).all()
    assert 0 < said[0] < 0.01
    assert 0.99 < said[-1] < 1


def test_a_stored_calibration_is_read_back_as_it_was(calibration: Calibration, tmp_path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"weights")
    path = write(calibration, str(model))
    assert path == tmp_path / "m.onnx.calibration.json"
    assert read(str(model), "w") == calibration
    assert json.loads(path.read_text())["date"] == calibration.date
    with pytest.raises(UserError, match=r"made with other weights .* run topoface calibrate"):
        read(str(model), "v")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"prior": 1.5},
        {"prior": "half"},
        {"thresholds": []},
        {"thresholds": [{"far": 0.1}]},
        {"line": {"slope": -1, "offset": 0, "lowest": -1, "highest": 1}},
        {"line": {"slope": 1e999, "offset": 0, "lowest": -1, "highest": 1}},
        {"data": {}},
        {"data": None},
        None,
    ],
)
def test_a_damaged_calibration_is_one_line(calibration: Calibration, tmp_path, change) -> None:
    (tmp_path / "m.pt").write_bytes(b"weights")
    path = write(calibration, str(tmp_path / "m.pt"))
    content = [] if change is None else json.loads(path.read_text()) | change
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"m\.pt\.calibration\.json: is no calibration of format 1"):
        read(str(tmp_path / "m.pt"), "w")


def test_rates_in_a_calibration(calibration: Calibration) -> None:
    assert [t.far for t in calibration.thresholds] == [0.1, 0.02]
    assert calibration.at(None, "m").far == 0.02
    assert calibration.at(0.1, "m").far == 0.1
    with pytest.raises(UserError, match=r"m: is calibrated for a FAR of 0\.1, 0\.02; run .* --far 0\.05"):
        calibration.at(0.05, "m")
    with pytest.raises(
        UserError, match=r"FAR of 0\.0001 takes at least 100,000 impostor pairs, there are 800"
    ):
        calibration.at(1e-4, "m")


def test_a_calibrated_model_directory_loads_and_a_new_model_takes_its_place(
    calibration: Calibration, tmp_path
) -> None:
    folder = tmp_path / "model"
    save(build_model("iresnet_tiny"), folder)
    write(calibration, str(folder))
    assert place_of(str(folder)) == folder / "calibration.json"
    load(folder)
    save(build_model("iresnet_tiny", seed=1), folder)
    assert {path.name for path in folder.iterdir()} == {"model.json", "model.safetensors"}
