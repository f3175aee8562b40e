"""Distributions of pairs: against lists and loops, with planted wrong labels, and through the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import negatives as unpg
from tests.oracles import pair_distributions as slow
from tests.unit.diagnostics.trained import trained
from topoface import cli
from topoface.diagnostics.opening import open_run
from topoface.diagnostics.pairs.candidates import look_again, suspicious_identities
from topoface.diagnostics.pairs.sample import Measured, Sample, embed_sample, measure, sampled_batches
from topoface.diagnostics.pairs.similarities import (
    BINS,
    Similarities,
    coarser,
    counts_of,
    distances,
    expected_above,
    kept_of_hardest,
    mean_of_hardest,
    middles,
    quantile,
    true_accepts,
)
from topoface.errors import UserError
from topoface.functional.directions import unit_rows
from topoface.functional.draws import generator
from topoface.functional.verification import tar_at_far

GRID = 2 / BINS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return trained(folder / "arcface", methods=()), trained(folder / "magface", methods=(), head="MagFace")


def sample_of(points: Tensor, centers: Tensor, labels: Tensor) -> Sample:
    return Sample(
        positions=np.arange(len(points)),
        labels=labels.numpy(),
        rows=unit_rows(points),
        centers=unit_rows(centers),
    )


def drawn_sample(images: int, identities: int, *, seed: int = 0, dimension: int = 8) -> Sample:
    draw = generator(seed, "test pairs")
    labels = np.sort(draw.integers(0, identities, images))
    people = draw.normal(size=(identities, dimension))
    points = people[labels] + 0.7 * draw.normal(size=(images, dimension))
    points[-3:] = points[:3]  # outliers: images under the labels of others
    centers = people + 0.1 * draw.normal(size=people.shape)
    return sample_of(*map(torch.from_numpy, (points, centers, labels)))


def exact(*lists: list[float]) -> tuple[np.ndarray, ...]:
    """All values, and how often each list has them."""
    values, inverse = np.unique(np.concatenate(lists), return_inverse=True)
    owner = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    return values, *(np.bincount(inverse[owner == k], minlength=len(values)) for k in range(len(lists)))


# --- the figures ---------------------------------------------------------------------------------------


def test_distances_of_the_fixture_are_those_of_the_specification() -> None:
    x, w, labels = unpg.fixture()
    cl = slow.class_negatives(x.tolist(), w.tolist(), labels.tolist())
    ml = slow.pairs(x.tolist(), labels.tolist(), genuine=False)
    assert (len(cl), len(ml)) == (24, 13)
    w1, ks = distances(*exact(cl, ml))
    assert w1 == pytest.approx(0.187372488450, abs=1e-10)
    assert ks == pytest.approx(0.301282051282, abs=1e-10)
    assert distances(*exact(cl + ml, ml))[0] == pytest.approx(0.121538911427, abs=1e-10)
    assert slow.wasserstein(cl, ml) == pytest.approx(w1, abs=1e-12)
    assert slow.kolmogorov_smirnov(cl, ml) == pytest.approx(ks, abs=1e-12)


def test_the_fixture_measured_on_the_grid_is_the_fixture() -> None:
    x, w, labels = unpg.fixture()
    found = measure(sample_of(x, w, labels), [np.arange(6)], seed=0, where="run")
    assert (found.classes.size, found.every.size, found.genuine.size) == (24, 13, 2)
    assert found.every.highest == pytest.approx(0.6654602172, abs=1e-10)
    assert found.every.lowest == pytest.approx(-0.8775749659, abs=1e-10)
    gap = found.genuine.lowest - found.every.highest
    assert gap == pytest.approx(-0.062801234414, abs=1e-10)
    where = middles(BINS)
    w1, ks = distances(where, found.classes.counts, found.every.counts)
    assert w1 == pytest.approx(0.187372488450, abs=GRID)
    assert ks == pytest.approx(0.301282051282, abs=1e-9)
    united = found.unified(filtered=True)
    assert united.size == 37  # r = 1.5 drops nothing here
    assert distances(where, united.counts, found.every.counts)[0] == pytest.approx(0.121538911427, abs=GRID)
    # a row of the softmax: 4 other classes and all 13 pairs
    assert found.row_view(filtered=False).sum() == pytest.approx(4 + 13)


@pytest.mark.parametrize("block", [7, 2**21])
def test_every_set_holds_the_pairs_that_loops_find(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topoface.diagnostics.pairs.sample._BLOCK", block)
    sample = drawn_sample(60, 12, dimension=24)
    labels, rows, centers = sample.labels.tolist(), sample.rows.tolist(), sample.centers.tolist()
    batches = [generator(1, "b", k).permutation(60)[:40] for k in range(3)]
    found = measure(sample, batches, seed=0, where="run")
    expected = {
        "classes": slow.class_negatives(rows, centers, labels),
        "every": slow.pairs(rows, labels, genuine=False),
        "genuine": slow.pairs(rows, labels, genuine=True),
        "in_batch": slow.batch_negatives(rows, labels, batches, None),
        "kept": slow.batch_negatives(rows, labels, batches, 1.5),
    }
    assert len(expected["kept"]) < len(expected["in_batch"])
    sets = {
        "classes": found.classes,
        "every": found.every,
        "genuine": found.genuine,
        "in_batch": found.in_batches.every,
        "kept": found.in_batches.kept,
    }
    for name, values in expected.items():
        mine = sets[name]
        assert mine.size == len(values)
        assert mine.hardest.tolist() == pytest.approx(sorted(values, reverse=True)[:2000], abs=1e-12)
        assert mine.lowest == pytest.approx(min(values), abs=1e-12)
        assert mine.mean_of_top == pytest.approx(slow.mean_of_top(values, 2000), abs=1e-12)
        w1, ks = distances(middles(BINS), mine.counts, found.every.counts)
        assert w1 == pytest.approx(slow.wasserstein(values, expected["every"]), abs=GRID)
        assert ks == pytest.approx(slow.kolmogorov_smirnov(values, expected["every"]), abs=2e-3)
    dropped = [unpg.fences(slow.batch_negatives(rows, labels, [batch], None), 1.5) for batch in batches]
    assert found.in_batches.fences == pytest.approx(np.array(dropped), abs=1e-12)


def test_the_hardest_of_parts_are_the_hardest_of_all() -> None:
    values = torch.from_numpy(generator(0, "v").normal(0, 0.3, 9000).clip(-1, 1))
    parts, halves = Similarities(), [Similarities(), Similarities()]
    for k, part in enumerate(values.split(700)):
        parts.add(part)
        halves[k % 2].add(part)
    parts.add(values[:0])
    expected = values.sort(descending=True).values[:2000]
    for found in (parts, halves[0] + halves[1]):
        assert torch.equal(found.hardest, expected)
        assert (found.size, found.lowest) == (9000, float(values.min()))
    empty = Similarities()
    assert (empty.size, empty.lowest, empty.highest) == (0, math.inf, -math.inf)
    assert math.isnan(distances(middles(BINS), empty.counts, parts.counts)[0])
    assert math.isnan(quantile(empty.counts, 0.5))


def test_cosines_beyond_the_ends_by_rounding_count_at_the_ends() -> None:
    counts = counts_of(torch.tensor([-1.0000001, 1.0000001, 1.0]))
    assert (counts[0], counts[-1], counts.sum()) == (1, 2, 3)


def test_quantiles_and_rates_are_those_of_the_values() -> None:
    draw = generator(3, "scores")
    genuine, impostor = draw.normal(0.5, 0.15, 500).clip(-1, 1), draw.normal(0, 0.12, 3000).clip(-1, 1)
    g, i = (counts_of(torch.from_numpy(values)) for values in (genuine, impostor))
    for share in (0.01, 0.5, 0.999):
        assert quantile(i, share) == pytest.approx(
            np.quantile(impostor, share, method="inverted_cdf"), abs=GRID
        )
    rounded = [np.repeat(middles(BINS), counts) for counts in (g, i)]
    same = np.repeat([True, False], [500, 3000])
    for far in (0.0, 1e-3, 1e-2, 0.3, 1.0):
        assert true_accepts(g, i, far) == tar_at_far(np.concatenate(rounded), same, far)
        values = tar_at_far(np.concatenate([genuine, impostor]), same, far)
        assert true_accepts(g, i, far) == pytest.approx(values, abs=0.005)
    assert mean_of_hardest(i, 0.01) == pytest.approx(slow.mean_of_top(impostor.tolist(), 30), abs=GRID)
    assert mean_of_hardest(coarser(i, 2048), 1.0) == pytest.approx(impostor.mean(), abs=1e-3)
    assert kept_of_hardest(i, np.where(middles(BINS) < 0.2, i, 0), 1.0) == pytest.approx(
        (impostor < 0.2).mean(), abs=1e-3
    )
    assert kept_of_hardest(i, np.where(middles(BINS) < 0.2, i, 0), 0.01) == 0


def test_chance_of_a_normal_lies_between_both_yardsticks() -> None:
    values = generator(0, "bulk").normal(0, 0.1, 200_000)
    normal, tail = expected_above(counts_of(torch.from_numpy(values)), 0.4)
    assert normal == pytest.approx(200_000 * 3.167e-5, rel=0.1)
    assert normal < tail
    assert math.isnan(expected_above(counts_of(torch.from_numpy(values)), 0.2)[1])  # within the bulk
    falling = -np.log((np.arange(200_000) + 0.5) / 200_000) / 25 - 0.5  # exponential, at its quantiles
    tail = expected_above(counts_of(torch.from_numpy(falling.clip(-1, 1))), -0.1)[1]
    assert tail == pytest.approx(200_000 * math.exp(-25 * 0.4), rel=0.02)


def test_replicates_scatter_about_the_figure_and_are_alike_for_all_runs() -> None:
    first, second = (
        measure(sample, [np.arange(200)], seed=5, where="run")
        for sample in (drawn_sample(200, 40), drawn_sample(200, 40, dimension=9))
    )
    found = first.estimate(lambda g: quantile(g, 0.5), "genuine")
    assert found.low < found.value < found.high
    every = first.replicates["every"].sum(1)
    assert every.mean() == pytest.approx(first.every.size, rel=0.05)
    assert first.replicates["genuine"].sum(1).mean() == pytest.approx(first.genuine.size, rel=0.1)
    assert np.array_equal(first.replicates["classes"].sum(1), second.replicates["classes"].sum(1))


# --- wrong labels --------------------------------------------------------------------------------------


def planted(split: int) -> tuple[Sample, Measured]:
    """Well told apart people, of whom the first ``split`` have their later images under a label of their own."""
    draw = generator(2, "split")
    people = np.repeat(np.arange(30), 6)
    rows = 3 * draw.normal(size=(30, 24))[people] + draw.normal(size=(180, 24))
    later = (np.arange(180) % 6 >= 3) & (people < split)
    labels = np.where(later, people + 30, people)
    points = torch.from_numpy(rows)
    sample = sample_of(points, torch.from_numpy(draw.normal(size=(60, 24))), torch.from_numpy(labels))
    return sample, measure(sample, [np.arange(180)], seed=0, where="run")


def test_people_under_two_labels_come_first_and_nobody_else_is_listed() -> None:
    sample, measured = planted(5)
    found = suspicious_identities(sample, measured)
    assert {pair.labels for pair in found} == {(k, k + 30) for k in range(5)}
    for pair in found:
        one, other = (sample.rows[sample.labels == label] for label in pair.labels)
        assert pair.mean == pytest.approx(float((one @ other.T).mean()))
        assert (pair.pairs, pair.highest) == (9, float((one @ other.T).max()))
        assert pair.above == int((one @ other.T > measured.positive).sum()) > 0
    evidence = sorted((9 / 10 * pair.mean for pair in found), reverse=True)  # of 9 pairs each
    assert [pair.evidence for pair in found] == pytest.approx(evidence)
    assert measured.suspicious.count == sum(pair.above for pair in found)
    assert measured.suspicious.cosines[0] == measured.every.highest
    assert max(expected_above(measured.every.counts, measured.positive)) < measured.suspicious.count
    assert suspicious_identities(*planted(0)) == []


def test_the_hardest_are_remembered_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, measured = planted(5)
    monkeypatch.setattr("topoface.diagnostics.pairs.sample.MOST_SUSPICIOUS", 4)
    few = measure(sample, [np.arange(180)], seed=0, where="run")
    assert few.suspicious.count == measured.suspicious.count > 4
    assert np.array_equal(few.suspicious.hardest, measured.suspicious.hardest[:4])


# --- runs ----------------------------------------------------------------------------------------------


def test_candidates_are_judged_on_all_their_images(runs: tuple[Path, Path]) -> None:
    run = open_run(str(runs[0]))
    sample = embed_sample(run, 30, 0, "run")
    measured = measure(sample, sampled_batches(run, sample.labels, 3, 0), seed=0, where="run")
    pairs = suspicious_identities(sample, measured)[:3]
    found = look_again(run, pairs, measured.positive)
    every = embed_sample(run, 72, 0, "run")
    for candidate in found:
        one, other = (every.rows[every.labels == label] for label in candidate.sampled.labels)
        assert candidate.images == (6, 6)
        assert candidate.mean == pytest.approx(float((one @ other.T).mean()), abs=1e-5)
        own = [float((rows @ rows.T)[np.triu_indices(6, 1)].mean()) for rows in (one, other)]
        assert candidate.own == pytest.approx(own, abs=1e-5)
        labels = [run.source.labels[position] for position in candidate.typical]
        assert tuple(labels) == candidate.sampled.labels
    assert [c.mean for c in found] == sorted((c.mean for c in found), reverse=True)


def test_the_page_says_what_the_numbers_say(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pairs", "distribution", *map(str, runs), "--batches", "4", "--count", "3"]
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    pictures = {f"pairs_{kind}_{k}.png" for kind in ("density", "tail") for k in (0, 1)}
    assert names == {"pairs.html", "pairs.json"} | pictures
    numbers = json.loads((tmp_path / "pairs.json").read_text())["runs"]
    assert set(numbers) == {"arcface", "magface"}
    first = numbers["arcface"]
    run = open_run(str(runs[0]))
    sample = embed_sample(run, 4096, 0, "run")  # all 72 images
    labels = sample.labels.tolist()
    every = slow.pairs(sample.rows.tolist(), labels, genuine=False)
    genuine = slow.pairs(sample.rows.tolist(), labels, genuine=True)
    classes = slow.class_negatives(sample.rows.tolist(), sample.centers.tolist(), labels)
    assert first["sup_impostor"] == pytest.approx(max(every), abs=1e-5)
    assert first["inf_genuine"] == pytest.approx(min(genuine), abs=1e-5)
    cl = first["sets"]["class_centers"]
    assert cl["wasserstein"] == pytest.approx(slow.wasserstein(classes, every), abs=1e-4)
    assert cl["kolmogorov_smirnov"] == pytest.approx(slow.kolmogorov_smirnov(classes, every), abs=0.01)
    assert first["suspicious_pairs"] == pytest.approx(
        sum(value > np.median(genuine) for value in every), abs=3
    )
    same = np.repeat([True, False], [len(genuine), len(every)])
    assert first["tar"]["0.01"]["value"] == pytest.approx(
        tar_at_far(np.array(genuine + every), same, 0.01), abs=0.02
    )
    assert f"{first['suspicious_pairs']:,} negative pairs are more alike than the median genuine pair" in said
    page = (tmp_path / "pairs.html").read_text()
    assert "MagFace" in page
    assert "magface − arcface" in page
    assert page.count('<figure class="face">') == 12  # 3 pairs of identities and 3 of images, of two runs
    assert "real faces" not in page  # these are drawn
    assert 'src="http' not in page


def test_balanced_batches_are_drawn_as_the_run_draws_them(runs: tuple[Path, Path]) -> None:
    run = open_run(str(runs[0]))
    labels = np.repeat(np.arange(12), 6)
    uniform = list(sampled_batches(run, labels, 9, 0))
    assert all(len(set(batch)) == len(batch) <= 16 for batch in uniform)
    assert len(uniform[0]) == 16
    run.recipe.data.sampling = "identity_balanced"
    run.recipe.data.images_per_identity = 4
    for batch in sampled_batches(run, labels, 5, 0):
        assert np.unique(labels[batch], return_counts=True)[1].tolist() == [4, 4, 4, 4]


def test_mistakes_are_one_line(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: object) -> str:
        out = tmp_path / "out"
        assert cli.main(["pairs", "distribution", *map(str, arguments), "--out", str(out)]) == 2
        assert not out.exists()
        *bars, line = capsys.readouterr().err.splitlines()
        assert "".join(bars).strip() == ""
        return line

    assert "is no run directory" in fails(tmp_path)
    assert "--samples: is 1; ask for" in fails(runs[0], "--samples", 1)
    assert "--batches: is 0; ask for 1 or more" in fails(runs[0], "--batches", 0)
    assert "--count: is 0; ask for 1 or more" in fails(runs[0], "--count", 0)
    assert "has no two images of one identity among 2 images" in fails(runs[0], "--samples", 2)


def test_one_identity_and_a_head_without_centers_are_refused(runs: tuple[Path, Path]) -> None:
    sample = drawn_sample(9, 1)
    with pytest.raises(UserError, match="has no two identities among 9 images"):
        measure(sample, [np.arange(9)], seed=0, where="run")

    class Centerless(torch.nn.Module):
        def forward(self, embeddings: Tensor, labels: Tensor) -> object:
            return type("Statistics", (), {"class_centers": None})

    run = open_run(str(runs[0]))
    run.head = Centerless()
    with pytest.raises(UserError, match="Centerless has no class centers"):
        embed_sample(run, 8, 0, "run")
