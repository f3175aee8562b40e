"""The self-test: its figures are those of the definitions, and a broken installation is found out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from topoface.cli import main
from topoface.diagnostics.doctor import selftest
from topoface.diagnostics.doctor.report import Finding, lines, summary
from topoface.diagnostics.doctor.selftest import (
    PIXEL_AUC,
    PIXEL_TOLERANCE,
    PLANTED,
    drawn,
    pixels_less_grey,
    planted_rows,
    self_test,
)
from topoface.models import build_model, save


def cosines(rows: np.ndarray) -> list[float]:
    return [
        float(np.dot(rows[a], rows[b]) / np.sqrt(np.dot(rows[a], rows[a]) * np.dot(rows[b], rows[b])))
        for a, b in drawn().pairs
    ]


def auc_by_counting(scores: list[float], same: list[bool]) -> float:
    genuine = [s for s, kind in zip(scores, same, strict=True) if kind]
    impostor = [s for s, kind in zip(scores, same, strict=True) if not kind]
    wins = sum((g > i) + (g == i) / 2 for g in genuine for i in impostor)
    return wins / len(genuine) / len(impostor)


def test_the_auc_of_pixels_is_that_of_counting():
    protocol = drawn()
    rows = pixels_less_grey(np.stack([protocol.images[i] for i in range(len(protocol.images))]))
    counted = auc_by_counting(cosines(rows), protocol.same.tolist())
    assert counted == pytest.approx(PIXEL_AUC, abs=PIXEL_TOLERANCE / 4)


def test_the_planted_figures_are_those_of_the_definitions():
    protocol = drawn()
    scores, same = [round(s, 9) for s in cosines(planted_rows())], protocol.same.tolist()
    assert auc_by_counting(scores, same) == pytest.approx(PLANTED["auc"], abs=1e-12)
    genuine = [s for s, kind in zip(scores, same, strict=True) if kind]
    impostor = [s for s, kind in zip(scores, same, strict=True) if not kind]
    bars = sorted({*scores, 9.0})
    far = {bar: sum(s >= bar for s in impostor) / len(impostor) for bar in bars}
    tar = {bar: sum(s >= bar for s in genuine) / len(genuine) for bar in bars}
    assert max(tar[bar] for bar in bars if far[bar] <= 0.1) == pytest.approx(PLANTED["tar@0.1"], abs=1e-12)
    # FAR and FRR cross on the line between two neighbouring bars.
    for upper, lower in zip(reversed(bars), list(reversed(bars))[1:], strict=False):
        over, under = (far[bar] - (1 - tar[bar]) for bar in (upper, lower))
        if over < 0 <= under:
            crossing = far[upper] + (far[lower] - far[upper]) * -over / (under - over)
    assert crossing == pytest.approx(PLANTED["eer"], abs=1e-12)
    shares = []
    for fold in range(4):
        rest = [(s, k) for s, k, f in zip(scores, same, protocol.folds, strict=True) if f != fold]
        own = [(s, k) for s, k, f in zip(scores, same, protocol.folds, strict=True) if f == fold]
        choices = sorted({*(s for s, _ in rest), np.inf}, reverse=True)  # the strictest of the best
        bar = max(choices, key=lambda bar: sum((s >= bar) == k for s, k in rest))
        shares.append(sum((s >= bar) == k for s, k in own) / len(own))
    assert np.mean(shares) == pytest.approx(PLANTED["accuracy"], abs=1e-12)


def test_a_sound_installation_passes_in_no_time():
    finding = self_test()
    assert (finding.level, finding.figures["wrong"]) == ("ok", {})


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda m: m.setattr(torch.nn.functional, "conv2d", wrongly(torch.nn.functional.conv2d)), "convolution"),
        (lambda m: m.setattr(torch.Tensor, "__matmul__", wrongly(torch.Tensor.__matmul__)), "products"),
        (lambda m: m.setattr(selftest, "most_similar", lambda *_: (np.zeros((300, 2), int), np.ones((300, 2)))), "search"),
        (lambda m: m.setattr(selftest, "pixels_less_grey", lambda faces: faces[:, :9, :9].reshape(len(faces), -1) * 1.0), "scores of pixels"),
        (lambda m: m.setattr(selftest, "planted_rows", lambda: np.eye(64)), "planted features"),
    ],
    ids=["convolution", "products", "search", "pixels", "planted"],
)  # fmt: skip
def test_a_broken_part_is_named(monkeypatch, break_it, named):
    break_it(monkeypatch)
    finding = self_test()
    assert finding.level == "wrong"
    assert list(finding.figures["wrong"]) == [named]


def wrongly(function):
    """Off by a part in a hundred."""
    return lambda *a, **k: function(*a, **k) * 1.01


def test_the_last_line_sums_up():
    fine, note, wrong = (Finding(check=level, level=level, text="text") for level in ("ok", "note", "wrong"))
    assert summary([fine]) == "nothing is wrong"
    assert summary([fine, note]) == "nothing is wrong (1 note)"
    assert lines([fine, wrong, note]) == [
        "ok     ok     text",
        "WRONG  wrong  text",
        "note   note   text",
        "",
        "WRONG: wrong (1 note)",
    ]


@pytest.fixture
def model(tmp_path: Path) -> str:
    save(build_model("iresnet_tiny", dimension=16, seed=0), tmp_path / "model")
    return str(tmp_path / "model")


def test_the_command_prints_writes_and_exits_by_what_it_found(model, tmp_path, capsys):
    pairs = "synthetic:?identities=20&images=3&pairs=60&seed=3"
    out = tmp_path / "found.json"
    arguments = ["doctor", model, pairs, "--pairs", "40", "--json", str(out)]
    code = main([*arguments, "--train", "synthetic:?identities=5&images=2&seed=9"])
    told = capsys.readouterr()
    found = json.loads(out.read_text())
    wrong = [finding["check"] for finding in found["findings"] if finding["level"] == "wrong"]
    assert code == int(found["wrong"]) == int(bool(wrong))
    assert [line.split("  ")[0] for line in told.out.splitlines()[:2]] == ["ok", "ok"]
    checks = [finding["check"] for finding in found["findings"]]
    assert {"installation", "network", "contract", "alignment", "mirror image", "train: same pixels"} <= set(
        checks
    )
    assert (found["model"], found["data"], found["pairs"]) == (model, pairs, 40)


def test_test_images_in_the_training_set_make_the_exit_code_1(model, capsys):
    # The same drawn people, images and seed: every test image is a training image.
    code = main(
        ["doctor", model, "synthetic:?identities=20&images=3&pairs=60&seed=3&first=0", "--pairs", "40", "--train", "synthetic:?identities=20&images=3&seed=3&first=0"]
    )  # fmt: skip
    told = capsys.readouterr().out
    assert code == 1
    assert "test images are training images, too" in told
    assert told.splitlines()[-1].startswith("WRONG: ")
