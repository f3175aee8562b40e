"""Figures 2a, 2b, 2d, 5 and 7: every figure against its slow version, the same batches for all models, and honest words."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

from tests.oracles import topology as oracle
from topoface.cli import main
from topoface.diagnostics.opening import draw_batches, open_faces, short_names
from topoface.diagnostics.topology import discrepancy, structure
from topoface.functional.draws import generator
from topoface.models import build_model, load, save

FACES = "synthetic:?identities=6&images=5&seed=1"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two small models, the second of which is the first with embeddings of a thousandth of the length."""
    folder = tmp_path_factory.mktemp("models")
    model = build_model("iresnet_tiny", dimension=8, trainable_scale=True)
    save(model, folder / "small")
    with torch.no_grad():
        for parameter in list(model.backbone.parameters())[-2:]:  # scale and shift of the last batch norm
            parameter.mul_(1000)
    save(model, folder / "plain")
    return folder


@pytest.fixture(scope="module")
def page(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    arguments = [FACES, str(models / "plain"), str(models / "small"), "--sizes", "8", "5", "--batches", "3"]
    assert main(["topology", "discrepancy", *arguments, "--out", str(out)]) == 0
    return out


def numbers_of(page):
    return json.loads((page / "discrepancy.json").read_text())


@pytest.mark.parametrize("name", ["plain", "small"])
def test_every_figure_is_that_of_the_oracle(models, page, name):
    faces = open_faces(FACES)
    model = load(models / name).double()
    found = numbers_of(page)["sizes"][1]
    assert found["n"] == 8
    figures = found["models"][name]
    for batch, positions in enumerate(draw_batches(faces, 8, 3, seed=0)):
        images = faces.batch(positions)
        with torch.no_grad():
            z = model.eval()(torch.from_numpy(images).permute(0, 3, 1, 2))
        squared = np.array(oracle.integer_squared_distances(images), float)
        source = torch.from_numpy(np.sqrt(squared) / (255 * math.sqrt(images[0].size)))
        unit = z / z.norm(dim=1, keepdim=True)
        chord, length = ((p[:, None] - p).norm(dim=-1).numpy() for p in (unit, z))
        pixel_tree, tree, raw_tree = (oracle.kruskal(d) for d in (squared, chord, length))
        a, b = np.array([source[e] for e in pixel_tree]), np.array([chord[e] for e in tree])
        who = faces.identities[positions]
        pairs = np.triu_indices(8, 1)
        raw_source = float(np.mean(a))
        dealt_out = z[generator(0, "shuffled embeddings", 8, batch).permutation(8)]
        expected = {
            "paired": oracle.alignment(source, z, "paired", "mean_edge", "sphere", "edges"),
            "sorted": oracle.alignment(source, z, "sorted", "mean_edge", "sphere", "edges"),
            "raw_paired": oracle.alignment(source, z, "paired", "pixel_range", "raw", "edges"),
            "raw_sorted": oracle.alignment(source, z, "sorted", "pixel_range", "raw", "edges"),
            "shuffled": oracle.alignment(source, dealt_out, "paired", "mean_edge", "sphere", "edges"),
            "overlap": len(set(pixel_tree) & set(tree)) / 7,
            "spearman": oracle.spearman(source.numpy()[pairs], chord[pairs]),
            "bottleneck": bottleneck(a / a.mean(), b / b.mean()),
            "scale_ratio": np.mean([length[e] for e in raw_tree]) / raw_source,
            "norm": z.norm(dim=1).mean(),
            "cosine": np.mean([unit[i] @ unit[j] for i, j in zip(*pairs, strict=True)]),
            "same_identity": np.mean([who[i] == who[j] for i, j in tree]),
        }
        for key, value in expected.items():
            assert figures[key][batch] == pytest.approx(float(value), rel=2e-3, abs=1e-6), key
        counts = Counter(who.tolist()).values()
        shares = found["identity_edges"]
        assert shares["best"][batch] == pytest.approx((8 - len(counts)) / 7)
        assert shares["chance"][batch] == pytest.approx(
            sum(who[i] == who[j] for i, j in zip(*pairs, strict=True)) / 28
        )
        assert shares["pixels"][batch] == pytest.approx(np.mean([who[i] == who[j] for i, j in pixel_tree]))
    assert found["chance_overlap"] == pytest.approx(0.25)


def bottleneck(a, b):
    """Over all ways to drop the j shortest and match the rest in order; small enough to be read."""
    a, b = np.sort(a), np.sort(b)
    costs = []
    for j in range(len(a) + 1):
        dropped = max([*a[:j] / 2, *b[:j] / 2], default=0)
        costs.append(max(dropped, *np.abs(a[j:] - b[j:]), 0))
    return min(costs)


def test_shrinking_changes_the_raw_figures_and_no_other(page):
    for size in numbers_of(page)["sizes"]:
        plain, small = (size["models"][name] for name in ("plain", "small"))
        for key in (
            "paired",
            "sorted",
            "overlap",
            "spearman",
            "bottleneck",
            "same_identity",
            "cosine",
            "shuffled",
        ):
            assert small[key] == pytest.approx(plain[key], rel=1e-2, abs=1e-4), key
        for key in ("scale_ratio", "norm"):
            assert np.array(small[key]) / plain[key] == pytest.approx(1e-3, rel=1e-3)
        assert (np.array(small["raw_sorted"]) < plain["raw_sorted"]).all()


def test_each_image_is_embedded_once_and_read_alike_by_all(models, monkeypatch):
    seen = Counter()

    def counting(model, images):
        seen.update(image.tobytes() for image in images)
        return torch.from_numpy(images[:, :2, :2].astype(np.float32)).flatten(1)

    monkeypatch.setattr(structure, "embed_raw", counting)
    (measured,) = structure.measure(open_faces(FACES), {"a": load(models / "plain")}, [20], 6, 0)
    assert set(seen.values()) == {1}
    assert len(measured.by_model["a"]["paired"]) == 6


def test_the_page_says_chance_beside_the_figures_and_compares_batch_by_batch(page, capsys):
    html = (page / "discrepancy.html").read_text()
    assert "independent trees share 40.0%" in html  # of 5 images, the smallest size
    assert "differences from plain" in html
    assert "What the batch size does by itself" in html
    assert "discrepancy is lowest with small" in html
    names = {path.name for path in page.iterdir()}
    assert {f"discrepancy_{key}_{n}.png" for key in structure.MEASURES for n in (5, 8)} <= names
    assert {"discrepancy_growth_sum.png", "discrepancy_by_norm_8.png"} <= names


def test_more_than_five_models_are_drawn_as_rows(models, tmp_path):
    arguments = [
        FACES,
        *[str(models / "plain")] * 6,
        "--sizes",
        "6",
        "--batches",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert main(["topology", "discrepancy", *arguments]) == 0
    html = (tmp_path / "discrepancy.html").read_text()
    assert "plain (6)</th>" in html
    assert len(numbers_of(tmp_path)["sizes"][0]["models"]) == 6


def test_one_model_is_compared_with_chance_alone(models, tmp_path, monkeypatch, capsys):
    pages = []
    monkeypatch.setattr(discrepancy, "write_page", lambda out, page: pages.append(page))
    arguments = [FACES, str(models / "plain"), "--sizes", "6", "--batches", "2", "--out", str(tmp_path)]
    assert main(["topology", "discrepancy", *arguments]) == 0
    assert "what the same embeddings dealt out at random have" in capsys.readouterr().out
    assert not [section for section in pages[0].sections if "differences" in section.title]


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        (["--batches", "0"], "ask for 1 at least"),
        (["--sizes", "31"], "choose sizes from 3 to 30"),
        (["--sizes", "1"], "choose sizes from 3 to 30"),
        (["nowhere.pt", "--sizes", "5"], "give a model directory"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(models, tmp_path, capsys, changes, remedy):
    arguments = [FACES, str(models / "plain"), *changes, "--out", str(tmp_path)]
    assert main(["topology", "discrepancy", *arguments]) == 2
    error = capsys.readouterr().err
    assert remedy in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_that_gives_nan_is_named(models, tmp_path, capsys):
    model = load(models / "plain")
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(torch.nan)
    save(model, tmp_path / "broken")
    out = tmp_path / "out"
    assert (
        main(["topology", "discrepancy", FACES, str(tmp_path / "broken"), "--sizes", "5", "--out", str(out)])
        == 2
    )
    assert "broken: gives embeddings that are not finite" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a/seed_0", "runs/b/seed_0"], ["a", "b"]),
        (["runs/a/seed_0", "runs/a/seed_1"], ["seed_0", "seed_1"]),
        (["runs/a/seed_0/model"], ["seed_0/model"]),
        (["x", "x"], ["x (1)", "x (2)"]),
        (["runs/a", "runs/a/model"], ["a", "model"]),
        (["/m/a.pt", "b.pt"], ["/m/a.pt", "b.pt"]),
    ],
)
def test_names_are_short_and_differ(paths, names):
    assert short_names(paths) == names
