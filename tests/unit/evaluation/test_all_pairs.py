"""All pairs of a set against counting them one by one, whatever the tiles; bounded memory; the command."""

import json
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from tests.oracles import verification as oracle
from topoface import cli
from topoface.errors import UserError
from topoface.evaluation import pair_counts as module
from topoface.evaluation.all_pairs import LabelledSet, judge_all_pairs, open_labelled
from topoface.evaluation.features import Features
from topoface.evaluation.pair_counts import points_of_all_pairs

FARS = (1.0, 0.5, 0.1, 0.01, 1e-3, 1e-6)


def drawn(n: int, people: int, seed: int, noise: float = 1.2, d: int = 24):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, people, n)
    rows = rng.normal(size=(people, d))[labels] + noise * rng.normal(size=(n, d))
    return (rows * rng.uniform(0.5, 4, (n, 1))).astype(np.float32), labels.astype(np.int64)


def labelled(labels) -> LabelledSet:
    return LabelledSet(name="set", uri="set", images=[None] * len(labels), labels=labels, fingerprint="f")


@pytest.fixture(params=["compiled", "arrays"])
def way(request, monkeypatch):
    if request.param == "arrays":
        monkeypatch.setattr(module, "compiled", lambda *_, **__: None)


def unit_rows(rows):
    wide = rows.astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def every_pair(rows, labels):
    """Cosines on the grid and whether both are one person, pair by pair."""
    units = unit_rows(rows).astype(np.float64)
    found = [
        (round((sum(a * b) + module._EDGE) * module._GRID) / module._GRID - module._EDGE, p == q)
        for (a, p), (b, q) in combinations(list(zip(units, labels.tolist(), strict=True)), 2)
    ]
    return [s for s, _ in found], [same for _, same in found]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("tile", [(1024, 4096), (16, 8), (7, 20)])
def test_every_figure_is_that_of_all_pairs_one_by_one(monkeypatch, seed, tile):
    monkeypatch.setattr(module, "_TILE", tile)
    rows, labels = drawn(36, 9, seed)
    rows[20:27] = rows[7]  # many equal cosines
    scores, same = every_pair(rows, labels)
    result = judge_all_pairs(Features(rows=rows, origin="drawn"), labelled(labels), fars=FARS)
    assert (result.genuine, result.genuine + result.impostors) == (sum(same), len(same))
    for far, point in zip(FARS, result.tar, strict=True):
        assert point.tar.value == float(oracle.tar_at_far(scores, same, Fraction(far)))
        reached, tar = oracle.rates(scores, same, point.threshold)
        assert (point.far, point.tar.value) == (float(reached), float(tar))


def test_figures_do_not_depend_on_tiles_order_or_length_of_the_rows(monkeypatch):
    rows, labels = drawn(700, 60, 1, d=64)
    order = np.random.default_rng(0).permutation(len(labels))
    people = labels.astype(np.int32)
    points = points_of_all_pairs(unit_rows(rows), people, FARS)
    for tile in ((1024, 4096), (100, 64), (64, 700)):
        monkeypatch.setattr(module, "_TILE", tile)
        assert points_of_all_pairs(unit_rows(rows)[order], people[order], FARS) == points
        assert points_of_all_pairs(unit_rows(4 * rows), people, FARS) == points


def test_a_product_that_errs_as_far_as_it_may_changes_nothing(monkeypatch):
    rows, labels = drawn(300, 40, 2, d=64)
    people, units = labels.astype(np.int32), unit_rows(rows)
    points = points_of_all_pairs(units, people, FARS)
    errors = np.random.default_rng(0).uniform(-1, 1, (300, 300)) * module.product_error(64)
    true_product, calls = np.matmul, []

    def wrong(left, right, out):
        true_product(left, right, out=out)
        out += errors[: out.shape[0], : out.shape[1]].astype(np.float32)
        calls.append(out.shape)
        return out

    monkeypatch.setattr(module.np, "matmul", wrong)
    assert points_of_all_pairs(units, people, FARS) == points
    assert len(calls) == 2  # one tile, twice


def test_a_product_that_changes_between_the_passes_is_noticed(monkeypatch):
    rows, labels = drawn(300, 40, 2, d=64)
    true_product, rng = np.matmul, np.random.default_rng(0)

    def restless(left, right, out):
        true_product(left, right, out=out)
        out += rng.normal(0, 1e-3, out.shape).astype(np.float32)
        return out

    monkeypatch.setattr(module.np, "matmul", restless)
    with pytest.raises(RuntimeError, match="other values the second time"):
        points_of_all_pairs(unit_rows(rows), labels.astype(np.int32), (0.01,))


def test_genuine_pairs_are_each_listed_once_in_blocks():
    people = np.random.default_rng(0).integers(0, 9, 100).astype(np.int32)
    wanted = {(i, j) for i, j in combinations(range(100), 2) if people[i] == people[j]}
    for block in (1, 10, 64, 10_000):
        parts = [np.stack(part, axis=1) for part in module._genuine_pairs(people, block)]
        listed = [tuple(pair) for pair in np.sort(np.concatenate(parts), axis=1).tolist()]
        assert len(listed) == len(wanted)
        assert set(listed) == wanted
        assert max(map(len, parts)) < block + 30


def test_images_without_a_feature_lose_their_genuine_pairs():
    rows, labels = drawn(60, 10, 3, noise=0.1)
    labels[:2] = labels[2]
    whole = judge_all_pairs(Features(rows=rows, origin=""), labelled(labels), fars=(0.01,))
    broken = rows.copy()
    broken[0] = 0
    features = Features(rows=broken, failures=(("a.png", "torn"),), origin="")
    part = judge_all_pairs(features, labelled(labels), fars=(0.01,))
    lost = int((labels == labels[0]).sum()) - 1
    assert part.genuine == whole.genuine
    assert part.impostors == whole.impostors - (len(labels) - 1 - lost)
    assert part.tar[0].tar.value <= 1 - lost / part.genuine
    assert "1 image had no feature" in part.warnings[0]


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_pairs_of_one_kind_are_refused(labels):
    features = Features(rows=np.eye(3, dtype=np.float32), origin="")
    with pytest.raises(UserError, match="impostor pairs; give several people"):
        judge_all_pairs(features, labelled(np.array(labels)))


def test_the_command_takes_a_source_a_model_or_what_embed_stored(tmp_path, capsys):
    from topoface.models import build_model, save

    save(build_model("iresnet_tiny", dimension=16, seed=0), tmp_path / "model")
    drawn_faces = "synthetic:?identities=8&images=3"
    model, stored, out = str(tmp_path / "model"), str(tmp_path / "rows.safetensors"), tmp_path / "out.json"
    arguments = [f"all-pairs:{drawn_faces}", "--json", str(out)]
    assert cli.main(["evaluate", model, *arguments, "--no-flip", "--cache", str(tmp_path / "kept")]) == 0
    assert "tar@1e-06" in capsys.readouterr().out
    (first,) = json.loads(out.read_text())
    assert (first["genuine"], first["impostors"], first["identities"]) == (24, 252, 8)
    assert cli.main(["embed", model, drawn_faces, stored]) == 0
    assert cli.main(["evaluate", stored, *arguments]) == 0
    (second,) = json.loads(out.read_text())
    for one, other in zip(first["tar_at_far"], second["tar_at_far"], strict=True):
        assert one["tar"] == other["tar"]
        assert one["threshold"] == pytest.approx(other["threshold"], abs=1e-6)
    capsys.readouterr()
    assert cli.main(["evaluate", stored, "all-pairs:synthetic:?identities=8&images=3&seed=5"]) == 2
    assert "was made from other images" in capsys.readouterr().err


def test_a_source_is_taken_whole():
    faces = open_labelled("synthetic:?identities=3&images=2")
    assert (len(faces.images), faces.labels.tolist()) == (6, [0, 0, 1, 1, 2, 2])
    assert faces.images[5].shape == (112, 112, 3)
