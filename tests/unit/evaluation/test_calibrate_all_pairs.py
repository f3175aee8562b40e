"""Calibration on every pair of a set against the one that lists all of them, and through the command."""

import json

import numpy as np
import pytest
from PIL import Image

import topoface.evaluation.calibration.judging as calibrated
from tests.unit.evaluation.faces import embed, face
from topoface import cli
from topoface.errors import UserError
from topoface.evaluation.all_pairs.judging import LabelledSet, unit_rows
from topoface.evaluation.calibration import all_pairs as module
from topoface.evaluation.calibration.all_pairs import calibrate_all_pairs
from topoface.evaluation.calibration.known_pairs import KnownPairs
from topoface.evaluation.calibration.probability import fit
from topoface.evaluation.calibration.threshold import choose
from topoface.evaluation.features import Features

FAR = 0.004


def drawn(people=60, each=4, seed=0, noise=1.0, d=24):
    """Rows and labels; people differ in how much they look like everybody."""
    rng = np.random.default_rng(seed)
    common = rng.gamma(2.0, 0.6, (people, 1)) * np.eye(d)[0] * 2
    labels = np.arange(people).repeat(each)
    rows = (rng.normal(size=(people, d)) + common)[labels] + noise * rng.normal(size=(len(labels), d))
    return Features(rows=rows.astype(np.float32), origin="drawn"), labels


def labelled(labels):
    return LabelledSet(name="set", uri="set", images=[None] * len(labels), labels=labels, fingerprint="f")


def listed(features, labels):
    """Every pair, one by one."""
    rows = features.rows.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    left, right = np.triu_indices(len(labels), 1)
    people = np.stack([labels[left], labels[right]], axis=1)
    scores = np.einsum("pd,pd->p", rows[left], rows[right])
    return KnownPairs(scores, labels[left] == labels[right], people, np.zeros(len(left), np.int64))


def calibrated_on(features, labels, **changed):
    options = {"weights": "w", "far": FAR, "prior": 0.5} | changed
    return calibrate_all_pairs(features, labelled(labels), **options)


@pytest.mark.parametrize("seed", range(2))
def test_thresholds_and_honest_rates_are_those_of_all_pairs_listed(seed):
    features, labels = drawn(seed=seed)
    pairs = listed(features, labels)
    found = calibrated_on(features, labels, seed=seed)
    assert [t.far for t in found.thresholds] == [0.1, 0.01, FAR, 1e-3]
    impostors = np.sort(pairs.scores[~pairs.same])
    for threshold in found.thresholds:
        expected = choose(pairs, threshold.far, where="set", seed=seed)
        assert threshold.false_accepts == expected.false_accepts
        accept = threshold.bars.accept
        assert (
            impostors[-expected.false_accepts - 1] - 1e-6 < accept.value <= expected.bars.accept.value + 1e-6
        )
        assert threshold.bars.reject.value == pytest.approx(expected.bars.reject.value, abs=1e-6)
        for name in ("honest_far", "honest_miss"):
            one, other = getattr(threshold, name), getattr(expected, name)
            # The list takes the next score that occurs for the threshold; other people's may lie before it.
            assert one.value == pytest.approx(other.value, abs=1e-2)
            assert one.low <= one.value <= one.high
            if threshold.far >= FAR:  # below, so few false accepts hang on single people
                assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.5)
        if threshold.far >= FAR:
            width = expected.bars.accept.high - expected.bars.accept.low
            assert accept[1:] == pytest.approx(expected.bars.accept[1:], abs=0.1 * width)
        assert sum(threshold.genuine_verdicts) == pytest.approx(1)
        np.testing.assert_allclose(threshold.impostor_verdicts, expected.impostor_verdicts, atol=0.05)
    line = fit(pairs, 0.5, where="set")
    assert found.line == pytest.approx(line, abs=1e-4)


def test_intervals_hold_the_threshold_of_all_people(monkeypatch):
    """Sets of other people of one crowd: the interval of each should hold what all of them together give."""
    monkeypatch.setattr(module, "DRAWN", 2000)
    features, labels = drawn(people=1200, each=4)
    truth = calibrated_on(features, labels).at(0.01, "set").bars.accept.value
    held = 0
    for k in range(10):
        own = (labels // 4) % 10 == k  # whole families
        part = Features(rows=features.rows[own], origin="drawn")
        low, high = calibrated_on(part, labels[own], far=0.01, seed=k).at(None, "set").bars.accept[1:]
        held += low <= truth <= high
    assert held >= 8


def test_drawn_pairs_stay_few_and_say_the_same(monkeypatch):
    features, labels = drawn(each=6)
    every = calibrated_on(features, labels)
    monkeypatch.setattr(module, "DRAWN", 600)
    some = calibrated_on(features, labels)
    assert some.thresholds[0].bars.accept == every.thresholds[0].bars.accept
    assert some.line.slope == pytest.approx(every.line.slope, rel=0.1)
    assert some.at(FAR, "set").bars.reject.value == pytest.approx(
        every.at(FAR, "set").bars.reject.value, abs=0.15
    )
    units, _ = unit_rows(features.rows)
    drawn_pairs = module._drawn_pairs(units, labels.astype(np.int32), 60 * 15, 0)
    assert 500 < drawn_pairs.same.sum() < 700
    assert (~drawn_pairs.same).sum() == 600
    assert len(np.unique(drawn_pairs.people[~drawn_pairs.same], axis=0)) > 400


def test_images_without_a_feature_are_left_out_and_their_pairs_counted():
    features, labels = drawn()
    rows = features.rows.copy()
    rows[[3, 100]] = 0
    found = calibrated_on(Features(rows=rows, origin="drawn"), labels)
    kept = np.setdiff1d(np.arange(len(labels)), [3, 100])
    expected = calibrated_on(Features(rows=rows[kept], origin="drawn"), labels[kept])
    assert found.thresholds == expected.thresholds
    assert found.data["left_out"] == 2 * len(kept) + 1


@pytest.mark.parametrize(
    ("people", "each", "far", "message"),
    [
        (60, 4, 1e-4, "takes at least 100,000 impostor pairs, there are 28,320"),
        (60, 1, 0.1, "0 genuine pairs are too few"),
        (3, 6, 0.2, "pairs of one kind only|too few impostor pairs"),
    ],
)
def test_a_set_that_cannot_tell_is_refused(people, each, far, message):
    features, labels = drawn(each=each)
    own = labels < people
    with pytest.raises(UserError, match=message):
        calibrated_on(Features(rows=features.rows[own], origin="drawn"), labels[own], far=far)


def test_the_command_calibrates_on_a_folder_and_compare_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibrated, "open_embed", lambda path: (embed, "first"))
    monkeypatch.chdir(tmp_path)
    for person in range(12):
        (tmp_path / "faces" / f"p{person}").mkdir(parents=True)
        for picture in range(4):
            Image.fromarray(face(person, picture, 90)).save(
                tmp_path / "faces" / f"p{person}" / f"{picture}.png"
            )
    (tmp_path / "model.onnx").write_bytes(b"weights")
    assert cli.main(["calibrate", "model.onnx", "all-pairs:faces", "--far", "0.02"]) == 0
    assert "all pairs of faces: 72 genuine and 1,056 impostor pairs of 12 people" in capsys.readouterr().out
    stored = json.loads((tmp_path / "model.onnx.calibration.json").read_text())
    assert "what each person does" in stored["contract"]["intervals"]
    assert cli.main(["compare", "model.onnx", "faces/p0/0.png", "faces/p0/1.png"]) == 0
    assert capsys.readouterr().out.startswith("same: score 0.")
    assert cli.main(["calibrate", "model.onnx", "all-pairs:faces"]) == 2
    assert "a FAR of 0.001 takes at least 10,000 impostor pairs, there are 1,056" in capsys.readouterr().err
    assert cli.main(["calibrate", "model.onnx", "faces"]) == 2
    assert "or draw some: topoface protocols faces OUT" in capsys.readouterr().err
