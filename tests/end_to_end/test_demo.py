"""The demo at a tiny size, through the command line."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from topoface import demo
from topoface.cli import main
from topoface.models import load


def test_the_demo_trains_judges_and_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = (
        "data.train=synthetic:?identities=6&images=4&seed=0",
        'evaluation.pairs=["synthetic:?identities=20&images=4&seed=0&first=100000&pairs=100"]',
        "evaluation.bootstrap=20",
        "training.steps=4",
        "training.batch_size=8",
        "model.name=iresnet_tiny",
    )
    monkeypatch.setattr(demo, "OVERRIDES", tiny)
    folder = tmp_path / "demo"
    assert main(["demo", "--folder", str(folder)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "ArcFace tells same from different",
        "TopoFR tells",
        "guessing gives 50 %",
        "The difference",
    ):
        assert words in out
    page = (folder / "report.html").read_text()
    assert "ArcFace" in page
    assert "TopoFR" in page
    assert load(folder / "TopoFR" / "model").spec.dimension == 128
    assert main(["demo", "--folder", str(folder)]) == 0, "a demo that is done only judges again"
    (folder / "letters.txt").touch()
    assert main(["demo", "--folder", str(folder)]) == 2
    assert "holds something else" in capsys.readouterr().err


def test_a_demo_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "train", lambda *_, **__: SimpleNamespace(interrupted=True))
    assert main(["demo", "--folder", str(tmp_path / "demo")]) == 130
