"""Hardness of a run's training samples: against slow oracles, in honest words, and through the command line."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.oracles import heads as head_oracle
from tests.oracles import mixture as mixture_oracle
from tests.unit.diagnostics.trained import trained
from topoface import cli
from topoface.diagnostics.calibration import Bin, Estimate, Reliability
from topoface.diagnostics.opening import open_run
from topoface.diagnostics.prediction import Predictions, damage_of, draw_samples, fit_each_batch, predict
from topoface.diagnostics.topology import hardness as command
from topoface.diagnostics.topology.hardness_results import Judged, Results, judge_all
from topoface.methods.topofr_settings import Damage


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "topofr")


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "arcface", methods=())


def test_predictions_are_those_of_each_image_alone(run_dir: Path) -> None:
    run = open_run(str(run_dir))
    found = predict(run, draw_samples(run, 32, seed=3), where="run")
    assert len(set(found.positions.tolist())) == 32
    centers = run.head.weight.detach()
    for i in (0, 7, 31):
        pixels, label = run.source[int(found.positions[i])]
        with torch.no_grad():
            embedding = run.model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        _, (log_p,), (entropy,) = head_oracle.class_statistics(
            embedding, centers, torch.tensor([label]), 16.0, lambda c: head_oracle.angular_logit(c, 0.5)
        )
        _, _, (plain,) = head_oracle.class_statistics(
            embedding, centers, torch.tensor([label]), 16.0, lambda c: c
        )
        cosines = [float(embedding[0] @ c / embedding[0].norm() / c.norm()) for c in centers]
        assert found.labels[i] == label
        assert found.predicted[i] == max(range(12), key=cosines.__getitem__)
        assert float(found.target_log_probability[i]) == pytest.approx(log_p, abs=1e-3)
        assert float(found.entropy[i]) == pytest.approx(entropy, abs=1e-3)
        assert float(found.plain_entropy[i]) == pytest.approx(plain, abs=1e-3)


def test_the_seed_draws_the_samples_in_whole_batches(run_dir: Path) -> None:
    run = open_run(str(run_dir))
    drawn = draw_samples(run, 40, seed=0)
    assert len(drawn) == 32  # of the run's batches of 16
    assert np.array_equal(drawn, draw_samples(run, 40, seed=0))
    assert not np.array_equal(drawn, draw_samples(run, 40, seed=1))
    assert len(draw_samples(run, 10, seed=0)) == 10
    assert len(draw_samples(run, 10**6, seed=0)) == 64  # of 72 images


def test_each_sample_gets_the_hardness_of_its_own_batch(run_dir: Path) -> None:
    run = open_run(str(run_dir))
    found = predict(run, draw_samples(run, 64, seed=0), where="run")
    h, fits = fit_each_batch(found, "ml", Damage(floor=0.0), 12)
    entropies = found.entropy.double().tolist()
    for k in range(4):
        batch = entropies[16 * k : 16 * (k + 1)]
        parameters = mixture_oracle.em(batch, "ml", 50)
        expected = [mixture_oracle.hardness(e, *parameters) for e in batch]
        assert h[16 * k : 16 * (k + 1)] == pytest.approx(expected, abs=2e-3)
        assert float(fits[k].upper) == pytest.approx(max(batch), rel=1e-6)


def test_every_number_of_the_page_is_in_the_json_and_adds_up(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["topology", "hardness", str(run_dir), "--seed", "2", "--out", str(tmp_path / "out")]) == 0
    )
    said = capsys.readouterr().out
    assert str(tmp_path / "out" / "hardness.html") in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {f"hardness_{name}.png" for name in ("entropies", "hardness", "reliability", "tenths")}
    assert names == {"hardness.html", "hardness.json"} | pictures
    numbers = json.loads((tmp_path / "out" / "hardness.json").read_text())
    each = numbers["each"]
    wrong = np.array(each["label"]) != np.array(each["predicted"])
    assert (numbers["samples"], numbers["wrong"]) == (64, wrong.sum())
    assert 0 < wrong.sum() < 64
    assert f"{wrong.sum()} of 64 training images" in said
    h = np.array(each["hardness"])
    own = numbers["by_batch"]["ml"]
    above = sum((a > b) + (a == b) / 2 for a in h[wrong] for b in h[~wrong])
    assert own["auc"]["value"] == pytest.approx(above / wrong.sum() / (~wrong).sum())
    assert own["mean"] == pytest.approx(h.mean())
    assert sum(b["samples"] for b in own["bins"]) == 64
    assert len(own["parameters"]["pi"]) == 4
    assert len(numbers["over_all"]["ml"]["parameters"]["pi"]) == 1
    assert set(numbers["by_batch"]) == {"ml", "moments", "eq7", "release"}
    assert sum(b["samples"] for b in numbers["wrong_by_tenth"]["without margin"]) == 64
    page = (tmp_path / "out" / "hardness.html").read_text()
    assert "--seed 2" in page
    assert "64 drawn of 72" in page
    assert "the run&#39;s own" in page
    assert 'src="http' not in page


def test_a_run_without_topofr_is_judged_with_the_defaults(plain_run: Path, tmp_path: Path) -> None:
    assert cli.main(["topology", "hardness", str(plain_run), "--samples", "32", "--out", str(tmp_path)]) == 0
    assert "this run gave all samples the same weight" in (tmp_path / "hardness.html").read_text()
    assert damage_of(open_run(str(plain_run)))[0] == Damage()


# --- words ---------------------------------------------------------------------------------------------


def results(
    h: list[float], wrong: list[bool], auc: Estimate, plain: Estimate, *, limit: float = 0.05
) -> Results:
    n = len(h)
    found = Predictions(
        positions=np.arange(n),
        labels=np.zeros(n, dtype=np.int64),
        predicted=np.array(wrong, dtype=np.int64),
        entropy=torch.zeros(n),
        plain_entropy=torch.zeros(n),
        target_log_probability=torch.zeros(n),
        batch_size=n,
    )
    values = np.array(h)
    error = float(abs(values.mean() - found.wrong.mean()))
    reliable = Reliability(bins=[Bin(0, n, 0.0, auc)], error=error, error_if_calibrated=limit)
    judged = Judged(hardness=values, fits=[], auc=auc, reliability=reliable)
    return Results(
        found=found,
        main="ml",
        margin=True,
        by_batch={"ml": judged},
        over_all={"ml": judged},
        plain=judged,
        auc_of={"entropy without margin": plain},
        deciles={},
    )


UNSURE, HIGH, LOW = Estimate(0.52, 0.48, 0.56), Estimate(0.9, 0.85, 0.95), Estimate(0.3, 0.2, 0.4)
NONE = Estimate(math.nan, math.nan, math.nan)


@pytest.mark.parametrize(
    ("found", "said", "unsaid"),
    [
        (
            results([0.999] * 10, [True] + [False] * 9, UNSURE, HIGH),
            ["h calls everything hard", "is not the probability", "no better than chance", "without margin ranks better"],
            [],
        ),
        (
            results([0.01] * 10, [False] * 10, NONE, NONE),
            ["0 of 10 training images", "h calls nothing hard", "agrees with the share", "all samples are of one kind"],
            ["ranks"],
        ),
        (
            results([0.9] * 3 + [0.1] * 7, [True] * 3 + [False] * 7, HIGH, UNSURE),
            ["h calls 30.0% of them hard", "ranks wrong above right more often than chance", "without margin ranks worse"],
            ["everything", "nothing"],
        ),
        (
            results([0.9] * 3 + [0.1] * 7, [False] * 7 + [True] * 3, LOW, Estimate(0.35, 0.3, 0.45)),
            ["ranks wrong below right"],
            ["without margin ranks"],
        ),
    ],
)  # fmt: skip
def test_the_lead_follows_from_the_numbers(found: Results, said: list[str], unsaid: list[str]) -> None:
    lead = command._lead(found)
    assert [words for words in said if words not in lead] == []
    assert [words for words in unsaid if words in lead] == []


def test_a_hardness_that_is_the_error_rate_is_called_so() -> None:
    random = np.random.default_rng(0)
    entropy = torch.from_numpy(
        np.sort(np.concatenate([np.abs(random.normal(0, 0.1, 900)), random.uniform(0, 4, 300)]))
    )
    h = mixture_oracle.em(entropy.tolist(), "ml", 60)
    wrong = random.random(1200) < [mixture_oracle.hardness(e, *h) for e in entropy.tolist()]
    found = Predictions(
        positions=np.arange(1200),
        labels=np.arange(1200) // 2,
        predicted=np.arange(1200) // 2 + wrong,
        entropy=entropy,
        plain_entropy=entropy,
        target_log_probability=-entropy,
        batch_size=1200,
    )
    judged = judge_all(found, Damage(), 100, margin=True)
    assert judged.by_batch["ml"].reliability.calibrated
    assert judged.by_batch["ml"].auc.low > 0.8
    assert not judged.by_batch["eq7"].reliability.calibrated
    assert "agrees with the share that is wrong" in command._lead(judged)


# --- mistakes ------------------------------------------------------------------------------------------


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["topology", "hardness", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_mistakes_are_one_line_and_leave_nothing(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out")
    assert "is no run directory" in fails(capsys, tmp_path, *out)
    assert "--samples: is 1" in fails(capsys, run_dir, "--samples", 1, *out)
    (tmp_path / "recipe.yaml").write_bytes((run_dir / "recipe.yaml").read_bytes())
    assert "has no checkpoint; train it" in fails(capsys, tmp_path, *out)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    assert "choose another --out" in fails(capsys, run_dir, "--out", tmp_path / "file" / "out")


def test_other_data_than_it_was_trained_on_are_refused(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").symlink_to(run_dir / "checkpoints")
    text = (run_dir / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(text.replace("seed=0", "seed=9"))
    assert "was trained on other data" in fails(capsys, tmp_path, "--out", tmp_path / "out")


def test_a_head_without_class_centers_is_refused(run_dir: Path) -> None:
    run: Any = open_run(str(run_dir))
    run.head = torch.nn.Identity()
    with pytest.raises(Exception, match="its head Identity has no class centers; give a run with ArcFace"):
        predict(run, np.arange(4), where="somewhere")
