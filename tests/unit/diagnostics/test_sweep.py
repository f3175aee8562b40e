"""The sweep: every figure in its own cell, empty cells shown as empty, and no setting recommended."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from topoface import cli
from topoface.diagnostics.topology import sweep as command
from topoface.diagnostics.topology.sweep_plots import Cell, draw_heat_map, draw_lines
from topoface.recipe.files import dump_recipe
from topoface.recipe.yaml_files import to_yaml
from topoface.study import load_study, plan
from topoface.study.results import Comparison

RECIPE = "data: {train: faces}\nhead: {class_path: ArcFace}\nmethods: [{class_path: TopoFR}]\n"
RATIO, XI = "methods.0.init_args.isa.ratio", "methods.0.init_args.rsp.xi"
GRID = {RATIO: [0.05, 0.3], XI: [0.0, 0.2, 0.4]}


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Path]:
    """Writes a study file; returns its path."""
    (tmp_path / "topo.yaml").write_text(RECIPE)
    (tmp_path / "plain.yaml").write_text("data: {train: faces}\nhead: {class_path: ArcFace}\n")

    def write(**settings: Any) -> Path:
        tree = {
            "name": "a sweep",
            "folder": str(tmp_path / "runs"),
            "baseline": "plain",
            "seeds": [0, 1, 2],
            "variants": {"plain": {"recipe": "plain.yaml"}, "topo": {"recipe": "topo.yaml"}},
            "grid": GRID,
        }
        path = tmp_path / "study.yaml"
        path.write_text(to_yaml(tree | settings))
        return path

    return write


def accuracy_of(recipe: Any, seed: int) -> float:
    """What the pretended runs reach: another figure in every cell."""
    if not recipe.methods:
        return 0.7 + 0.001 * seed
    arguments = recipe.methods[0].init_args
    ratio, xi = arguments.get("isa", {}).get("ratio", 0.0), arguments.get("rsp", {}).get("xi", 0.0)
    return 0.7 + 0.1 * ratio + 0.05 * xi + 0.001 * seed**2


def pretend(path: Path, *, without: str = "nothing") -> int:
    """Write what finished runs write; those whose folder contains ``without`` failed."""
    random = np.random.default_rng(0)
    people = np.stack([np.arange(80) % 20, (np.arange(80) + (np.arange(80) >= 40)) % 20], axis=1)
    same = people[:, 0] == people[:, 1]
    for run in plan(load_study(path), path):
        folder = run.files.folder
        if without in str(folder):
            continue
        (folder / "scores").mkdir(parents=True, exist_ok=True)
        np.savez(
            folder / "scores" / "lfw.npz",
            scores=random.normal(same * 1.0, 1),
            same=same,
            folds=np.arange(80) % 4,
            identities=people,
        )
        figure = {"value": accuracy_of(run.recipe, run.files.seed), "low": None, "high": None}
        judged = {
            "name": "lfw", "accuracy": figure, "auc": figure, "eer": figure, "tar_at_far": [], "warnings": ["few pairs"],
        }  # fmt: skip
        (folder / "recipe.yaml").write_text(dump_recipe(run.recipe))
        (folder / "evaluation.json").write_text(json.dumps({"protocols": [judged]}))
    return int(without != "nothing")


def numbers_in(out: Path) -> Any:
    return json.loads((out / "sweep.json").read_text())["swept"]


def test_every_cell_holds_the_figures_of_its_own_setting(
    study: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = study(), tmp_path / "out"
    assert command.sweep(path, out=out, run=pretend) == 0
    (swept,) = numbers_in(out)
    assert swept["baseline_by_seed"] == pytest.approx([0.7, 0.701, 0.702])
    assert [cell["values"] for cell in swept["cells"]] == [
        [r, x] for r in (0.05, 0.3) for x in (0.0, 0.2, 0.4)
    ]
    for cell in swept["cells"]:
        ratio, xi = cell["values"]
        seeds = [0.7 + 0.1 * ratio + 0.05 * xi + 0.001 * k**2 for k in range(3)]
        assert cell["by_seed"] == pytest.approx(seeds)
        assert cell["mean"] == pytest.approx(np.mean(seeds))
        assert cell["over_seeds"] == pytest.approx(
            stats.t.interval(0.95, 2, np.mean(seeds), stats.sem(seeds)), rel=1e-5
        )
        gaps = [a - b for a, b in zip(seeds, [0.7, 0.701, 0.702], strict=True)]
        assert cell["difference"] == pytest.approx(np.mean(gaps))
        assert cell["difference_over_seeds"] == pytest.approx(
            stats.t.interval(0.95, 2, np.mean(gaps), stats.sem(gaps)), rel=1e-4
        )
    names = {path.name for path in out.iterdir()}
    assert names == {"sweep.html", "sweep.json", "sweep_topo_lfw_map.png", "sweep_topo_lfw_lines.png"}
    said = capsys.readouterr().out
    assert "topo on lfw: accuracy 70.7% to 75.2% over 6 settings (plain: 70.1%)" in said
    assert "tuning on the test set" in said
    page = (out / "sweep.html").read_text()
    assert "tuning on the test set" in page
    assert "21 of 21 finished" in page
    assert "few pairs" in page
    assert "best setting" not in page


def test_failed_runs_leave_their_cell_empty(
    study: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command.sweep(study(), out=out, run=lambda path: pretend(path, without="ratio=0.3-xi=0.2")) == 1
    (swept,) = numbers_in(out)
    empty = swept["cells"][4]
    assert (empty["values"], empty["by_seed"], empty["mean"]) == ([0.3, 0.2], [], None)
    assert all(len(cell["by_seed"]) == 3 for cell in swept["cells"] if cell is not empty)
    assert "3 of 21 runs have not finished." in capsys.readouterr().out
    page = (out / "sweep.html").read_text()
    assert "no run has finished" in page
    assert "no run</text>" in page


def test_one_key_and_one_seed_draw_a_line_and_claim_nothing(
    study: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command.sweep(study(seeds=[4], grid={XI: [0.0, 0.3]}), out=out, run=pretend) == 0
    assert {path.suffix for path in out.iterdir()} == {".html", ".json", ".png"}
    assert not list(out.glob("*map*"))
    assert "one seed each, so nothing can be said" in capsys.readouterr().out


def test_every_variant_and_an_absent_baseline_are_drawn(study: Callable[..., Path], tmp_path: Path) -> None:
    variants = {name: {"recipe": "topo.yaml"} for name in ("topo", "more topo")}
    path = study(variants={"plain": {"recipe": "plain.yaml"}, **variants})
    assert (
        command.sweep(path, out=tmp_path / "out", run=lambda path: pretend(path, without="plain/seed")) == 1
    )
    swept = numbers_in(tmp_path / "out")
    assert [each["variant"] for each in swept] == ["topo", "more topo"]
    assert swept[0]["baseline_by_seed"] == []
    assert swept[0]["cells"][0]["difference"] is None
    assert (tmp_path / "out" / "sweep_more_topo_lfw_map.png").exists()


def test_nothing_finished_draws_nothing(
    study: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.sweep(study(), out=tmp_path / "out", run=lambda path: pretend(path, without="runs")) == 1
    assert "there is nothing to draw" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_command_starts_nothing_that_is_finished(
    study: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study(seeds=[0, 1], grid={RATIO: [0.1, 0.2]})
    pretend(path)
    assert cli.main(["topology", "sweep", str(path), "--out", str(tmp_path / "out")]) == 0
    assert "accuracy 71.0% to 72.0% over 2 settings" in capsys.readouterr().out
    assert len(numbers_in(tmp_path / "out")[0]["cells"]) == 2


def test_the_shipped_sweep_covers_weight_and_perturbation_with_three_seeds() -> None:
    path = Path(__file__).parents[3] / "studies" / "topofr_sweep.yaml"
    study = load_study(path)
    assert study.grid == {RATIO: [0.02, 0.05, 0.1, 0.3], XI: [0.0, 0.1, 0.2, 0.4]}
    runs = plan(study, path)
    assert len(runs) == 3 + 16 * 3
    assert all(run.recipe.data.train.startswith("synthetic:") for run in runs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": {}}, "grid: has 0 keys; name one or two recipe keys"),
        ({"grid": GRID | {"optimizer.lr": [0.1, 0.2]}}, "grid: has 3 keys"),
        ({"grid": {XI: [0.1]}}, f"grid.{XI}: has 1 values; give two or more"),
        ({"variants": {"plain": {"recipe": "plain.yaml"}}}, "variants: holds the baseline only"),
        ({"seeds": []}, "seeds: is []"),
    ],
)
def test_a_bad_sweep_is_one_line_before_anything_runs(
    study: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: Any,
    message: str,
) -> None:
    path = study(**settings)
    assert cli.main(["topology", "sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


# --- pictures ------------------------------------------------------------------------------------------

NOTHING = (math.nan, math.nan)


def cell(values: tuple[Any, ...], gap: float, half: float) -> Cell:
    interval = (gap - half, gap + half)
    compared = Comparison(
        3, 0.8 + gap, (0.8 + gap - half, 0.8 + gap + half), NOTHING, gap, interval, interval
    )
    return Cell(values=values, seeds=[0.8 + gap - 0.01, 0.8 + gap, 0.8 + gap + 0.01], compared=compared)


def test_the_map_shows_each_difference_in_its_place_and_only_the_distinct_in_bold() -> None:
    cells = [cell((0.1, 0.0), 0.02, 0.03), cell((0.1, 0.5), -0.03, 0.01), cell((0.2, 0.0), 0, 0.01)]
    cells.append(
        Cell(
            values=(0.2, 0.5),
            seeds=[],
            compared=Comparison(0, math.nan, NOTHING, NOTHING, math.nan, NOTHING, NOTHING),
        )
    )
    axes = Figure().subplots()
    draw_heat_map(axes, {"a.b.ratio": [0.1, 0.2], "c.xi": [0.0, 0.5]}, cells)
    said = {
        (round(t.get_position()[0]), round(t.get_position()[1])): t
        for t in axes.texts
        if t.get_fontsize() > 8
    }
    assert {place: text.get_text() for place, text in said.items()} == {
        (0, 0): "+2.0", (1, 0): "−3.0", (0, 1): "+0.0", (1, 1): "no run",
    }  # fmt: skip
    assert [place for place, text in said.items() if text.get_weight() == "bold"] == [(1, 0)]
    assert next(text.get_text() for text in axes.texts if "to" in text.get_text()) == "−1.0 to +5.0"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("c.xi", "b.ratio")
    assert axes.images[0].get_clim() == pytest.approx((-3, 3))


def test_noise_stays_pale() -> None:
    cells = [cell((r, x), 0.005 * (r - x), 0.05) for r in (1, 2) for x in (1, 2)]
    axes = Figure().subplots()
    draw_heat_map(axes, {"r": [1, 2], "x": [1, 2]}, cells)
    assert axes.images[0].get_clim() == pytest.approx((-5, 5))  # half an interval, not the largest difference


def test_lines_show_every_seed_and_the_baseline() -> None:
    cells = [cell((r, x), 0.01 * (r == "high"), 0.02) for r in ("low", "high") for x in (0, 1)]
    axes = Figure().subplots()
    draw_lines(axes, {"k.r": ["low", "high"], "k.x": [0, 1]}, cells, [0.79, 0.8, 0.81], "plain")
    dots = [y for line in axes.lines if line.get_marker() == "." for y in line.get_ydata()]
    assert sorted(dots) == pytest.approx(sorted([79, 80, 81, *[79, 80, 81] * 2, *[80, 81, 82] * 2]))
    assert axes.get_legend_handles_labels()[1] == ["plain", "k.r low", "k.r high"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]
