"""Clusters: figures by looking at every pair, wrong labels that are found, and a page that says what it knows."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from tests.oracles import centers as oracle
from tests.unit.data.recfile import encoded
from tests.unit.diagnostics.trained import trained
from tests.unit.training.tiny import tiny_recipe
from topoface import cli
from topoface.data import open_source
from topoface.data.synthetic import SyntheticSource
from topoface.diagnostics.calibration import mean_over
from topoface.diagnostics.clusters.findings import Findings, agreements
from topoface.diagnostics.clusters.graph import Graph, sweep_graph
from topoface.diagnostics.clusters.identities import similar_identities
from topoface.diagnostics.clusters.measured import Clusters, draw_identities, place
from topoface.diagnostics.clusters.scores import (
    collected_scores,
    most_suspicious,
    read_planted,
    scores_by_name,
)
from topoface.diagnostics.clusters.sections import agreement_section
from topoface.diagnostics.opening import open_run
from topoface.errors import UserError
from topoface.training import train
from topoface.training.checkpoint import load_newest
from topoface.training.run import Run

PEOPLE, IMAGES = 10, 30
FOLDER = "faces"


def people(count: int, images: list[int], *, spread: float, dims: int = 24, seed: int = 0) -> Clusters:
    """Unit rows around a direction for each identity; identity k has images[k]."""
    rng = np.random.default_rng(seed)
    who = rng.normal(size=(count, dims))
    labels = np.repeat(np.arange(count), images)
    rows = oracle.unit(who[labels] + spread * rng.normal(size=(len(labels), dims)))
    return placed(rows, labels)


def placed(rows: np.ndarray, labels: np.ndarray) -> Clusters:
    return place(torch.from_numpy(rows).float(), labels, np.arange(len(labels)), int(labels.max()) + 1)


# --- figures ---------------------------------------------------------------------------------------------


def test_images_lie_among_the_centers_as_means_without_them_say() -> None:
    clusters = people(5, [1, 2, 3, 6, 9], spread=1.2)
    rows, labels = clusters.rows.double().numpy(), clusters.labels
    center = {k: rows[labels == k].mean(0) for k in range(5)}

    def cosine(row: np.ndarray, mean: np.ndarray) -> float:
        return float(row @ mean / np.linalg.norm(mean))

    for i, row in enumerate(rows):
        label = int(labels[i])
        others = {k: cosine(row, mean) for k, mean in center.items() if k != label}
        rest = (labels == label) & (np.arange(len(rows)) != i)
        assert clusters.own[i] == pytest.approx(cosine(row, center[label]), abs=1e-5)
        assert clusters.other[i] == pytest.approx(max(others.values()), abs=1e-5)
        assert clusters.nearest[i] == max(others, key=others.__getitem__)
        assert clusters.level[i] == pytest.approx(oracle.silhouette(clusters.own[i], clusters.other[i]))
        if not rest.any():
            assert np.isnan([clusters.own_left_out[i], clusters.level_left_out[i]]).all()
            continue
        without = cosine(row, rows[rest].mean(0))
        assert clusters.own_left_out[i] == pytest.approx(without, abs=1e-5)
        assert clusters.level_left_out[i] == pytest.approx(
            oracle.silhouette(without, max(others.values())), abs=1e-5
        )
    assert most_suspicious(clusters.level_left_out).tolist() == sorted(
        range(1, len(rows)), key=lambda i: -clusters.level_left_out[i]
    )


def test_cohesion_is_the_mean_similarity_of_two_images() -> None:
    clusters = people(4, [1, 2, 3, 8], spread=1.0)
    rows = clusters.rows.double().numpy()
    for k, size in enumerate(clusters.sizes):
        own = rows[clusters.labels == k]
        if size == 1:
            assert np.isnan(clusters.cohesion[k])
        else:
            expected = ((own @ own.T).sum() - size) / (size * (size - 1))
            assert clusters.cohesion[k] == pytest.approx(expected, abs=1e-5)


def test_agreement_is_that_of_looking_at_every_pair_and_chance_is_low_but_for_nmi() -> None:
    clusters = people(8, [1, 4, 5, 6, 7, 8, 9, 3], spread=2.2)
    figures, intervals = agreements(clusters, None, seed=0)
    known = clusters.labels != 0  # its only image has no center without it
    labels = clusters.labels[known].tolist()
    assigned = [
        label if a >= b else other
        for label, a, b, other in zip(
            labels,
            clusters.own_left_out[known],
            clusters.other[known],
            clusters.nearest[known].tolist(),
            strict=True,
        )
    ]
    assert assigned != labels
    precision, recall = (float(np.mean(each)) for each in oracle.bcubed(assigned, labels))
    got = figures["own image left out"]
    assert (got["BCubed precision"], got["BCubed recall"]) == pytest.approx((precision, recall))
    assert got["BCubed F"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert (got["pairs precision"], got["pairs recall"]) == pytest.approx(oracle.pairs(assigned, labels))
    assert got["NMI"] == pytest.approx(oracle.nmi(assigned, labels))
    assert intervals["BCubed precision"].low < precision < intervals["BCubed precision"].high
    assert figures["own image in its center"]["BCubed F"] > got["BCubed F"] > figures["chance"]["BCubed F"]
    assert figures["chance"]["NMI"] > 0.2  # of eight clusters of six images that know nothing


def test_one_person_under_two_labels_is_found_before_all_others() -> None:
    rng = np.random.default_rng(1)
    who = rng.normal(size=(40, 24))
    who[7], who[30] = who[3], who[21]  # two people have two labels each
    sizes = rng.integers(3, 15, 40)
    labels = np.repeat(np.arange(40), sizes)
    clusters = placed(oracle.unit(who[labels] + 0.9 * rng.normal(size=(len(labels), 24))), labels)
    found = similar_identities(clusters, seed=0)
    assert {tuple(pair) for pair in found.pairs[:2].tolist()} == {(3, 7), (21, 30)}
    assert found.mutual(clusters.sizes)[:2].all()
    rows = clusters.rows.double().numpy()
    for (one, two), gamma, votes in zip(found.pairs.tolist(), found.gamma, found.votes.tolist(), strict=True):
        left, right = rows[labels == one], rows[labels == two]
        expected = (left @ right.T).mean() / np.sqrt(clusters.cohesion[one] * clusters.cohesion[two])
        assert gamma == pytest.approx(expected, abs=1e-4)
        nearest = clusters.nearest
        assert votes == [(nearest[labels == one] == two).sum(), (nearest[labels == two] == one).sum()]
    assert found.compared == (clusters.cohesion >= 0.05).sum() * ((clusters.cohesion >= 0.05).sum() - 1) / 2
    assert found.above >= len(found.pairs)
    assert len(found.halves) == (sizes >= 4).sum()
    assert found.halves.mean() == pytest.approx(1, abs=0.1)


# --- wrong labels ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with drawn faces of which 10 % lie with somebody else, the truth, and a run that watched them for 8 epochs."""
    folder = tmp_path_factory.mktemp("planted")
    drawn, rng = SyntheticSource(PEOPLE, IMAGES), np.random.default_rng(0)
    moved = set(rng.choice(len(drawn), len(drawn) // 10, replace=False).tolist())
    for i in range(len(drawn)):
        who = i // IMAGES
        label = (who + int(rng.integers(1, PEOPLE))) % PEOPLE if i in moved else who
        path = folder / FOLDER / f"{label:02d}" / f"{who:02d}_{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(drawn[i][0]))
    source = open_source(folder / FOLDER)
    lines = [f"{i},{truth_of(source.describe(i))}" for i in range(len(source))]
    (folder / "truth.csv").write_text("\n".join(["index,label", *lines]) + "\n")
    recipe = tiny_recipe(
        data={"train": str(folder / FOLDER)},
        methods=[{"class_path": "JLCC", "preset": "watch"}],
        training={"steps": None, "epochs": 8.0, "batch_size": 16, "log_every": 50, "checkpoint_every": 1000},
    )
    train(recipe, run_dir=folder / "run", quiet=True)
    return folder


def truth_of(name: str) -> int:
    return int(Path(name).stem.split("_")[0])


def rank_sum(scores: list[float], wrong: list[bool]) -> float:
    """AUC by comparing every wrong with every right one."""
    pairs = [(s > t) + (s == t) / 2 for s, x in zip(scores, wrong, strict=True) if x
             for t, y in zip(scores, wrong, strict=True) if not y]  # fmt: skip
    return float(np.mean(pairs))


def test_scores_collected_in_training_find_planted_label_noise(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, truth = planted / "run", planted / "truth.csv"
    arguments = [
        "clusters",
        "report",
        str(run),
        "--planted",
        str(truth),
        "--count",
        "6",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    state = load_newest(run / "checkpoints", print)
    assert state is not None
    scores = state["methods"]["0.scores"].tolist()
    source = open_source(planted / FOLDER)
    true = [truth_of(source.describe(i)) for i in range(len(source))]
    wrong = [who != label for who, label in zip(true, source.labels.tolist(), strict=True)]

    numbers = json.loads((tmp_path / "clusters.json").read_text())
    assert numbers["score"] == "collected in training"
    auc = numbers["planted"]["auc"]["collected in training"]
    assert auc["value"] == pytest.approx(rank_sum(scores, wrong))
    assert auc["value"] > 0.9  # chance is 0.5
    assert 0.8 < auc["low"] < auc["value"] < auc["high"] <= 1
    assert f"(AUC {auc['value']:.3f}, 95 % interval" in said
    assert numbers["planted"]["wrong"] == sum(wrong) == len(true) // 10
    highest = sorted(range(len(scores)), key=lambda i: -scores[i])
    among = sum(wrong[i] for i in highest[: sum(wrong)]) / sum(wrong)
    assert numbers["planted"]["among_highest"] == pytest.approx(among)

    assert [row["position"] for row in numbers["suspicious"]] == highest[:6]
    for row in numbers["suspicious"]:
        inside = [i for i, label in enumerate(source.labels) if label == row["label"]]
        assert row["images_of_label"] == len(inside)
        assert row["suspected_of_label"] == sum(scores[i] > 0.5 for i in inside)
    with (tmp_path / "clusters_samples.csv").open(newline="") as file:
        samples = list(csv.DictReader(file))
    assert [int(row["index"]) for row in samples] == highest
    assert [float(row["score"]) for row in samples] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)
    suggested = [int(r["suggested"]) == true[int(r["index"])] for r in samples if wrong[int(r["index"])]]
    assert numbers["planted"]["suggested_rightly"] == pytest.approx(np.mean(suggested))
    assert np.mean(suggested) > 3 / PEOPLE

    page = (tmp_path / "clusters.html").read_text()
    assert "reconstruction of JLCC" in page
    assert "still too young" not in page  # six epochs, and its ramp starts at two
    assert page.count("wrong label, truly") == sum(wrong[i] for i in highest[:6])
    assert "real faces" in page  # a folder may hold them
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"clusters_{name}.png" for name in ("levels", "cosines", "scores", "gammas", "cohesion", "graph")
    }


def test_without_scores_of_the_run_the_level_now_ranks_and_the_page_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "run", methods=())
    assert cli.main(["clusters", "report", str(run), "--count", "3", "--out", str(tmp_path / "out")]) == 0
    numbers = json.loads((tmp_path / "out" / "clusters.json").read_text())
    assert numbers["score"] == "silhouette, own image left out"
    for row in numbers["suspicious"]:
        assert row["score"] == pytest.approx(oracle.silhouette(row["own"], row["other"]), abs=1e-6)
    page = (tmp_path / "out" / "clusters.html").read_text()
    assert "worked out now, since the run did not collect any" in page
    assert "Labels known to be wrong" not in page
    assert "This page shows real faces" not in page
    assert 'src="http' not in page
    assert (
        f"{round(numbers['nearer_to_another']['value'] * 72)} of 72 training images"
        in capsys.readouterr().out
    )


def test_the_cosine_that_links_is_chosen_on_one_half_and_judged_on_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 8)
    rows = oracle.unit(rng.normal(size=(40, 64))[labels] + 0.6 * rng.normal(size=(len(labels), 64)))

    def swept(seed: int = 0) -> Graph:
        found = sweep_graph(torch.from_numpy(rows), labels, "drawn", held_out=False, seed=seed)
        assert found is not None
        return found

    graph = swept()
    assert (graph.images, graph.identities) == (160, 20)
    chosen, best = (figures["BCubed F"] for figures in graph.figures.values())
    assert chosen == graph.judged[graph.chosen].bcubed[2]
    assert graph.choosing[graph.chosen].bcubed[2] == max(found.bcubed[2] for found in graph.choosing)
    assert 0.9 < chosen <= best == graph.curves()[2].max()
    assert np.array_equal(swept().curves(), graph.curves())
    precision, recall, _ = graph.curves()
    assert (np.diff(precision) <= 0).all()  # as the cosine falls, clusters only grow
    assert (np.diff(recall) >= 0).all()
    monkeypatch.setattr("topoface.diagnostics.clusters.graph.MOST", 100)
    assert (swept().images, swept().identities) == (48, 6)
    alone = sweep_graph(torch.eye(3), np.arange(3), "drawn", held_out=False, seed=0)
    assert alone is None


def test_strangers_are_clustered_instead_of_the_training_images(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", methods=())
    arguments = [
        "clusters",
        "report",
        str(run),
        "--held-out",
        "synthetic:?identities=7&images=5",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(arguments) == 0
    numbers = json.loads((tmp_path / "out" / "clusters.json").read_text())
    assert numbers["images"] == 72
    assert numbers["graph"]["source"].startswith("synthetic:?identities=7&images=5")
    assert (numbers["graph"]["images"], numbers["graph"]["identities"]) == (15, 3)
    assert "how well it sorts faces of strangers" in (tmp_path / "out" / "clusters.html").read_text()


def test_scores_of_a_run_that_has_hardly_begun_are_called_early(planted: Path) -> None:
    run = open_run(str(planted / "run"))
    for epochs, early in ((3.9, True), (4.0, False)):  # the ramp starts at two
        run.step = round(epochs * run.steps_per_epoch)
        collected = collected_scores(run, str(planted / "run"), np.arange(len(run.source)))
        assert collected is not None
        assert collected.early == early


@pytest.mark.parametrize(
    ("asked", "got"), [(2, 12), (12, 12), (13, 18), (71, 72), (72, 72), (10**9, 72), (None, 72)]
)
def test_a_part_of_the_images_is_drawn_in_whole_identities(asked: int | None, got: int) -> None:
    source = SyntheticSource(12, 6)
    run = cast(Run, SimpleNamespace(source=source))
    positions = draw_identities(run, asked, seed=3)
    assert len(positions) == got
    assert set(np.bincount(source.labels[positions])) <= {0, 6}
    if got < 72:
        assert not np.array_equal(positions, draw_identities(run, asked, seed=4))


def test_a_network_that_knows_its_labels_by_heart_is_no_witness() -> None:
    def words(spread: float) -> str:
        clusters = people(12, [6] * 12, spread=spread)
        agreed, intervals = agreements(clusters, None, seed=0)
        found = Findings(
            clusters=clusters,
            similar=similar_identities(clusters, seed=0),
            collected=None,
            scores=scores_by_name(clusters, None),
            agreed=agreed,
            intervals=intervals,
            nearer=mean_over((clusters.other > clusters.own_left_out).astype(float), clusters.labels),
            planted=None,
        )
        return agreement_section(found, None).text

    assert "Read these as nothing" in words(0.1)
    assert "the figures flatter" in words(2.0)


# --- mistakes --------------------------------------------------------------------------------------------


def test_mistakes_are_one_line_and_leave_nothing(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: object) -> str:
        assert cli.main(["clusters", "report", *map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    run = planted / "run"
    assert "--count: is 0; show 1 face or more" in fails(run, "--count", 0)
    assert "'many' is neither a whole number nor all" in fails(run, "--samples", "many")
    assert "--samples: is 1; ask for" in fails(run, "--samples", 1)
    assert "is no run directory" in fails(tmp_path)
    assert "cannot be read (No such file" in fails(run, "--planted", tmp_path / "none.csv")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("index,label\n0,1,2\n", "line 2: is '0,1,2'; give two whole numbers"),
        ("0,x\n", "line 1: is '0,x'; give two whole numbers"),
        ("5,1\n5,2\n", "line 2: 5,2 comes twice"),
        ("72,1\n", "72,1 is none of 72 images and 12 labels"),
        ("0,12\n", "0,12 is none of 72 images and 12 labels"),
        ("0,0\n71,11\n", "no listed label differs"),
        ("", "no listed label differs"),
    ],
)
def test_a_list_of_wrong_labels_that_cannot_be_right_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="planted") as error:
        read_planted(str(path), SyntheticSource(12, 6))
    assert said in str(error.value)


def test_labels_that_are_not_listed_stay(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text("index, true label\n3, 5\n\n70,0\n")
    source = SyntheticSource(12, 6)
    changed = np.flatnonzero(read_planted(str(path), source) != source.labels)
    assert changed.tolist() == [3, 70]
