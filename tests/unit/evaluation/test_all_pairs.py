"""All pairs of a set against counting them one by one, whatever the tiles; bounded memory; the command."""

import json
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from tests.oracles import verification as oracle
from topoface import cli
from topoface.errors import UserError
from topoface.evaluation.all_pairs import counts as module
from topoface.evaluation.all_pairs import people as by_person
from topoface.evaluation.all_pairs.counts import Along, points_of_all_pairs
from topoface.evaluation.all_pairs.judging import LabelledSet, judge_all_pairs, open_labelled
from topoface.evaluation.features import Features
from topoface.evaluation.figures import TEMPLATE_FARS
from topoface.functional import error_rates
from topoface.functional.bootstrap import (
    identity_bootstrap,
    identity_counts,
    paired_intervals,
    percentile_interval,
)

FARS = (1.0, 0.5, 0.1, 0.01, 1e-3, 1e-6)  # for counting


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
        (round((sum(a * b) + module.EDGE) * module.GRID) / module.GRID - module.EDGE, p == q)
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
    counted = points_of_all_pairs(unit_rows(rows), labels.astype(np.int32), FARS)
    assert counted.histogram.sum(axis=1).tolist() == [sum(same), len(same) - sum(same)]
    for far, (threshold, accepted, false) in zip(FARS, counted.points, strict=True):
        reached, tar = oracle.rates(scores, same, threshold)
        assert tar == oracle.tar_at_far(scores, same, Fraction(far)) == Fraction(accepted, sum(same))
        assert reached == Fraction(false, len(same) - sum(same))
    result = judge_all_pairs(Features(rows=rows, origin="drawn"), labelled(labels), bootstrap=0)
    pairs = result.pairs
    assert (pairs.genuine, pairs.genuine + pairs.impostors) == (sum(same), len(same))
    for far, point in zip(TEMPLATE_FARS, result.tar, strict=True):
        assert point.tar.value == float(oracle.tar_at_far(scores, same, Fraction(far)))
        reached, tar = oracle.rates(scores, same, point.threshold)
        assert (point.far, point.tar.value) == (float(reached), float(tar))


def test_figures_do_not_depend_on_tiles_order_or_length_of_the_rows(monkeypatch):
    rows, labels = drawn(700, 60, 1, d=64)
    order = np.random.default_rng(0).permutation(len(labels))
    people = labels.astype(np.int32)
    points = points_of_all_pairs(unit_rows(rows), people, FARS).points
    for tile in ((1024, 4096), (100, 64), (64, 700)):
        monkeypatch.setattr(module, "_TILE", tile)
        assert points_of_all_pairs(unit_rows(rows)[order], people[order], FARS).points == points
        assert points_of_all_pairs(unit_rows(4 * rows), people, FARS).points == points


def test_a_product_that_errs_as_far_as_it_may_changes_nothing(monkeypatch):
    rows, labels = drawn(300, 40, 2, d=64)
    people, units = labels.astype(np.int32), unit_rows(rows)
    points = points_of_all_pairs(units, people, FARS).points
    errors = np.random.default_rng(0).uniform(-1, 1, (300, 300)) * module.product_error(64)
    true_product, calls = np.matmul, []

    def wrong(left, right, out):
        true_product(left, right, out=out)
        out += errors[: out.shape[0], : out.shape[1]].astype(np.float32)
        calls.append(out.shape)
        return out

    monkeypatch.setattr(module.np, "matmul", wrong)
    assert points_of_all_pairs(units, people, FARS).points == points
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
        parts = [np.stack(part, axis=1) for part in module.genuine_pairs(people, block)]
        listed = [tuple(pair) for pair in np.sort(np.concatenate(parts), axis=1).tolist()]
        assert len(listed) == len(wanted)
        assert set(listed) == wanted
        assert max(map(len, parts)) < block + 30


def test_images_without_a_feature_lose_their_genuine_pairs():
    rows, labels = drawn(60, 10, 3, noise=0.1)
    labels[:2] = labels[2]
    whole = judge_all_pairs(Features(rows=rows, origin=""), labelled(labels))
    broken = rows.copy()
    broken[0] = 0
    features = Features(rows=broken, failures=(("a.png", "torn"),), origin="")
    part = judge_all_pairs(features, labelled(labels))
    lost = int((labels == labels[0]).sum()) - 1
    assert part.pairs.genuine == whole.pairs.genuine
    assert part.pairs.impostors == whole.pairs.impostors - (len(labels) - 1 - lost)
    assert part.tar[0].tar.value <= 1 - lost / part.pairs.genuine
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


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("tile", [(1024, 4096), (16, 8), (5, 30)])
def test_accepted_pairs_are_counted_for_each_person_and_couple(monkeypatch, tile):
    monkeypatch.setattr(by_person, "_TILE", tile)
    if module.compiled(module._count_loops) is None:
        monkeypatch.setattr(by_person, "compiled", lambda *_, **__: None)
    rows, labels = drawn(60, 11, 4)
    labels = np.unique(labels, return_inverse=True)[1]
    scores, _ = every_pair(rows, labels)
    thresholds = np.array([np.inf, *np.sort(scores)[[-3, -400, -90]], -np.inf])
    found = by_person.accepted_by_person(unit_rows(rows), labels.astype(np.int32), thresholds)
    for k, bar in enumerate(thresholds):
        couples, genuine, impostor = {}, np.zeros(11, int), np.zeros(11, int)
        for (i, j), score in zip(combinations(labels.tolist(), 2), scores, strict=True):
            if i == j:
                genuine[i] += score >= bar
            elif score >= bar:
                impostor[[i, j]] += 1
                couples[min(i, j), max(i, j)] = couples.get((min(i, j), max(i, j)), 0) + 1
        sizes = np.bincount(labels)
        assert found.genuine[:, k].tolist() == genuine.tolist()
        assert found.impostor[:, k].tolist() == impostor.tolist()
        assert found.squares[k] == sum(n * n for n in couples.values())
        assert found.products[k] == sum(n * sizes[a] * sizes[b] for (a, b), n in couples.items())


def test_intervals_are_about_those_of_all_weighted_pairs():
    rows, labels = drawn(300, 60, 5, noise=1.6)
    result = judge_all_pairs(Features(rows=rows, origin=""), labelled(labels), bootstrap=300)
    scores, same = every_pair(rows, labels)
    who = np.array(list(combinations(labels.tolist(), 2)))
    every = identity_bootstrap(scores, same, who, fars=TEMPLATE_FARS[:3], replicates=300)
    for point in result.tar[:3]:
        expected = percentile_interval(every[f"tar@{point.target:g}"])
        wide = expected[1] - expected[0]
        assert point.tar[1:] == pytest.approx(expected, abs=0.25 * wide)
        assert point.tar.low < point.tar.value < point.tar.high
    assert np.isfinite(result.pairs.curve.band).all()


def test_intervals_do_not_depend_on_tiles_or_order(monkeypatch):
    rows, labels = drawn(200, 30, 6)
    features = Features(rows=rows, origin="")
    plain = judge_all_pairs(features, labelled(labels), bootstrap=40).named()
    monkeypatch.setattr(by_person, "_TILE", (30, 17))
    order = np.random.default_rng(0).permutation(200)
    turned = judge_all_pairs(Features(rows=rows[order], origin=""), labelled(labels[order]), bootstrap=40)
    for name, figure in turned.named().items():
        assert figure == pytest.approx(plain[name], abs=1e-12)


def test_two_models_are_compared_on_the_same_people():
    rows, labels = drawn(150, 30, 7)
    one = judge_all_pairs(Features(rows=rows, origin=""), labelled(labels), bootstrap=40)
    told = {name: tuple(figure) for name, figure in one.minus(one).items()}
    few = {f"tar@{point.target:g}" for point in one.tar if point.warning}  # a few impostor pairs decide there
    assert {figure for name, figure in told.items() if name not in few} == {(0.0, 0.0, 0.0)}
    assert few
    assert all(np.isnan(told[name][1:]).all() for name in few)
    other = judge_all_pairs(Features(rows=rows[:, :6], origin=""), labelled(labels), bootstrap=40)
    difference = one.minus(other)["tar@0.1"]
    assert difference.value == one.tar[0].tar.value - other.tar[0].tar.value > 0
    assert difference.low < difference.value < difference.high


@pytest.mark.parametrize("failed", [False, True])
def test_intervals_of_differences_are_those_of_all_pairs_listed(failed):
    rows, labels = drawn(300, 40, 8, noise=1.5)
    other = rows + 0.5 * np.random.default_rng(1).standard_normal(rows.shape).astype(np.float32)
    if failed:
        other[:3] = 0  # the other model has no feature of these
    models = [
        judge_all_pairs(Features(rows=r, origin=""), labelled(labels), bootstrap=20) for r in (rows, other)
    ]
    found = models[0].minus(models[1])
    listed = [np.array(every_pair(r, labels)[0]) for r in (rows, rows if failed else other)]
    same, who = np.array(every_pair(rows, labels)[1]), np.array(list(combinations(labels.tolist(), 2)))
    expected = paired_intervals(*listed, same, who, fars=TEMPLATE_FARS[:3], replicates=1)
    for name in ("tar@0.1", "tar@0.01"):
        wide = found[name].high - found[name].low
        assert (found[name].high + found[name].low) / 2 == pytest.approx(found[name].value)
        if failed:
            assert wide > 0
        else:
            assert wide == pytest.approx(expected[name][1] - expected[name][0], rel=0.3)


def test_errors_of_counted_pairs_are_those_of_the_pairs_listed():
    rows, labels = drawn(120, 14, 9, noise=2.0)
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    scores, same = (np.array(column) for column in every_pair(rows, labels))
    who = np.array(list(combinations(labels.tolist(), 2)))[~same]
    falling = np.sort(scores[~same])[::-1]
    numbers = np.array([5, 60, 900])
    accepted = by_person.accepted_by_person(unit_rows(rows), labels, falling[numbers - 1] - 1e-9)
    false, found = by_person.left_out([(accepted, labels)])
    assert false.tolist() == numbers.tolist()
    expected = error_rates._of_worst(who[np.argsort(-scores[~same])], numbers)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_where_those_are_drawn_who_bring_false_accepts_fewer_genuine_pairs_are_accepted():
    """Every person has as many genuine pairs accepted, so only the threshold moves."""
    people, drawn_how_often = 40, 200
    rng = np.random.default_rng(3)
    wolf = np.where(np.arange(people) < 3, 30, rng.integers(0, 3, people))
    impostor = np.stack([wolf + 1, 4 * wolf + 20], axis=1) // 2 * 2
    impostor[0] += impostor.sum(axis=0) % 4 // 2 * 2
    found = by_person.AcceptedByPerson(np.full((people, 2), 3), impostor, np.zeros(2), np.zeros(2))
    false = impostor.sum(axis=0) // 2
    curve = Along(
        np.array([9.0, 0.6, 0.4, 0.1]), np.array([0, 100, 160, 200]), np.array([0, *false, 4 * false[1]])
    )
    tar = by_person.drawn_tar(
        found,
        by_person.left_out([(found, np.repeat(np.arange(people, dtype=np.int32), 4))]),
        np.full(people, 6),
        curve,
        [0],
        replicates=drawn_how_often,
        seed=1,
    )[:, 0]
    often = identity_counts(people, range(drawn_how_often), 1)[:, :3].sum(axis=1)
    assert np.corrcoef(often, tar)[0, 1] < -0.8
    assert np.median(tar) == pytest.approx(0.5, abs=0.03)
    assert tar.std() > 0.02


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1, 1, 1]])
def test_sets_too_small_for_a_false_accept_are_judged_and_warned_of(labels):
    rows = np.random.default_rng(0).standard_normal((len(labels), 8)).astype(np.float32)
    result = judge_all_pairs(Features(rows=rows, origin=""), labelled(np.array(labels)), bootstrap=20)
    tar = result.tar[0].tar
    assert tar.low <= tar.value <= tar.high
    assert result.tar[0].warning
