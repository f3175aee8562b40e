"""The gallery: weights by the formula, both directions of a comparison, and faces that are what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from tests.oracles import mixture as mixture_oracle
from tests.unit.diagnostics.trained import trained
from topoface import cli
from topoface.diagnostics.opening import open_run
from topoface.diagnostics.prediction import (
    Predictions,
    Weights,
    draw_samples,
    embed_training_images,
    predict,
    weigh,
)
from topoface.diagnostics.topology.gallery import _about_weights
from topoface.diagnostics.topology.gallery_faces import typical_faces
from topoface.methods.topofr_settings import Damage


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return trained(folder / "topofr"), trained(folder / "arcface", methods=())


def test_weights_follow_the_formula(runs: tuple[Path, Path]) -> None:
    run = open_run(str(runs[0]))
    found = predict(run, draw_samples(run, 16, seed=0), where="run")
    entropies = found.entropy.double().tolist()
    p = found.target_log_probability.double().exp().tolist()
    parameters = mixture_oracle.em(entropies, "ml", 50)
    h = [mixture_oracle.hardness(e, *parameters) for e in entropies]
    weights = weigh(found, Damage(floor=0.0, temperature=2.0, cap=3.0), 12)
    expected = [min((1 + a) ** 2 * (1 - b), 3.0) for a, b in zip(h, p, strict=True)]
    assert weights.omega == pytest.approx(expected, abs=1e-2)
    without_h = weigh(found, Damage(uncertainty=False), 12)
    assert without_h.omega == pytest.approx([1 - b for b in p], abs=1e-6)


def test_the_heaviest_are_shown_with_their_figures(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["topology", "gallery", str(runs[0]), "--count", "5", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        "gallery.html",
        "gallery.json",
        "gallery_weights.png",
    }
    numbers = json.loads((tmp_path / "gallery.json").read_text())
    shown = numbers["heaviest"]
    run = open_run(str(runs[0]))
    found = predict(run, draw_samples(run, 4096, seed=0), where="run")
    omega = weigh(found, Damage(), 12).omega
    assert [row["omega"] for row in shown] == pytest.approx(sorted(omega, reverse=True)[:5])
    for row in shown:
        assert row["omega"] == pytest.approx((1 + row["hardness"]) * (1 - row["probability"]), abs=1e-5)
        assert row["label"] == run.source.labels[row["position"]]
        assert row["name"] == f"identity {row['label']} image {row['position'] % 6}"
    wrong = sum(row["label"] != row["predicted"] for row in shown)
    assert f"The 5 heaviest of 64 training images weigh ω = {min(r['omega'] for r in shown):.4f}" in said
    assert f"{wrong} of them are classified wrongly" in said
    page = (tmp_path / "gallery.html").read_text()
    assert page.count('<figure class="face">') == 5
    assert "Label noise hides here" in page
    assert "real faces" not in page  # these are drawn
    assert 'src="http' not in page


def test_both_directions_of_a_comparison_are_shown_and_mirror_each_other(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = []
    for mine, other in (runs, runs[::-1]):
        out = tmp_path / mine.name
        assert cli.main(["topology", "gallery", str(mine), "--baseline", str(other), "--out", str(out)]) == 0
        numbers.append(json.loads((out / "gallery.json").read_text()))
    first, second = (n["contest"] for n in numbers)
    wrong = []
    for path in runs:
        run = open_run(str(path))
        wrong.append(predict(run, draw_samples(run, 4096, seed=0), where="run").wrong)
    assert first["only_run_wrong"] == (wrong[0] & ~wrong[1]).sum() == second["only_baseline_wrong"]
    assert first["only_baseline_wrong"] == (wrong[1] & ~wrong[0]).sum() == second["only_run_wrong"]
    n = first["only_run_wrong"] + first["only_baseline_wrong"]
    assert n > 0
    assert first["mcnemar_p"] == pytest.approx(stats.binomtest(first["only_run_wrong"], n).pvalue)
    assert first["share_wrong_minus_baseline"]["value"] == pytest.approx(wrong[0].mean() - wrong[1].mean())
    for row in numbers[0]["only_baseline_wrong"]:
        assert row["predicted"] != row["label"]  # what the baseline said
    assert len(numbers[0]["only_baseline_wrong"]) == min(24, first["only_baseline_wrong"])
    page = (tmp_path / "topofr" / "gallery.html").read_text()
    assert "Wrong in arcface, right in topofr" in page
    assert "Wrong in topofr, right in arcface" in page
    assert "no word about unseen people" in capsys.readouterr().out


def test_a_run_does_not_differ_from_itself(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = str(runs[1])
    assert cli.main(["topology", "gallery", same, "--baseline", same, "--out", str(tmp_path)]) == 0
    assert "(exact McNemar p = 1.000)" in capsys.readouterr().out
    assert json.loads((tmp_path / "gallery.json").read_text())["only_run_wrong"] == []


def test_the_typical_face_is_the_closest_to_its_center(runs: tuple[Path, Path]) -> None:
    run = open_run(str(runs[0]))
    typical = typical_faces(run, [2, 7])
    for identity in (2, 7):
        own = [i for i in range(72) if run.source[i][1] == identity]
        center = run.head.weight[identity].detach()
        cosine = {
            i: float(torch.cosine_similarity(embed_training_images(run, np.array([i])), center[None]))
            for i in own
        }
        assert typical[identity] == sorted(own, key=lambda i: -cosine[i])


def test_the_lead_says_when_the_heaviest_are_not_singled_out() -> None:
    found = Predictions(
        positions=np.arange(100),
        labels=np.zeros(100, dtype=np.int64),
        predicted=np.arange(100) % 2,
        entropy=torch.zeros(100),
        plain_entropy=torch.zeros(100),
        target_log_probability=torch.zeros(100),
        batch_size=100,
    )
    flat = Weights(hardness=np.full(100, 0.999), omega=np.linspace(1.99, 1.999, 100), fits=[])
    heaviest = np.argsort(-flat.omega)[:4]
    words = _about_weights(found, flat, heaviest)
    assert "96 more weigh within 1 % of them" in words
    assert "hardly tells them apart" in words
    steep = Weights(hardness=np.linspace(0, 1, 100), omega=np.linspace(0, 2, 100), fits=[])
    assert _about_weights(found, steep, heaviest).endswith(
        "2 of them are classified wrongly, and 50 of all (50.0%)."
    )


def test_mistakes_are_one_line(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: object) -> str:
        assert cli.main(["topology", "gallery", *map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    assert "--count: is 0; show 1 face or more" in fails(runs[0], "--count", 0)
    assert "is no run directory" in fails(runs[0], "--baseline", tmp_path)
    other = trained(tmp_path / "other", methods=(), data="synthetic:?identities=12&images=6&seed=1")
    assert "was trained on other data than" in fails(runs[0], "--baseline", other)
    assert not (tmp_path / "out").exists()
