"""Figure 2c: the verdict tells shrinking from alignment, and what a log lacks is shown as absent."""

import json

import numpy as np
import pytest

from tests.unit.training.tiny import tiny_recipe
from topoface.cli import main
from topoface.diagnostics.topology.training_log import change, judge, read_log
from topoface.errors import UserError
from topoface.training import train

LINES = 40


def write_log(folder, *, recipe=True, lines=LINES, **columns):
    """A log whose figures go straight from one value to another (logarithmically but for the overlap), with noise."""
    folder.mkdir(parents=True)
    names = {
        "discrepancy": "TopoFR/alignment",
        "overlap": "TopoFR/tree_overlap",
        "scale": "TopoFR/scale_ratio",
    }
    names |= {"probability": "class/target_probability", "ratio": "TopoFR/gradient_ratio"}
    rng = np.random.default_rng(0)
    series = {}
    for key, (first, last) in columns.items():
        way = np.linspace(first, last, lines) if key == "overlap" else np.geomspace(first, last, lines)
        series[names[key]] = way * np.exp(0.05 * rng.standard_normal(lines))
    rows = [{"step": s, "loss": 1.0, **{k: v[s] for k, v in series.items()}} for s in range(lines)]
    rows.insert(3, {"step": 3, "evaluation": {"lfw": 0.5}})  # such lines stand between the others
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if recipe:
        text = "data: {train: faces}\nhead: ArcFace\nmethods: [{class_path: TopoFR}]\n"
        (folder / "recipe.yaml").write_text(text + "training: {batch_size: 64, accumulation: 2}\n")
    return str(folder)


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"discrepancy": (9, 0.1), "overlap": (0.1, 0.4), "scale": (2, 2)}, "aligning"),
        ({"discrepancy": (9, 0.1), "overlap": (0.1, 0.4), "scale": (60, 1)}, "aligning and shrinking"),
        ({"discrepancy": (9, 0.1), "overlap": (0.2, 0.2), "scale": (60, 1)}, "shrinking"),
        ({"discrepancy": (9, 0.1), "overlap": (0.3, 0.1), "scale": (60, 1)}, "shrinking"),
        ({"discrepancy": (9, 0.1), "overlap": (0.2, 0.2), "scale": (2, 2)}, "not aligning"),
        ({"discrepancy": (1, 1), "overlap": (0.3, 0.1), "scale": (60, 1)}, "not aligning"),
        ({"discrepancy": (9, 0.1), "overlap": (0.3, 0.1)}, "not aligning"),
        ({"discrepancy": (9, 0.1), "overlap": (0.1, 0.4)}, "aligning"),
    ],
)
def test_the_verdict_follows_overlap_discrepancy_and_scale(tmp_path, columns, kind):
    assert judge(read_log(write_log(tmp_path / "run", **columns))).kind == kind


def test_without_a_scale_shrinking_is_not_claimed_and_not_denied(tmp_path):
    path = write_log(tmp_path / "run", discrepancy=(9, 0.1), overlap=(0.3, 0.1))
    reason = judge(read_log(path)).reason
    assert "holds no scale" in reason
    assert "cannot be told whether shrinking" in reason


def test_chance_is_that_of_the_images_in_a_step(tmp_path):
    columns = {"discrepancy": (9, 1), "overlap": (0.1, 0.2)}
    log = read_log(write_log(tmp_path / "run", **columns))
    assert log.chance_overlap == pytest.approx(2 / 32)  # of 64 images in 2 micro-batches
    assert "independent trees share 6.2%" in judge(log).reason
    bare = read_log(write_log(tmp_path / "bare", recipe=False, **columns) + "/metrics.jsonl")
    assert np.isnan(bare.chance_overlap)
    assert "independent trees" not in judge(bare).reason


def test_a_change_is_one_only_beyond_two_standard_errors():
    noise = np.random.default_rng(1).standard_normal(50)
    flat = change(noise, logarithmic=False)
    assert flat.trend == "did not change"
    first, last = noise[:10], noise[40:]
    error = np.sqrt(first.var(ddof=1) / 10 + last.var(ddof=1) / 10)
    for shift, trend in ((2.1, "rose"), (1.9, "did not change"), (-2.1, "fell")):
        moved = noise.copy()
        moved[40:] += first.mean() - last.mean() + shift * error
        assert change(moved, logarithmic=False).trend == trend
    found = change(np.array([1.0, 4, 9, np.nan, 9, 9, 9, 0, 3, 27]), logarithmic=True)
    assert (found.first, found.last) == pytest.approx((2, 9))  # geometric means; NaN and 0 left out
    assert change(np.arange(5.0), logarithmic=False) is None


def test_a_real_run_logs_all_that_is_read(tmp_path, capsys):
    run = tmp_path / "run"
    train(tiny_recipe(), run_dir=run, quiet=True)
    capsys.readouterr()
    assert main(["topology", "curve", str(run), "--out", str(tmp_path / "out")]) == 0
    numbers = json.loads((tmp_path / "out" / "curve.json").read_text())
    (found,) = numbers["runs"].values()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for key, name in (
        ("discrepancy", "TopoFR/alignment"),
        ("overlap", "TopoFR/tree_overlap"),
        ("scale", "TopoFR/scale_ratio"),
        ("gradient_ratio", "TopoFR/gradient_ratio"),
        ("probability", "class/target_probability"),
    ):
        assert [v for v in found[key] if v is not None] == [line[name] for line in lines if name in line]
    assert found["chance_overlap"] == pytest.approx(2 / 8)
    assert found["reason"] in capsys.readouterr().out.replace("\n", " ")


def test_many_runs_are_grouped_by_verdict_and_those_without_alignment_passed_over(tmp_path, capsys):
    columns = {"discrepancy": (9, 0.1), "scale": (60, 1), "probability": (1e-3, 0.5), "ratio": (1, 0.1)}
    shrinking = [write_log(tmp_path / f"s{k}", overlap=(0.2, 0.2), **columns) for k in range(5)]
    aligning = write_log(tmp_path / "good", discrepancy=(9, 1), overlap=(0.1, 0.4))
    plain = write_log(tmp_path / "plain")
    out = tmp_path / "out"
    assert main(["topology", "curve", *shrinking, plain, aligning, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "Shrinking: s0, s1, s2, s3, s4. Aligning: good." in said.out
    assert "passed over" in said.err
    assert "plain: logged no alignment" in said.err
    html = (out / "curve.html").read_text()
    assert "No scale in the log, from before it was written: good." in html
    assert "not logged" in html
    assert {path.name for path in out.glob("*.png")} == {"curve_runs_1.png", "curve_runs_2.png"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no metrics.jsonl"),
        ("", "holds no logged step"),
        ("[1]\n7\n{\n", "holds no logged step"),
        ('{"step": 1, "loss": 2}\n', "logged no alignment"),
        ('{"step": 1, "TopoFR/alignment": null}\n', "logged no alignment"),
    ],
)
def test_a_run_that_cannot_be_judged_is_one_line(tmp_path, capsys, content, message):
    run = tmp_path / "run"
    run.mkdir()
    if content is not None:
        (run / "metrics.jsonl").write_text(content)
    assert main(["topology", "curve", str(run), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_log_that_is_no_text_is_a_users_mistake(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="holds no logged step"):
        read_log(str(tmp_path))


def test_a_short_log_gets_no_verdict(tmp_path):
    path = write_log(tmp_path / "run", lines=5, discrepancy=(9, 1), overlap=(0.1, 0.4))
    assert judge(read_log(path)).kind == "too short to tell"
    assert main(["topology", "curve", path, "--out", str(tmp_path / "out")]) == 0
