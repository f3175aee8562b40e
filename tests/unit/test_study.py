"""Studies: every run once, resumable at any point, and tables that claim no more than the intervals allow."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from topoface.errors import UserError
from topoface.recipe.yaml_files import to_yaml
from topoface.study import load_study, plan, run_study
from topoface.study.results import Comparison, RunFiles, compare, reading, student_quantile, t_interval
from topoface.study.runs import _core_sets

# Stands for `topoface train`: writes what a run writes; fails, or waits to be stopped, where the recipe's lr says so.
FAKE_TRAIN = """
import json, os, signal, sys, time
from pathlib import Path
import numpy as np
from topoface.recipe.files import dump_recipe, load_recipe

arguments = [a for a in sys.argv[1:] if a not in ("--quiet", "--resume")]
at = arguments.index("--run-dir")
folder = Path(arguments[at + 1])
recipe = load_recipe(arguments[0], arguments[1:at])
folder.mkdir(parents=True, exist_ok=True)
(folder / "recipe.yaml").write_text(dump_recipe(recipe))
with (folder.parents[1] / "starts.txt").open("a") as file:
    print(folder.parent.name, folder.name, "--resume" in sys.argv, os.environ["OMP_NUM_THREADS"], file=file)
with (folder.parents[1] / "tables.txt").open("a") as file:
    print((folder.parents[1] / "table.md").exists(), file=file)
if recipe.optimizer.lr == 0.666:
    print("some words\\ntopoface: error: the loss is not finite; lower optimizer.lr")
    sys.exit(2)
if recipe.optimizer.lr == 0.999 and "--resume" not in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").touch(), sys.exit(130)))
    (folder / "ready").write_text(str(os.getpid()))
    time.sleep(60)
seed = recipe.training.seed
random = np.random.default_rng(seed)
left = np.arange(120) % 30
right = np.where(np.arange(120) < 60, left, (left + 1 + np.arange(120) % 7) % 30)
same = left == right
better = recipe.head.init_args.get("margin", 0.0)
scores = random.normal(0, 0.2, 120) + same * (0.5 + better)
(folder / "scores").mkdir(exist_ok=True)
np.savez(folder / "scores" / "lfw.npz", scores=scores, same=same, folds=np.arange(120) % 10,
         identities=np.stack([left, right], 1))
value = 0.8 + 0.1 * better + 0.001 * seed
figure = {"value": value, "low": value - 0.01, "high": None}
judged = {"name": "lfw", "accuracy": figure, "auc": figure, "eer": figure,
          "tar_at_far": [{"target": 0.1, "tar": figure}], "warnings": ["few pairs"]}
(folder / "metrics.jsonl").write_text('{"step": 1, "images_per_s": 1}\\n{"step": 2, "images_per_s": 256}\\n'
                                      '{"step": 3, "images_per_s": 512}\\n[1]\\n7}\\n{"step":')
(folder / "evaluation.json").write_text(json.dumps({"protocols": [judged]}))
"""

RECIPE = "data: {train: faces}\nhead: {class_path: ArcFace, init_args: {margin: 0.0}}\n"


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """Writes a study file and its recipe; returns its path."""
    (tmp_path / "plain.yaml").write_text(RECIPE)
    (tmp_path / "train.py").write_text(FAKE_TRAIN)

    def write(**settings: Any) -> Path:
        tree: dict[str, Any] = {
            "name": "a study",
            "folder": str(tmp_path / "out"),
            "baseline": "plain",
            "seeds": [0, 1],
            "variants": {"plain": {"recipe": "plain.yaml"}},
        }
        path = tmp_path / "study.yaml"
        path.write_text(to_yaml(tree | settings))
        return path

    return write


def run(path: Path, **options: Any) -> int:
    return run_study(path, train=[sys.executable, str(path.parent / "train.py")], **options)


def starts(path: Path) -> list[str]:
    return (path.parent / "out" / "starts.txt").read_text().splitlines()


BETTER = {"recipe": "plain.yaml", "overrides": ["head.init_args.margin=0.4"]}


def test_a_study_runs_everything_once_and_tables_it(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = study(variants={"plain": {"recipe": "plain.yaml"}, "better": BETTER}, workers=2, threads=1)
    assert run(path) == 0
    out = path.parent / "out"
    # Seed-major; a new folder is not resumed. The two of one seed start together.
    assert {line.split()[1] for line in starts(path)[:2]} == {"seed_0"}
    assert sorted(starts(path)) == [
        f"{variant} seed_{seed} False 1" for variant in ("better", "plain") for seed in (0, 1)
    ]
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 * 4
    row = next(r for r in rows if (r["variant"], r["seed"], r["metric"]) == ("better", "1", "tar@0.1"))
    assert (row["protocol"], float(row["value"]), float(row["low"]), row["high"]) == ("lfw", 0.841, 0.831, "")
    assert (float(row["images_per_s"]), float(row["step_ms"])) == (256.0, 500.0)
    assert float(row["wall_s"]) > 0
    text = (out / "table.md").read_text()
    assert "4 of 4 runs are finished." in text
    assert "| plain | 2 | 80.05 | 79.41 to 80.69 |" in text
    assert "| +4.00 | 4.00 to 4.00 |" in text
    assert "- few pairs" in text
    assert "table.md" in capsys.readouterr().out

    assert run(path) == 0  # nothing is left to do
    assert len(starts(path)) == 4


def test_a_failed_run_is_reported_and_the_others_go_on(
    study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"recipe": "plain.yaml", "overrides": ["optimizer.lr=0.666"]}
    path = study(variants={"bad": bad, "plain": {"recipe": "plain.yaml"}}, seeds=[3])
    assert run(path) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "bad/seed_3: failed with exit code 2: topoface: error: the loss is not finite; lower optimizer.lr"
        in said
    )
    text = (path.parent / "out" / "table.md").read_text()
    assert "1 of 2 runs are finished." in text
    assert "Failed: bad/seed_3." in text
    assert "| bad | 0 |  |" in text
    assert run(path) == 1  # tried again, and continued rather than begun anew
    assert starts(path)[-1] == "bad seed_3 True 1"
    # What is known is tabled after each run, not only at the end.
    assert (path.parent / "out" / "tables.txt").read_text().split() == ["False", "True", "True"]


def begun(path: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """A study in a process of its own, and the process id of its run once that waits to be stopped."""
    code = (
        "import sys; from pathlib import Path; from topoface.study import run_study\n"
        f"run_study(Path({str(path)!r}), train=[sys.executable, {str(path.parent / 'train.py')!r}])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    ready = path.parent / "out" / "plain" / "seed_0" / "ready"
    deadline = time.monotonic() + 60
    while not (ready.exists() and ready.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return process, int(ready.read_text())


WAITING = {"plain": {"recipe": "plain.yaml", "overrides": ["optimizer.lr=0.999"]}}


def test_a_run_that_outlives_its_study_keeps_the_folder_locked(study: Any) -> None:
    path = study(variants=WAITING, seeds=[0])
    process, run_id = begun(path)
    process.kill()
    process.communicate()
    with pytest.raises(UserError, match="another study is at work there"):
        run(path)
    os.kill(run_id, signal.SIGKILL)


def test_stopping_a_study_lets_the_runs_save_and_the_next_call_continues_them(study: Any) -> None:
    path = study(variants=WAITING, seeds=[0])
    folder = path.parent / "out" / "plain" / "seed_0"
    process, _ = begun(path)
    try:
        with pytest.raises(UserError, match="another study is at work there"):
            run(path)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert b"KeyboardInterrupt" in said
    assert (folder / "saved").exists()
    assert "0 of 1 runs are finished." in (path.parent / "out" / "table.md").read_text()
    first_wall_s = json.loads((folder / "study.json").read_text())["wall_s"]

    assert run(path) == 0
    assert starts(path) == ["plain seed_0 False 1", "plain seed_0 True 1"]
    assert RunFiles(variant="plain", seed=0, folder=folder).wall_s() > first_wall_s


def test_a_run_of_another_recipe_is_never_taken_for_this_one(study: Any) -> None:
    path = study(seeds=[0])
    assert run(path) == 0
    study(seeds=[0], overrides=["optimizer.lr=0.05", "head.class_path=CosFace"])
    with pytest.raises(
        UserError, match=r"seed_0: was made with another head.class_path, .*optimizer\.lr; move it away"
    ):
        run(path)


def test_a_dry_run_starts_nothing(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = study()
    assert run(path, dry_run=True) == 0
    assert capsys.readouterr().out == "to run    plain/seed_0\nto run    plain/seed_1\n"
    assert not (path.parent / "out").exists()


def test_a_grid_multiplies_every_variant_but_the_baseline(study: Any) -> None:
    path = study(
        seeds=[0],
        variants={"plain": {"recipe": "plain.yaml"}, "better": BETTER},
        overrides=["head.init_args.margin=0.9"],
        grid={"head.init_args.scale": [16, 32.5], "optimizer.name": ["adamw"]},
    )
    runs = plan(load_study(path), path)
    assert [run.name for run in runs] == [
        "plain/seed_0",
        "better-scale=16-name=_adamw_/seed_0",
        "better-scale=32.5-name=_adamw_/seed_0",
    ]
    assert runs[0].recipe.head.init_args == {"margin": 0.9}
    assert runs[2].recipe.head.init_args == {"margin": 0.4, "scale": 32.5}
    assert runs[2].recipe.optimizer.name == "adamw"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baseline": "palin"}, "study.yaml: baseline: is 'palin', which is no variant; name one of: plain"),
        ({"variant": {}}, "study.yaml: variant: unknown key; did you mean variants?"),
        (
            {"variants": {"plain": {"recip": "x"}}},
            "variants.plain.recip: unknown key; did you mean variants.plain.recipe?",
        ),
        ({"variants": {"plain": {}}}, "variants.plain.recipe: is missing"),
        ({"variants": {"plain": {"recipe": "none.yaml"}}}, "none.yaml: there is no such recipe"),
        ({"seeds": []}, "study.yaml: seeds: is []; give at least one"),
        ({"seeds": [1, 1]}, "seeds: is [1, 1]; give at least one, each once"),
        ({"seeds": 3}, "seeds: found 3 where list[int] is expected"),
        ({"workers": 0}, "workers: is 0; give 1 or more"),
        ({"overrides": ["optimizer.lrr=1"]}, "optimizer.lrr=1: unknown key; did you mean optimizer.lr?"),
        ({"variants": {"plain": {"recipe": "plain.yaml"}, "a b": BETTER, "a/b": BETTER}}, "would both write"),
    ],
)
def test_a_bad_study_is_one_line_before_anything_runs(
    study: Any, settings: dict[str, Any], message: str
) -> None:
    path = study(**settings)
    with pytest.raises(UserError) as caught:
        run(path)
    assert message in str(caught.value)
    assert not (path.parent / "out").exists()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system knows no core sets")
def test_workers_share_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 6, 7, 9})
    assert _core_sets(2, 2) == [{2, 3}, {6, 7}]
    assert _core_sets(3, 2) == [frozenset()] * 3


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99, 0.999])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 200])
def test_the_t_quantile_is_that_of_scipy(freedom: int, level: float) -> None:
    assert student_quantile(freedom, level) == pytest.approx(stats.t.ppf(0.5 + level / 2, freedom), rel=1e-6)


def test_the_t_interval_is_that_of_scipy() -> None:
    values = [0.91, 0.93, 0.915, 0.95]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert t_interval(values) == pytest.approx(expected, rel=1e-6)
    assert all(map(math.isnan, t_interval([0.9])))
    assert all(map(math.isnan, t_interval([])))


NOTHING = (math.nan, math.nan)


@pytest.mark.parametrize(
    ("difference", "over_seeds", "over_identities", "words"),
    [
        (0.01, (0.005, 0.015), (0.002, 0.02), "higher"),
        (-0.01, (-0.015, -0.005), (-0.02, -0.002), "lower"),
        (0.01, (-0.001, 0.02), (0.002, 0.02), "difference not distinguishable from zero"),
        (-0.01, (-0.02, 0.001), (-0.02, -0.001), "difference not distinguishable from zero"),
        (0.01, (0.005, 0.015), (-0.002, 0.02), "difference not distinguishable from zero"),
        (0.0, (0.0, 0.0), (0.0, 0.0), "difference not distinguishable from zero"),
        (0.01, (0.001, 0.02), (-0.02, -0.01), "difference not distinguishable from zero"),
        (0.01, NOTHING, (0.002, 0.02), "higher, judged over identities alone"),
        (0.01, (0.005, 0.015), NOTHING, "higher, judged over seeds alone"),
        (0.01, NOTHING, NOTHING, "no interval, so no claim"),
    ],
)
def test_words_claim_no_more_than_the_intervals(
    difference: float, over_seeds: Any, over_identities: Any, words: str
) -> None:
    comparison = Comparison(
        seeds=2,
        mean=0.9,
        over_seeds=NOTHING,
        over_identities=NOTHING,
        difference=difference,
        difference_over_seeds=over_seeds,
        difference_over_identities=over_identities,
    )
    assert reading(comparison) == words


def test_differences_are_paired_by_seed_and_by_people(study: Any) -> None:
    path = study(
        variants={"plain": {"recipe": "plain.yaml"}, "same": {"recipe": "plain.yaml"}, "better": BETTER}
    )
    assert run(path) == 0
    folder = path.parent / "out"

    def files(variant: str, *seeds: int) -> list[RunFiles]:
        return [RunFiles(variant=variant, seed=k, folder=folder / variant / f"seed_{k}") for k in seeds]

    equal = compare(files("same", 0, 1), files("plain", 0, 1), "lfw", "accuracy")
    assert equal.difference == 0
    assert equal.difference_over_identities == (0, 0)  # the same people were drawn for both
    better = compare(files("better", 0, 1), files("plain", 1), "lfw", "auc")
    assert better.seeds == 2
    assert better.difference == pytest.approx(0.04)  # of the one seed that both have
    assert all(map(math.isnan, better.difference_over_seeds))
    low, high = better.difference_over_identities
    assert low < 0.04 < high  # few pairs, but better for everybody
    assert low + high > 0.04
    (folder / "plain" / "seed_1" / "scores" / "lfw.npz").unlink()
    without = compare(files("better", 0, 1), files("plain", 1), "lfw", "auc")
    assert all(map(math.isnan, without.difference_over_identities))
    assert without.over_identities == better.over_identities
