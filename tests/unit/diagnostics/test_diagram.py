"""Figure 1: bars of known shapes, a null with the covariance it claims, and a page that says what was left out."""

import json
import math

import gudhi
import numpy as np
import pytest
import scipy.sparse.csgraph
import torch

from tests.oracles import topology as oracle
from topoface.cli import main
from topoface.data import open_source
from topoface.diagnostics.opening import draw_batches, open_faces
from topoface.diagnostics.topology import barcodes
from topoface.diagnostics.topology.barcodes import (
    Barcode,
    covariance_spectrum,
    dimensions_at,
    effective_dimension,
    gaussian_barcode,
    image_barcode,
)

FACES = "synthetic:?identities=8&images=5&seed=1"

needs_ripser = pytest.mark.skipif(barcodes.find_spec("ripser") is None, reason="ripser is not installed")


def run(tmp_path, *arguments):
    code = main(["topology", "diagram", FACES, "--out", str(tmp_path / "out"), *arguments])
    return code, json.loads((tmp_path / "out" / "diagram.json").read_text())


@pytest.fixture
def without_ripser(monkeypatch):
    monkeypatch.setattr(barcodes, "find_spec", lambda name: None)


# --- barcodes ------------------------------------------------------------------------------------------


@needs_ripser
def test_a_circle_has_one_loop_that_lives_from_side_to_inscribed_triangle():
    angles = np.arange(12) / 12 * 2 * np.pi
    circle = np.round(128 + 120 * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.uint8)
    (birth, death), *more = image_barcode(torch.from_numpy(circle), 1).bars[1]
    unit = 255 * math.sqrt(2)
    assert not more
    assert birth * unit == pytest.approx(2 * 120 * math.sin(math.pi / 12), rel=0.03)
    assert death * unit == pytest.approx(120 * math.sqrt(3), rel=0.03)


@needs_ripser
def test_an_octahedron_has_one_hollow_and_no_loop():
    corners = torch.full((6, 3), 100, dtype=torch.uint8)
    for axis in range(3):
        corners[2 * axis, axis], corners[2 * axis + 1, axis] = 200, 0
    code = image_barcode(corners, 2)
    unit = 255 * math.sqrt(3)
    assert len(code.bars[1]) == 0
    assert code.bars[2] * unit == pytest.approx(np.array([[100 * math.sqrt(2), 200]]), rel=1e-6)
    assert code.deaths * unit == pytest.approx(np.full(5, 100 * math.sqrt(2)))


def test_h0_is_that_of_kruskal_on_exact_distances():
    images = np.random.default_rng(0).integers(0, 256, (15, 8, 8, 3), dtype=np.uint8)
    squared = np.array(oracle.integer_squared_distances(images))
    expected = [math.sqrt(squared[e]) / (255 * math.sqrt(192)) for e in oracle.kruskal(squared)]
    assert image_barcode(torch.from_numpy(images), 0).deaths == pytest.approx(expected, rel=1e-12)


def test_betti_curves_count_the_bars_that_are_alive():
    bars = (np.array([[0.0, 1], [0, 2], [0, 2]]), np.array([[1.0, 1.5], [1.2, 3]]))
    code = Barcode(n=4, bars=bars)
    radii = np.array([0, 0.9, 1, 1.3, 1.5, 2, 9])
    alive = [[sum(b <= r < d for b, d in side) for r in radii] for side in bars]
    assert code.betti(0, radii).tolist() == [count + 1 for count in alive[0]]  # one component never ends
    assert code.betti(1, radii).tolist() == alive[1]
    assert code.longest(1) == pytest.approx(2.5)
    assert code.spread == pytest.approx(np.std([1, 2, 2]) / np.mean([1, 2, 2]))


def test_the_spectrum_is_that_of_the_covariance():
    images = np.random.default_rng(0).integers(0, 256, (9, 5, 4, 3), dtype=np.uint8)
    rows = images.reshape(9, 60) / (255 * math.sqrt(60))
    expected = np.linalg.eigvalsh(np.cov(rows.T))[-8:]
    spectrum = covariance_spectrum(torch.from_numpy(images))
    assert spectrum[1:] == pytest.approx(expected, abs=1e-12)
    assert spectrum[0] == pytest.approx(0, abs=1e-12)
    assert effective_dimension(np.ones(7)) == pytest.approx(7)


def test_the_null_is_a_tree_of_points_with_that_covariance():
    spectrum = np.array([4.0, 1, 0.25])
    code = gaussian_barcode(spectrum, 400, 0, np.random.default_rng(3))
    points = np.random.default_rng(3).standard_normal((400, 3)) * np.sqrt(spectrum)
    assert np.cov(points.T) == pytest.approx(np.diag(spectrum), abs=0.5)
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    tree = scipy.sparse.csgraph.minimum_spanning_tree(distances)
    assert code.deaths == pytest.approx(np.sort(tree.data), rel=1e-9)


@needs_ripser
def test_the_bars_of_the_null_are_those_of_its_points():
    spectrum = np.ones(4)
    code = gaussian_barcode(spectrum, 40, 1, np.random.default_rng(3))
    points = np.random.default_rng(3).standard_normal((40, 4))
    simplices = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=2)
    simplices.compute_persistence()
    expected = simplices.persistence_intervals_in_dimension(1)
    assert np.sort(code.bars[1], axis=0) == pytest.approx(np.sort(expected, axis=0), rel=1e-5)


def test_dimensions_stop_where_they_would_take_too_long():
    assert [dimensions_at(n, 2) for n in (300, 301, 2000, 2001)] == [2, 1, 1, 0]
    assert dimensions_at(20, 1) == 1


# --- the command ---------------------------------------------------------------------------------------


@needs_ripser
def test_the_page_holds_faces_and_null_of_every_size(tmp_path, capsys):
    code, numbers = run(tmp_path, "--sizes", "20", "6", "12", "--homology", "2")
    assert code == 0
    assert [sample["n"] for sample in numbers["samples"]] == [6, 12, 20]
    source = open_source(FACES)
    positions = next(draw_batches(open_faces(FACES), 12, 1, seed=0))
    images = np.stack([source[int(i)][0] for i in positions])
    squared = np.array(oracle.integer_squared_distances(images))
    expected = [math.sqrt(squared[e]) / (255 * math.sqrt(images[0].size)) for e in oracle.kruskal(squared)]
    sample = numbers["samples"][1]
    assert np.array(sample["faces"]["first_draw"]["H0"])[:, 1] == pytest.approx(expected)
    simplices = gudhi.RipsComplex(distance_matrix=np.sqrt(squared)).create_simplex_tree(max_dimension=2)
    simplices.compute_persistence()
    assert sample["faces"]["bars"]["H1"][0] == len(simplices.persistence_intervals_in_dimension(1))
    assert len(sample["null"]["bars"]["H1"]) == sample["draws"] == 5
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = ("counts_1", "betti_0", "betti_2", "deaths", "diagram_6", "diagram_20")
    assert names >= {f"diagram_{name}.png" for name in pictures} | {"diagram.html"}
    said = capsys.readouterr().out
    assert "20 faces have" in said
    assert "Gaussian points with the same covariance" in said


def test_the_same_seed_gives_the_same_numbers_and_another_others(tmp_path):
    first = run(tmp_path, "--sizes", "10", "--homology", "0")[1]["samples"]
    assert run(tmp_path, "--sizes", "10", "--homology", "0")[1]["samples"] == first
    assert run(tmp_path, "--sizes", "10", "--homology", "0", "--seed", "1")[1]["samples"] != first


def test_without_ripser_the_default_is_h0_and_says_so(tmp_path, without_ripser, capsys):
    code, numbers = run(tmp_path, "--sizes", "10")
    assert code == 0
    assert list(numbers["samples"][0]["faces"]["first_draw"]) == ["H0"]
    assert "H0 only" in capsys.readouterr().out
    assert "ripser is not installed" in (tmp_path / "out" / "diagram.html").read_text()


def test_what_was_asked_and_needs_ripser_is_refused(tmp_path, without_ripser, capsys):
    assert main(["topology", "diagram", FACES, "--homology", "1", "--out", str(tmp_path)]) == 2
    assert "topoface[topology]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["1", "41"])
def test_an_impossible_size_is_one_line_and_leaves_nothing(tmp_path, capsys, size):
    assert main(["topology", "diagram", FACES, "--sizes", "10", size, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "choose sizes from 2 to 40" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
