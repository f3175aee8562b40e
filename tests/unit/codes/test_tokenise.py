"""Trees and residual codes: unique and balanced whatever comes in, the same every time, exact where they can be (oracles 8 to 10)."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.oracles import code_vectors as oracle
from topoface.codes.clustering import squared_distances
from topoface.codes.packing import pack
from topoface.codes.residual import fit_books
from topoface.codes.tokenise import KINDS, MEANING, Kind, tokenise
from topoface.errors import UserError

TREES: tuple[Kind, ...] = ("arbitrary", "axis", "aligned", "rq", "shuffled")


def directions(count: int, dimension: int = 12, groups: int = 10, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(groups, dimension))[rng.integers(0, groups, count)]
    return oracle.unit(middle + 0.7 * rng.normal(size=(count, dimension))).astype(np.float32)


def assert_balanced(codes: np.ndarray, alphabets: tuple[int, ...]) -> None:
    """Under every prefix of more identities than tokens, children differ by one in size at most."""
    for level, k in enumerate(alphabets):
        below: dict[tuple[int, ...], list[int]] = {}
        for code in codes.tolist():
            below.setdefault(tuple(code[:level]), []).append(code[level])
        for tokens in below.values():
            counts = np.bincount(tokens, minlength=k)
            if len(tokens) > k:
                assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize(
    ("count", "k", "length"),
    [(1000, 10, 3), (1000, 10, 4), (617, 5, 4), (3000, 15, 3), (7, 7, 1), (50, 8, 2)],
)
def test_codes_are_unique_and_siblings_of_equal_size(kind: Kind, count: int, k: int, length: int) -> None:
    codes = tokenise(directions(count), [k] * length, kind=kind).codes
    assert len(np.unique(pack(codes, [k] * length))) == count
    assert_balanced(codes, (k,) * length)


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_alphabets_are_filled_to_the_last_code(kind: Kind) -> None:
    if kind == "rs":
        with pytest.raises(UserError, match="same prime"):
            tokenise(directions(60), (3, 5, 4), kind=kind)
        return
    codes = tokenise(directions(60), (3, 5, 4), kind=kind).codes
    assert sorted(pack(codes, (3, 5, 4)).tolist()) == list(range(60))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rs"])
def test_a_position_of_one_token_takes_part_like_the_others(kind: Kind) -> None:
    codes = tokenise(directions(20), (1, 4, 5), kind=kind).codes
    assert sorted(pack(codes, (1, 4, 5)).tolist()) == list(range(20))


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("rows", [np.full((500, 6), 0.4, np.float32), np.zeros((500, 6), np.float32)])
def test_equal_vectors_get_different_codes(kind: Kind, rows: np.ndarray) -> None:
    codes = tokenise(rows, (8, 8, 8), kind=kind).codes
    assert len(np.unique(pack(codes, (8, 8, 8)))) == 500


@pytest.mark.parametrize("kind", KINDS)
def test_more_identities_than_codes_are_refused(kind: Kind) -> None:
    with pytest.raises(UserError, match="27 codes for 28 identities"):
        tokenise(directions(28), (3, 3, 3), kind=kind)


@pytest.mark.parametrize("kind", TREES)
def test_the_same_vectors_get_the_same_codes(kind: Kind) -> None:
    rows = directions(400)
    one = tokenise(rows, (6, 6, 6, 6), kind=kind, seed=3)
    assert (one.codes == tokenise(rows, (6, 6, 6, 6), kind=kind, seed=3).codes).all()
    assert not (one.codes == tokenise(rows, (6, 6, 6, 6), kind=kind, seed=4).codes).all()


def test_threads_do_not_matter() -> None:
    script = (
        "import hashlib, numpy as np; from topoface.codes.tokenise import tokenise\n"
        "rows = np.random.default_rng(0).integers(-4, 5, size=(1500, 64)).astype(np.float32)\n"
        "for kind in ('aligned', 'rq'):\n"
        "    codes = tokenise(rows, (12, 12, 12), kind=kind).codes\n"
        "    print(hashlib.sha256(np.ascontiguousarray(codes, np.int64)).hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(said) == 1


def test_points_on_a_line_get_their_binary_digits() -> None:
    line = np.arange(8, dtype=np.float32)[:, None]
    codes = tokenise(line, (2, 2, 2), kind="axis").codes
    assert pack(codes, (2, 2, 2)).tolist() == list(range(8))


def test_points_on_a_circle_are_labelled_along_each_node_s_own_axis() -> None:
    angles = np.deg2rad([0, 10, 25, 45, 180, 195, 215, 240])
    codes = tokenise(
        np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32), (2, 2, 2), kind="axis"
    ).codes
    assert codes[:, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert codes[:, 1].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_first_tokens_are_clusters() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(5), 40)
    rows = oracle.unit(5 * rng.normal(size=(5, 16))[group] + rng.normal(size=(200, 16))).astype(np.float32)
    for kind in ("arbitrary", "axis", "aligned", "rq"):
        codes = tokenise(rows, (5, 40), kind=kind).codes
        assert len({tuple(codes[group == g, 0].tolist()) for g in range(5)}) == 5
        assert all(len(set(codes[group == g, 0].tolist())) == 1 for g in range(5))
    shuffled = tokenise(rows, (5, 40), kind="shuffled").codes
    assert all(len(set(shuffled[group == g, 0].tolist())) > 1 for g in range(5))


def test_tokens_are_used_evenly_where_nodes_have_few_members() -> None:
    rows = directions(2000, 24)
    for kind in ("rq", "aligned", "arbitrary"):
        codes = tokenise(rows, (30,) * 4, kind=kind).codes
        for position in codes.T:
            used = np.bincount(position, minlength=30)
            assert used.max() <= 1.8 * used.mean()
            assert used.min() >= 0.4 * used.mean()
        if kind == "rq":  # by prices alone: nodes of two members and fewer balance nothing
            for position in codes.T[2:]:
                assert np.bincount(position, minlength=30).max() <= 1.09 * 2000 / 30


def test_books_explain_the_vectors_of_codes_with_a_meaning() -> None:
    rows = directions(1500, 12)
    left = {}
    for kind in KINDS:
        shape = (17,) * 4
        made = tokenise(rows, shape, kind=kind)
        assert (made.books is not None) == (kind in MEANING)
        books = fit_books(rows, np.asarray(made.codes), shape)
        assert books.shape == (4 * 17, 12)
        sums = rows.mean(0) + sum(books[17 * j + made.codes[:, j].astype(int)] for j in range(4))
        left[kind] = float(((rows - sums) ** 2).sum() / ((rows - rows.mean(0)) ** 2).sum())
    assert left["rq"] < left["aligned"] < left["arbitrary"] < left["shuffled"]
    assert left["rq"] < 0.25
    assert min(left[kind] for kind in ("shuffled", "random", "rs", "numeric")) > 0.9


def test_large_trees_are_sought_in_leading_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    from topoface.codes import tree

    monkeypatch.setattr(tree, "LARGE", 100)
    monkeypatch.setattr(tree, "LEADING", 8)
    rows = directions(600, 20, groups=6)
    narrow = tree.leading_directions(rows)
    assert narrow.shape == (600, 8)
    kept = ((narrow - narrow.mean(0)) ** 2).sum() / ((rows - rows.mean(0)) ** 2).sum()
    spectrum = np.linalg.eigvalsh(np.cov(rows.T.astype(np.float64)))
    assert kept == pytest.approx(spectrum[-8:].sum() / spectrum.sum(), rel=1e-4)
    assert_balanced(tokenise(rows, (6, 10, 10), kind="arbitrary").codes, (6, 10, 10))


def test_integers_give_the_same_codes_with_loops_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from topoface.codes import assign

    rows = np.random.default_rng(0).integers(-4, 5, size=(512, 6)).astype(np.float32)
    one = {kind: tokenise(rows, (4, 4, 4, 4, 4), kind=kind).codes for kind in TREES}
    monkeypatch.setattr(assign, "compiled", lambda *_: None)
    for kind in TREES:
        other = tokenise(rows, (4, 4, 4, 4, 4), kind=kind).codes
        assert len(np.unique(pack(other, (4,) * 5))) == 512
        if kind == "arbitrary":
            assert (one[kind] == other).all()


def test_distances_are_those_between_rows_and_centers() -> None:
    rng = np.random.default_rng(0)
    rows, centers = (
        rng.normal(size=(2, 9, 5)).astype(np.float32),
        rng.normal(size=(2, 4, 5)).astype(np.float32),
    )
    expected = ((rows[:, :, None] - centers[:, None]) ** 2).sum(-1) - (rows**2).sum(-1)[..., None]
    np.testing.assert_allclose(squared_distances(rows, centers), expected, atol=1e-5)
